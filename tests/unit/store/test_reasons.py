"""What a store's errors mean, however redis-py and the servers of several versions spell them."""

from __future__ import annotations

from typing import Any

import pytest
from redis import exceptions
from redis._parsers.base import BaseParser

from kernel.store.errors import StoreDown, StoreRefused
from kernel.store.reasons import DOUBTFUL, LOST, code, reason, text

PARSE: Any = BaseParser.parse_error


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("READONLY You can't write against a read only replica.", "read-only: You can't write"),
        ("LOADING Valkey is loading the dataset in memory", "loading: Valkey is"),
        ("CLUSTERDOWN The cluster is down", "cluster down: The cluster is down"),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", "master down: "),
        ("NOAUTH Authentication required.", "password refused: "),
        ("WRONGPASS invalid username-password pair or user is disabled.", "password refused: invalid"),
        ("BUSY Valkey is busy running a script.", "busy with a script: "),
        ("OOM command not allowed when used memory > 'maxmemory'.", "out of memory: "),
        ("NOPERM User default has no permissions to run the 'eval' command", "not permitted: "),
        ("MISCONF Errors writing to the AOF file: No space left on device", "cannot save its data: "),
        ("NOREPLICAS Not enough good replicas to write.", "too few replicas: "),
        # Redis before 7.0 hides them in another one.
        (
            "ERR Error running script (call to f_a0): @user_script:1: @user_script: 1: -READONLY You can't write",
            "read-only: ",
        ),
        (
            "ERR Error running script (call to f_a0): @user_script:87: @user_script: 87: -OOM command not allowed",
            "out of memory: ",
        ),
        ("ERR unknown command", "not reachable: unknown command"),
    ],
)
def test_a_servers_answer_has_one_reason(answer: str, expected: str) -> None:
    error = PARSE(answer)
    assert reason(error).startswith(expected)
    # And so has what was made of it for whoever asked.
    if expected.partition(":")[0] in DOUBTFUL.values():
        assert code(StoreRefused(text(error))) in DOUBTFUL


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(), "no answer in time"),
        (TimeoutError("no reply within 100 ms"), "no answer in time: no reply within 100 ms"),
        (exceptions.TimeoutError("Timeout connecting to server"), "no answer in time: Timeout"),
        (ConnectionRefusedError(111, "refused"), "not reachable: "),
        (exceptions.ClusterDownError("3 of 16384 slots are nobody's"), "cluster down: 3 of"),
        (StoreDown("read-only: as it was said"), "read-only: as it was said"),
        (RuntimeError("what is this"), "unexpected RuntimeError: what is this"),
    ],
)
def test_other_failures_have_one_too(error: Exception, expected: str) -> None:
    assert reason(error).startswith(expected)


def test_an_ordinary_refusal_is_no_reason_to_doubt() -> None:
    error = PARSE("WRONGTYPE Operation against a key holding the wrong kind of value")
    assert code(error) not in LOST.keys() | DOUBTFUL.keys()
    assert text(error).startswith("WRONGTYPE ")
    moved = PARSE("MOVED 3999 127.0.0.1:6381")
    assert text(moved) == "MOVED 3999 127.0.0.1:6381"
