"""From when to when a certificate holds, and what is said of it."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pytest

from kernel.identity.certificates import doubt, validity
from tests.support.certificates import pair

DAY = 86400.0


def test_a_chain_holds_while_all_of_it_does(tmp_path: Path) -> None:
    leaf, _ = pair(tmp_path, "leaf", begins=timedelta(-10), ends=timedelta(60))
    authority, _ = pair(tmp_path, "authority", begins=timedelta(-5), ends=timedelta(40))
    begin, end = validity(leaf.read_bytes() + authority.read_bytes())
    now = time.time()
    assert begin == pytest.approx(now - 5 * DAY, abs=60)
    assert end == pytest.approx(now + 40 * DAY, abs=60)


@pytest.mark.parametrize(
    ("begins", "ends", "said"),
    [
        (-10, 15, ""),
        (-10, 13.5, "in 13 days"),
        (-10, 1.5, "in 1 day"),
        (-10, -1, "the certificate expired on 2"),
        (1, 40, "the certificate is not valid before 2"),
    ],
)
def test_what_is_said(tmp_path: Path, begins: float, ends: float, said: str) -> None:
    chain, _ = pair(tmp_path, begins=timedelta(begins), ends=timedelta(ends))
    found = doubt(chain.read_bytes())
    assert said in found if said else not found


@pytest.mark.parametrize(
    "text", [b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate_is_others_to_tell(text: bytes) -> None:
    assert doubt(text) == ""
    with pytest.raises(ValueError):  # noqa: PT011  # cryptography's, with words of its own
        validity(text)
