from __future__ import annotations

from typing import Any

import pytest

from kernel.config.policy import policy


def read(values: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, ...]]]:
    errors: list[tuple[str, ...]] = []
    return policy(values, lambda *error: errors.append(error)), errors


def test_networks_are_kept_in_one_spelling() -> None:
    made, errors = read({"ip_allow": ["10.0.0.0/8", "2001:DB8::/32", "192.0.2.7"], "ip_deny": []})
    assert made == {"ip_allow": ("10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32"), "ip_deny": ()}
    assert errors == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("10.0.0.1/8", "has host bits set: write 10.0.0.0/8"),
        ("somewhere", "not an IP address"),
        ("", "not an IP"),
    ],
)
def test_what_is_no_network_is_said_with_its_field(value: str, text: str) -> None:
    made, errors = read({"ip_deny": ["10.0.0.0/8", value], "timeout": 3})
    assert made == {"timeout": 3}
    ((field, problem, example),) = errors
    assert (field, example) == ("ip_deny", 'ip_deny = ["10.0.0.0/8"]')
    assert text in problem


def test_a_size_is_in_bytes() -> None:
    assert read({"max_body": "50MiB"})[0] == {"max_body": 50 * 1024**2}
    made, ((field, *_),) = read({"max_body": "much"})
    assert (made, field) == ({}, "max_body")
