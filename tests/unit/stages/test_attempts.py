"""Whose account a login is for: read from whatever anybody sends, in time that grows with its length alone."""

from __future__ import annotations

from contextlib import suppress
from time import process_time

import pytest

from kernel.stages.attempts import accounts_of

FORM = b"multipart/form-data; boundary=b"
DISPOSITION = b"Content-Disposition: form-data; name="


def part(name: bytes, value: bytes) -> bytes:
    return b"--b\r\n" + DISPOSITION + name + b"\r\nContent-Type: text/plain\r\n\r\n" + value + b"\r\n"


@pytest.mark.parametrize("name", [b'"email"', b"email", b'"email"; charset=utf-8', b'"email" '])
def test_the_part_of_a_form_that_names_the_account_is_found(name: bytes) -> None:
    body = part(b'"password"', b"x") + part(name, b" A@b.c ") + part(b'"EMAIL"', b"decoy") + b"--b--\r\n"
    assert accounts_of(FORM, body) == ("a@b.c",)


@pytest.mark.parametrize(
    "body",
    [
        part(b'"email"', b"a@b.c") + part(b'"email"', b"decoy"),
        part(b'"email"', b"a@b.c") + part(b'"x"; name="email"; name="username"', b"decoy"),
    ],
)
def test_a_form_that_services_may_read_in_two_ways_is_unreadable(body: bytes) -> None:
    with pytest.raises(ValueError, match="."):
        accounts_of(FORM, body)


def test_a_name_given_twice_hides_none() -> None:
    with pytest.raises(ValueError, match="."):
        accounts_of(b"application/x-www-form-urlencoded", b"username=victim&username=decoy")


@pytest.mark.parametrize(
    "piece",
    [
        b"content-disposition: ; name=email;",
        b"content-disposition:",
        b"content-disposition: name=password\r\n",
        b"content-disposition: ; name=email\r\na\r\n",
    ],
)
def test_no_form_keeps_the_worker_busy(piece: bytes) -> None:
    body = (piece * 16384)[:16384]
    began = process_time()
    with suppress(ValueError):
        accounts_of(FORM, body)
    assert process_time() - began < 1  # of 16 KiB one took 14 s
