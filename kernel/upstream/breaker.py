"""Circuit breaker of one replica: after repeated failures it is left alone, then probed with one request at a time.

A failure is a connection that could not be made, broke, timed out or spoke no HTTP; an error status is an answer.
"""

from __future__ import annotations

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"
_FAILURES = 5
_FIRST_SECONDS = 1.0
_LONGEST_SECONDS = 30.0


class Breaker:
    """`now` is loop time in seconds, always passed in."""

    __slots__ = ("_failures", "_probing", "_seconds", "opened", "troubled", "until")

    def __init__(self) -> None:
        self._failures = 0
        self._seconds = 0.0
        self._probing = False
        self.until = 0.0
        self.opened = 0
        # False while nothing has failed: then nobody need call `admits`, `begin` or `success`.
        self.troubled = False

    def state(self, now: float) -> str:
        """closed, open or half-open."""
        if not self._seconds:
            return CLOSED
        return OPEN if now < self.until else HALF_OPEN

    def admits(self, now: float) -> bool:
        """Whether a request may be sent now; in half-open one at a time."""
        if not self._seconds:
            return True
        return now >= self.until and not self._probing

    def begin(self) -> bool:
        """A request is being sent; True when it is the probe of an open breaker, which must be told how that ended."""
        self._probing = bool(self._seconds)
        return self._probing

    def abandon(self) -> None:
        """The probe ended without telling anything of the replica (its client left)."""
        self._probing = False

    def success(self) -> None:
        """A response came."""
        self._failures = 0
        self._seconds = 0.0
        self._probing = False
        self.troubled = False

    def relent(self, now: float) -> None:
        """There is reason to try again now."""
        self.until = min(self.until, now)

    def failure(self, now: float) -> None:
        """None came, and it was the replica's fault."""
        self._failures += 1
        self._probing = False
        self.troubled = True
        if self._seconds:
            if now < self.until:
                return  # one of those sent before it opened
            self._seconds = min(self._seconds * 2, _LONGEST_SECONDS)
        elif self._failures >= _FAILURES:
            self._seconds = _FIRST_SECONDS
            self.opened += 1
        else:
            return
        self.until = now + self._seconds
