from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kernel.primitives.memo import keep


@given(st.lists(st.integers(0, 30)), st.integers(1, 8))
def test_the_newest_are_kept_and_never_more(keys: list[int], most: int) -> None:
    memo: dict[int, str] = {}
    for key in keys:
        if key not in memo:
            assert keep(memo, key, str(key), most) == str(key)
        assert len(memo) <= most
        assert memo[key] == str(key)
    seen = list(dict.fromkeys(keys))
    if len(seen) <= most:
        assert list(memo) == seen
