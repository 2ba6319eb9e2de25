"""`<NAME>_FILE`: every secret may come from a file, as with the images of docker-library."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernel.config import load, load_with_warnings
from kernel.config.variables import VARIABLES
from kernel.identity.keys import KeyConfigError
from kernel.identity.pem import load_public_keys
from tests.support.config import problems

SECRETS = [variable for variable in VARIABLES if variable.secret]


def test_the_secrets_are_these() -> None:
    assert {variable.name for variable in SECRETS} == {
        "ASSERTION_PRIVATE_KEY",
        "JWT_PUBLIC_KEY",
        "JWT_SECRET_KEY",
        "JWT_SERVICE_PUBLIC_KEY",
        "REDIS_PASSWORD",
        "REDIS_URL",
    }


@pytest.mark.parametrize("name", [variable.name for variable in SECRETS])
@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_a_secret_comes_from_its_file_without_the_line_feed_at_its_end(
    name: str, end: str, tmp_path: Path
) -> None:
    value = (
        "redis://:a-password-of-some-length@redis:6379/0" if name == "REDIS_URL" else "a secret of 20 bytes"
    )
    file = tmp_path / "secret"
    file.write_bytes((value + end).encode())
    by_file = load({"REDIS_HOST": "redis", f"{name}_FILE": str(file)})
    assert by_file == load({"REDIS_HOST": "redis", name: value})
    assert by_file != load({"REDIS_HOST": "redis"})


def test_blanks_of_a_password_in_a_file_stay(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(" p \n")
    assert (
        load({"REDIS_HOST": "redis", "REDIS_PASSWORD_FILE": str(file)}).redis_url
        == "redis://:%20p%20@redis:6379/0"
    )


def test_the_file_is_read_again_at_each_load(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    environ = {"JWT_SECRET_KEY_FILE": str(file)}
    file.write_text("a" * 32)
    assert load(environ).jwt_secret_keys == ("a" * 32,)
    file.write_text(f"{'b' * 32},{'a' * 32}\n")
    assert load(environ).jwt_secret_keys == ("b" * 32, "a" * 32)


@pytest.mark.parametrize("name", [variable.name for variable in SECRETS])
def test_both_set_is_an_error(name: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("from the file")
    found = problems({"REDIS_HOST": "redis", f"{name}_FILE": str(file), name: "redis://x" * 4})
    assert found == {f"{name}_FILE": f"is set beside {name}: only one of them can be"}


@pytest.mark.parametrize(
    ("contents", "complaint"),
    [
        (None, "the file cannot be read: No such file or directory"),
        (b"", "the file is empty"),
        (b"\n\r\n", "the file is empty"),
        (b"\xff\xfe", "the file is not UTF-8 text"),
        (b"x" * 65537, "the file is larger than 64KiB"),
    ],
)
def test_a_file_that_cannot_be_used_is_told(contents: bytes | None, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    if contents is not None:
        file.write_bytes(contents)
    # A store that is named by a file is named, even when the file cannot be read.
    found = problems({"ENVIRONMENT": "prod", "REDIS_URL_FILE": str(file)})
    assert found == {"REDIS_URL_FILE": complaint}


def test_a_pipe_or_device_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", str(tmp_path / "pipe"), str(tmp_path)):
        found = problems({"JWT_SECRET_KEY_FILE": path, "GATEWAY_CONFIG": path, "TLS_CERT_FILE": path})
        for name in ("JWT_SECRET_KEY_FILE", "GATEWAY_CONFIG", "TLS_CERT_FILE"):
            assert "not a regular file" in found[name]


def test_a_pipe_in_place_of_a_key_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(KeyConfigError, match="the file is not a regular file"):
        load_public_keys(str(tmp_path / "pipe"), "RS256")


def test_a_file_for_what_is_no_secret_is_warned_about() -> None:
    found = load_with_warnings({"PORT_FILE": "/run/secrets/port", "MY_FILE": "x"}).warnings
    assert [(each.variable, each.problem) for each in found] == [
        ("PORT_FILE", "is not read: only secrets come from files; set PORT")
    ]


def test_an_error_stands_where_its_variable_does(tmp_path: Path) -> None:
    found = problems({"PORT": "x", "JWT_SECRET_KEY_FILE": str(tmp_path / "no"), "CORS_ORIGINS": "x"})
    assert list(found) == ["PORT", "CORS_ORIGINS", "JWT_SECRET_KEY_FILE"]
