"""`ca`, `client_cert` and `client_key` of a service: read once, and every flaw told at its field."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel.routing.catalog import Service, Trust
from tests.support.certificates import pair
from tests.support.config import File


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "gateway.toml")


def sales(file: File, **fields: object) -> Service:
    text = "\n".join(f'{name} = "{value}"' for name, value in fields.items())
    settings = file.load(f"[services.sales]\n{text}\n")
    return next(service for service in settings.service_catalog if service.name == "sales")


def test_without_them_the_systems_authorities_count(file: File) -> None:
    assert sales(file).trust is None


def test_the_files_are_read_once(file: File, tmp_path: Path) -> None:
    chain, key = pair(tmp_path)
    ca, secret = chain.read_bytes(), key.read_bytes()
    service = sales(file, ca=chain, client_cert=chain, client_key=key)
    assert service.trust == Trust(ca, ca + b"\n" + secret)
    assert b"PRIVATE" not in repr(service).encode()
    assert sales(file, ca=chain).trust == Trust(ca)
    assert sales(file, client_cert=chain, client_key=key).trust == Trust(b"", ca + b"\n" + secret)


@pytest.mark.parametrize(
    ("field", "other", "said"),
    [
        ("ca", {}, "the file {tmp}/none cannot be read: No such file or directory"),
        ("client_cert", {"client_key": "tls.key"}, "the file {tmp}/none cannot be read: No such file or directory"),
        ("client_key", {"client_cert": "tls.crt"}, "the file {tmp}/none cannot be read: No such file or directory"),
    ],
)  # fmt: skip
def test_a_file_that_is_missing(
    field: str, other: dict[str, str], said: str, file: File, tmp_path: Path
) -> None:
    pair(tmp_path)
    fields = {field: tmp_path / "none"} | {name: tmp_path / each for name, each in other.items()}
    assert errors(file, fields) == [(field, said.replace("{tmp}", str(tmp_path)))]


def errors(file: File, fields: dict[str, Path]) -> list[tuple[str, str]]:
    """(field, problem) of each error of [services.sales] with `fields`."""
    text = "\n".join(f'{name} = "{value}"' for name, value in fields.items())
    found = [
        line.removeprefix("gateway.toml [services.sales] ").partition(": ")
        for line in file.problems(f"[services.sales]\n{text}\n")
    ]
    return [(field, problem) for field, _, problem in found]


def test_what_the_files_must_hold(file: File, tmp_path: Path) -> None:
    chain, key = pair(tmp_path)
    _, stranger = pair(tmp_path, "other")
    _, locked = pair(tmp_path, "locked", passphrase=b"x")
    broken = tmp_path / "broken.crt"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    none = "the file holds no PEM certificate"
    assert errors(file, {"ca": key}) == [("ca", none)]
    assert errors(file, {"ca": broken})[0][1].startswith("the file cannot be used: ")
    assert errors(file, {"client_cert": key, "client_key": key}) == [("client_cert", none)]
    assert errors(file, {"client_cert": chain, "client_key": chain}) == [
        ("client_key", "the file holds no PEM private key")
    ]
    ((field, problem),) = errors(file, {"client_cert": chain, "client_key": stranger})
    assert field == "client_key"
    assert problem == "is not the key of the certificate in client_cert (key values mismatch)"
    ((field, problem),) = errors(file, {"client_cert": chain, "client_key": locked})
    assert field == "client_key"
    assert "without a passphrase" in problem


@pytest.mark.parametrize(("given", "missing"), [("client_cert", "client_key"), ("client_key", "client_cert")])
def test_neither_goes_without_the_other(given: str, missing: str, file: File, tmp_path: Path) -> None:
    chain, _ = pair(tmp_path)
    assert errors(file, {given: chain}) == [(missing, f"is needed beside {given}")]
