"""The gateway's JSON log as short lines for people, for the demo's terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

# A load test must not drown the terminal: of more requests than this in a second, only the number is shown; those that the
# gateway or a service failed are counted apart.
_PER_SECOND = 40
_STATUS_COLOURS = {2: "32", 3: "36", 4: "33", 5: "31"}


class Style:
    """Colours, or none."""

    def __init__(self, colour: bool) -> None:
        self.colour = colour

    def __call__(self, code: str, text: str) -> str:
        """`text` in the SGR attributes `code`, such as "1;36"."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text


class Follower:
    """Takes the log's bytes as they come. `people`: user id -> a name to show; `clock` gives seconds."""

    def __init__(
        self, style: Style, people: Mapping[str, str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._style = style
        self._people = people
        self._clock = clock
        self._rest = b""
        self._second = 0
        self._shown = {False: 0, True: 0}
        self._hidden = 0

    def feed(self, data: bytes) -> Iterator[str]:
        """The lines to show for another piece of the log; to be called with b"" too, from time to time."""
        yield from self._turn_second()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            record = parse(line)
            if record is None:
                yield self._style("2", printable(line.decode("utf-8", "replace")))
            elif record.get("event") == "request" and "status" in record:
                failed = int(record["status"]) >= 500
                self._shown[failed] += 1
                if self._shown[failed] <= _PER_SECOND:
                    yield self._request(record)
                else:
                    self._hidden += 1
            elif record.get("level") in ("warning", "error", "critical"):
                yield self._event(record)

    def _turn_second(self) -> Iterator[str]:
        second = int(self._clock())
        if second != self._second:
            if self._hidden:
                yield self._style("2", f"             ... and {self._hidden:,} more requests")
            self._second, self._shown, self._hidden = second, {False: 0, True: 0}, 0

    def _request(self, record: Mapping[str, Any]) -> str:
        style = self._style
        status = int(record["status"])
        who = self._people.get(str(record.get("user_id")), "") or str(record.get("service_name") or "")
        notes = [str(record.get("service") or ""), who, str(record.get("problem") or "")]
        return " ".join(
            (
                style("2", str(record.get("timestamp", ""))[11:19]),
                style(_STATUS_COLOURS.get(status // 100, "35"), str(status)),
                f"{record.get('method', ''):<7}",
                printable(f"{record.get('path', ''):<46}"),
                f"{record.get('duration_ms', 0):7.1f} ms ",
                style("2", printable(" ".join(note for note in notes if note))),
            )
        ).rstrip()

    def _event(self, record: Mapping[str, Any]) -> str:
        return f"{self._style('2', str(record.get('timestamp', ''))[11:19])} {self._style('31', summary(record))}"


def summary(record: Mapping[str, Any]) -> str:
    """A record's level, event and other fields on one line."""
    hidden = ("timestamp", "level", "event", "exception", "logger")
    fields = [f"{name}={value}" for name, value in record.items() if name not in hidden]
    return printable(" ".join([str(record.get("level")), str(record.get("event")), *fields]))


def parse(line: bytes) -> dict[str, Any] | None:
    """A JSON record; None for any other text."""
    try:
        record = msgspec.json.decode(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def printable(text: str) -> str:
    """SECURITY: a request's path may hold escape sequences; none reaches the terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
