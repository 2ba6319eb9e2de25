"""What a client is told of a body that does not fit: the field, what is wrong, what it takes."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta, Struct

from kernel.exchange.json_body import explain


class _Inner(Struct):
    window: Annotated[int, Meta(ge=1)]
    mode: Literal["open", "closed"] = "open"


class _Document(Struct, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1)]
    channels: list[Literal["sse", "email"]] | None = None
    inner: _Inner | None = None


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{}", "Object missing required field `name`."),
        (b'{"name": 5}', "`name`: expected `str`, got `int`."),
        (b'{"name": ""}', "`name`: expected `str` of length >= 1."),
        (b'{"name": "x", "more": 1}', "Object contains unknown field `more`."),
        (
            b'{"name": "x", "channels": ["sse", "pigeon"]}',
            "`channels[1]`: invalid enum value 'pigeon'; it takes email, sse.",
        ),
        (b'{"name": "x", "inner": {"window": 0}}', "`inner.window`: expected `int` >= 1."),
        (
            b'{"name": "x", "inner": {"window": 1, "mode": "ajar"}}',
            "`inner.mode`: invalid enum value 'ajar'; it takes closed, open.",
        ),
        (b"[]", "Expected `object`, got `array`."),
    ],
)
def test_the_field_comes_first_then_the_fault_then_what_it_takes(body: bytes, told: str) -> None:
    with pytest.raises(msgspec.ValidationError) as failure:
        msgspec.json.decode(body, type=_Document)
    assert explain(str(failure.value), _Document) == told
