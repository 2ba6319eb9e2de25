"""What must hold all the while, and the book of what happened.

- Every answer is a documented one: the service's own, or a problem with a code of the catalogue.
- An answer belongs to its request and its caller: the nonce and the user are the request's.
- No request waits longer than `BOUND`; those to an endpoint that hangs, as long as its timeout.
- A request reaches the service twice at most, a POST once.
- A revoked token is refused a second after its revocation, as long as the store is well.
- An alert is received once, in order, whatever happens to the store, and by every stream; none is lost. While the store is
  well that is within `ALERT_BOUND` of its publication.
- In the end memory and descriptors are back where they were.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

from kernel.http.problems import CATALOGUE
from tests.drills.wire import Answer

# Generous: two gateways, their load and their services share the cores of one machine. A hang is minutes.
BOUND = 4.0
# While the store is ill; a request waits for it 0.1 s at most.
STORE_BOUND = 2.0
ALERT_BOUND = 4.0
_SHOWN = 12


class Ledger:
    """`found` are violations, `codes` the answers, `broken` requests without one."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.codes: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()
        self.slowest = 0.0
        self.faults: Counter[str] = Counter()
        self.now = "nothing"

    def violation(self, what: str) -> None:
        """Something that must not happen, happened."""
        self.found.append(f"[{self.now}] {what}")

    def answer(self, what: str, answer: Answer, nonce: str, user: str, seconds: float, bound: float) -> None:
        """Judge one answer to the request `nonce` of `user`."""
        self.slowest = max(self.slowest, seconds)
        if seconds > bound:
            self.violation(f"{what} took {seconds:.1f} s ({answer.status})")
        if answer.headers.get("content-type") == "application/problem+json":
            code = json.loads(answer.body)["code"]
            self.codes[code] += 1
            if code not in CATALOGUE:
                self.violation(f"{what}: the problem {code} is in no catalogue")
            if code == "internal-error":
                self.violation(f"{what}: an internal error, request {answer.headers.get('x-request-id')}")
            return
        self.codes[str(answer.status)] += 1
        if answer.status not in {200, 500}:
            self.violation(f"{what}: {answer.status} without a problem")
            return
        document = json.loads(answer.body)
        if document["nonce"] != nonce:
            self.violation(f"{what}: got the answer to another request")
        elif document.get("user", user) != user:
            self.violation(f"{what}: reached the service as {document['user']!r}, not {user!r}")

    def arrivals(self, arrived: Counter[str]) -> None:
        """How often requests reached the service."""
        for nonce, count in arrived.items():
            most = 1 if nonce.startswith("POST") else 2
            if nonce and count > most:
                self.violation(f"request {nonce} reached the service {count} times")

    def lines(self) -> Iterable[str]:
        """The report."""
        yield "faults      " + ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        yield "answers     " + ", ".join(f"{code} {count}" for code, count in self.codes.most_common())
        yield "no answer   " + (
            ", ".join(f"{why} {count}" for why, count in self.broken.most_common()) or "none"
        )
        yield f"slowest     {self.slowest:.2f} s"
        yield f"violations  {len(self.found)}"
        yield from (f"  {text}" for text in self.found[:_SHOWN])
        if len(self.found) > _SHOWN:
            yield f"  and {len(self.found) - _SHOWN} more"
