"""A bounded memory of what was decided once."""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def keep(memo: dict[K, V], key: K, value: V, most: int) -> V:
    """Remember `value`, and forget the oldest when there would be more than `most`; gives `value` back.

    SECURITY: keys are often a client's or a service's: a flood of invented ones costs no memory, and what is usual is
    soon back.
    """
    if len(memo) >= most:
        del memo[next(iter(memo))]
    memo[key] = value
    return value
