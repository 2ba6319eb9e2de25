"""Files that variables name: found unusable by `check`, not by a server that does not start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernel.config import load
from tests.support.certificates import pair
from tests.support.config import problems


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, str]:
    chain, key = pair(tmp_path)
    return {"TLS_CERT_FILE": str(chain), "TLS_KEY_FILE": str(key)}


def test_a_certificate_and_its_key_are_sound(tls: dict[str, str]) -> None:
    assert str(load(tls).tls_cert_file) == tls["TLS_CERT_FILE"]


def test_http2_comes_with_tls_and_else_when_asked_for(tls: dict[str, str]) -> None:
    assert not load({}).http2
    assert load({"HTTP2": "true"}).http2
    assert load(tls).http2
    assert not load(tls | {"HTTP2": "false"}).http2


@pytest.mark.parametrize(
    ("one", "other"), [("TLS_CERT_FILE", "TLS_KEY_FILE"), ("TLS_KEY_FILE", "TLS_CERT_FILE")]
)
def test_one_needs_the_other(one: str, other: str, tls: dict[str, str]) -> None:
    assert problems({one: tls[one]}) == {other: f"is needed beside {one}"}


def test_both_must_be_readable(tls: dict[str, str], tmp_path: Path) -> None:
    found = problems(tls | {"TLS_KEY_FILE": str(tmp_path / "none"), "TLS_CERT_FILE": str(tmp_path)})
    assert found == {
        "TLS_CERT_FILE": "the file is not a regular file",
        "TLS_KEY_FILE": "the file cannot be read: No such file or directory",
    }


def test_each_must_hold_what_it_is_for(tls: dict[str, str], tmp_path: Path) -> None:
    swapped = {"TLS_CERT_FILE": tls["TLS_KEY_FILE"], "TLS_KEY_FILE": tls["TLS_CERT_FILE"]}
    assert problems(swapped) == {
        "TLS_CERT_FILE": "the file holds no PEM certificate",
        "TLS_KEY_FILE": "the file holds no PEM private key",
    }


def test_the_key_must_be_the_certificate_s(tls: dict[str, str], tmp_path: Path) -> None:
    _, other = pair(tmp_path, "other")
    problem = problems(tls | {"TLS_KEY_FILE": str(other)})["TLS_KEY_FILE"]
    assert problem.startswith("is not the key of the certificate in TLS_CERT_FILE (")
    broken = Path(tls["TLS_KEY_FILE"])
    broken.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    assert problems(tls)["TLS_KEY_FILE"].startswith("is not the key of the certificate")


def test_an_encrypted_key_is_refused_without_asking_for_its_passphrase(tmp_path: Path) -> None:
    chain, key = pair(tmp_path, passphrase=b"open sesame")
    found = problems({"TLS_CERT_FILE": str(chain), "TLS_KEY_FILE": str(key)})
    assert "is encrypted" in found["TLS_KEY_FILE"]


def test_the_audit_file_must_be_writable_and_in_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def problem(path: Path) -> str:
        return problems({"AUDIT_LOG_FILE": str(path)})["AUDIT_LOG_FILE"]

    sound = tmp_path / "audit.jsonl"
    assert load({"AUDIT_LOG_FILE": str(sound)}).audit_log_file == sound
    assert not sound.exists()
    assert problem(tmp_path / "none" / "audit.jsonl").startswith(f"there is no directory {tmp_path}/none")
    assert problem(tmp_path) == "is a directory: name a file in it"
    sound.touch()
    # The superuser, as whom tests may run, can write everywhere.
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != sound)
    assert problem(sound) == "the file cannot be written to"
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != tmp_path)
    assert problem(sound).startswith(f"the directory {tmp_path} cannot be written to")
    for beside in ("audit.jsonl.lock", "audit.jsonl.writers"):
        (tmp_path / beside).mkdir(exist_ok=True)
        monkeypatch.setattr(os, "access", lambda path, _mode, beside=beside: Path(path).name != beside)
        assert f"{tmp_path}/{beside} cannot be written to" in problem(sound)
        (tmp_path / beside).rmdir()
