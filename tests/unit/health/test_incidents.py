"""What is told of the store and the breakers: each change once."""

from __future__ import annotations

from typing import Any

from kernel.health.incidents import Incidents


class Notes:
    """Stands in for the log."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append(("info", event, fields))

    def warning(self, event: str, **fields: Any) -> None:
        self.lines.append(("warning", event, fields))

    def take(self) -> list[tuple[str, str]]:
        lines, self.lines = self.lines, []
        return [(level, event.partition(":")[0]) for level, event, _ in lines]


async def test_each_change_is_told_once() -> None:
    notes: Any = Notes()
    connected = True
    open_: list[tuple[str, str, str]] = []
    ejected: list[tuple[str, str, str]] = []
    tls: list[tuple[str, str, str]] = []
    incidents = Incidents(notes, lambda: (connected, "refused"), lambda: open_, lambda: ejected, lambda: tls)
    incidents.look()
    assert notes.take() == []
    connected = False
    incidents.look()
    assert notes.lines[0][2] == {"reason": "refused"}
    assert notes.take() == [("warning", "store lost")]
    open_ = [("sales", "a:1", ""), ("sales", "b:1", "")]
    incidents.look()
    incidents.look()
    assert notes.take() == [("warning", "breaker opened")] * 2
    connected = True
    open_ = [("sales", "b:1", "")]
    incidents.look()
    assert notes.lines[1][2]["replica"] == "a:1"
    assert notes.take() == [("info", "store back"), ("info", "breaker closed")]
    ejected = [("sales", "a:1", "")]
    incidents.look()
    incidents.look()
    assert notes.take() == [("warning", "replica ejected")]
    ejected = []
    incidents.look()
    assert notes.lines[0][2] == {"service": "sales", "replica": "a:1", "seconds": 0.0}
    assert notes.take() == [("info", "replica let back in")]
    for reason in ("unknown CA", "unknown CA", "expired"):
        tls = [("sales", "a:1", reason)]
        incidents.look()
    assert [line[2]["reason"] for line in notes.lines] == ["unknown CA", "expired"]
    assert notes.take() == [("warning", "TLS to a service failed")] * 2
    tls = []
    incidents.look()
    assert notes.take() == [("info", "TLS to a service works again")]
