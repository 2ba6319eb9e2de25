"""Circuit breaker of one replica: when most of what it is sent fails it is left alone, then probed by a request now and then.

Two kinds of failure, over a window of ten seconds:
- A connection that could not be made, broke before a response or spoke no HTTP: at least five, and no fewer than the answers.
- A response that did not come in time says as much of what was asked as of who was asked: at least five, not one answer, and
  none to a question that is easy (see `Upstream`). A slow endpoint closes no other.

An error status is an answer. Only answers close an open breaker, whatever they were asked.
"""

from __future__ import annotations

from collections import deque

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"
_FAILURES = 5
_WINDOW_SECONDS = 10
# Of each kind, in a window: more are as good as these.
_REMEMBERED = 4096
_FIRST_SECONDS = 1.0
_LONGEST_SECONDS = 30.0
# A probe that hangs may have asked for the one thing that does: after this another may ask for something else.
_PROBE_SECONDS = 1.0


class Breaker:
    """`now` is loop time in seconds, always passed in, as is `answers`: how many the replica has given so far.

    PERF: answers are counted by whoever counts them anyway, and looked at once a second and at failures: none pays for it.
    """

    __slots__ = (
        "_answers",
        "_failed",
        "_late",
        "_probe_until",
        "_seconds",
        "opened",
        "silent",
        "troubled",
        "until",
    )

    def __init__(self) -> None:
        # Answers as they were in each of the last seconds; when what failed in the window did.
        self._answers: deque[int] = deque(maxlen=_WINDOW_SECONDS)
        self._failed: deque[float] = deque(maxlen=_REMEMBERED)
        self._late: deque[float] = deque(maxlen=_REMEMBERED)
        self._seconds = 0.0
        self._probe_until = 0.0
        self.until = 0.0
        self.opened = 0
        self.silent = False  # it is open because nothing was answered
        # False while it is closed: then nobody need call `admits`, `begin` or `success`.
        self.troubled = False

    def state(self, now: float) -> str:
        """closed, open or half-open."""
        if not self.troubled:
            return CLOSED
        return OPEN if now < self.until else HALF_OPEN

    def admits(self, now: float) -> bool:
        """Whether a request may be sent now; in half-open one at a time, or one a second while none is answered."""
        return not self.troubled or (now >= self.until and now >= self._probe_until)

    def begin(self, now: float) -> bool:
        """A request is being sent; True when it is the probe of an open breaker, which must be told how that ended."""
        if self.troubled:
            self._probe_until = now + _PROBE_SECONDS
        return self.troubled

    def abandon(self) -> None:
        """The probe ended without telling anything of the replica (its client left)."""
        self._probe_until = 0.0

    def success(self) -> None:
        """A response came."""
        if not self.troubled:
            return  # what it counts for is counted
        self.troubled = self.silent = False
        self._seconds = 0.0
        self._probe_until = 0.0
        self._failed.clear()
        self._late.clear()

    def relent(self, now: float) -> None:
        """There is reason to try again now."""
        self.until = min(self.until, now)
        self._probe_until = 0.0

    def roll(self, answers: int) -> None:
        """A second has passed."""
        self._answers.append(answers)

    def failure(self, now: float, answers: int) -> None:
        """No response came, and it was the replica's fault."""
        failed = self._failed
        failed.append(now)
        if self.troubled:
            if now >= self.until:  # else it is one of those sent before it opened
                self._open(now, self._seconds * 2)
            return
        count = _recent(failed, now)
        if count >= _FAILURES and count >= self._recent_answers(answers):
            self._open(now, _FIRST_SECONDS)

    def timeout(self, now: float, answers: int) -> bool:
        """No response came in time; True when it is to be opened by `silence`, if nothing else speaks against that."""
        late = self._late
        late.append(now)
        if self.troubled:
            # No longer than the first time: what is asked next may be something else.
            if now >= self.until:
                self._open(now, _FIRST_SECONDS)
            return False
        return _recent(late, now) >= _FAILURES and self._recent_answers(answers) <= 0

    def silence(self, now: float) -> None:
        """It answers nothing."""
        if not self.troubled:
            self._open(now, _FIRST_SECONDS)
            self.silent = True

    def _recent_answers(self, answers: int) -> int:
        before = self._answers
        return answers - before[0] if before else answers

    def _open(self, now: float, seconds: float) -> None:
        if not self.troubled:
            self.troubled = True
            self.opened += 1
        self._seconds = min(seconds, _LONGEST_SECONDS)
        self._probe_until = 0.0
        self.until = now + self._seconds


def _recent(times: deque[float], now: float) -> int:
    """How many are of this window; older ones are forgotten."""
    oldest = now - _WINDOW_SECONDS
    while times and times[0] < oldest:
        times.popleft()
    return len(times)
