"""One spelling of a tenant, whoever writes it."""

from __future__ import annotations

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.primitives.tenant_id import canonical

UUID = "6f1c9f0e-ab12-4cde-8f00-00000000000a"


@given(st.uuids(), st.lists(st.booleans(), min_size=36, max_size=36))
def test_a_uuid_is_one_in_any_case(tenant: uuid.UUID, capitals: list[bool]) -> None:
    text = str(tenant)
    spelled = "".join(char.upper() if capital else char for char, capital in zip(text, capitals, strict=True))
    assert canonical(spelled) == text


@given(st.uuids(), st.sets(st.integers(1, 31), max_size=8))
def test_no_other_spelling_of_a_uuid_is_a_second_tenant(tenant: uuid.UUID, dashes: set[int]) -> None:
    digits = tenant.hex
    spelled = "".join(f"-{char}" if place in dashes else char for place, char in enumerate(digits))
    assert uuid.UUID(spelled) == tenant, "a service may take it for the same"
    if dashes == {8, 12, 16, 20}:
        assert canonical(spelled) == str(tenant)
        return
    for each in (spelled, spelled.upper()):
        with pytest.raises(ValueError, match="dashes"):
            canonical(each)


@given(st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True))
def test_an_id_that_is_no_uuid_stays_as_it_is(tenant: str) -> None:
    if re.fullmatch(r"[0-9A-Fa-f]{32}", tenant.replace("-", "")) or tenant.startswith("eyJ"):
        return
    assert canonical(tenant) == tenant


@given(st.text(max_size=70))
def test_what_is_accepted_is_canonical_already_or_once_folded(text: str) -> None:
    try:
        tenant = canonical(text)
    except ValueError:
        return
    assert canonical(tenant) == tenant
    assert tenant.isascii()
    assert tenant.lower() == text.lower()


@pytest.mark.parametrize(
    "text",
    ["", "a b", "a:b", "*", "x" * 65, "\xff", "a\n", "ñ", f"{{{UUID}}}", f"urn:uuid:{UUID}", UUID + "\n",
     "%36f1c9f0e-ab12-4cde-8f00-00000000000a"],
)  # fmt: skip
def test_what_can_be_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="A tenant id has"):
        canonical(text)


@pytest.mark.parametrize("part", ["eyJhbGciOiJIUzI1NiJ9", "eyJ1c2VyX2lkIjoiZTA3Y2Y5YTIifQ"])
def test_a_tokens_part_is_no_tenant_and_is_not_quoted(part: str) -> None:
    with pytest.raises(ValueError, match="a part of a token") as error:
        canonical(part)
    assert part not in str(error.value)
