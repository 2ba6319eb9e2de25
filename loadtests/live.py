"""Users of the live parts: pages that listen to alerts, and people who watch a model being trained."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from locust.env import Environment
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

ALERT, RESUME, ECHO, TRAINING = "alert", "alert stream", "echo", "training"
_PATIENCE = 20.0
Report = Callable[[str, str, float, int, Exception | None], None]


def reporter(environment: Environment) -> Report:
    """Tells locust of something that took `seconds` and was no plain request."""

    def report(kind: str, name: str, seconds: float, size: int, error: Exception | None) -> None:
        environment.events.request.fire(
            request_type=kind,
            name=name,
            response_time=1000 * seconds,
            response_length=size,
            exception=error,
            context={},
        )

    return report


def numbers(event_id: str) -> tuple[int, ...]:
    """An event's id, to be compared."""
    return tuple(map(int, event_id.split("-")))


class Listener:
    """One page: listens for a while, leaves, comes back with the last id; every id must be larger than the one before."""

    def __init__(self, url: str, token: str, address: str, report: Report) -> None:
        self._host = urlsplit(url).netloc
        self._headers = {"authorization": f"Bearer {token}", "x-forwarded-for": address}
        self._report = report
        self._last = ""

    def listen(self, alerts: int) -> None:
        """Take some alerts, then leave."""
        began = time.perf_counter()
        connection = http.client.HTTPConnection(self._host, timeout=_PATIENCE)
        try:
            headers = {**self._headers, **({"last-event-id": self._last} if self._last else {})}
            connection.request("GET", "/api/v1/alerts/stream", headers=headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise RuntimeError(f"{answer.status} {answer.read(120)!r}")
            resumed = bool(self._last)
            self._report("SSE", RESUME, time.perf_counter() - began, 0, None)
            for _ in range(alerts):
                self._take(answer, late=resumed)
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            self._report("SSE", RESUME, time.perf_counter() - began, 0, error)
        finally:
            connection.close()

    def _take(self, answer: http.client.HTTPResponse, *, late: bool) -> None:
        event_id = ""
        while True:
            line = answer.readline().decode()
            if not line:
                raise RuntimeError("the stream ended")
            if line.startswith("id: "):
                event_id = line[4:].strip()
            elif line.startswith("event: reset"):
                raise RuntimeError("alerts were lost")
            elif line.startswith("data: ") and event_id:
                break
        if self._last and numbers(event_id) <= numbers(self._last):
            raise RuntimeError(f"{event_id} came after {self._last}")
        self._last = event_id
        document: dict[str, Any] = json.loads(line[6:])
        sent = datetime.fromisoformat(str(document["timestamp"]).replace("Z", "+00:00"))
        age = (datetime.now(UTC) - sent).total_seconds()
        # A replayed alert is as old as the client was away.
        if not late and age < _PATIENCE:
            self._report("SSE", ALERT, max(0.0, age), len(line), None)


def train(url: str, token: str, address: str, report: Report, echoes: int) -> None:
    """Open a socket, send a few messages to and fro, train a model and watch it until it is done."""
    socket_url = url.replace("http", "ws", 1) + "/api/v1/training/ws"
    headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": address}
    began = time.perf_counter()
    try:
        with connect(socket_url, additional_headers=headers, proxy=None, open_timeout=_PATIENCE) as socket:
            for number in range(echoes):
                asked = time.perf_counter()
                socket.send(f"echo {number}")
                if socket.recv(timeout=_PATIENCE) != f"echo {number}":
                    raise RuntimeError("another message came back")
                report("WS", ECHO, time.perf_counter() - asked, 8, None)
            began = time.perf_counter()
            socket.send('{"train": "Croissant", "seconds": 0.5}')
            while json.loads(socket.recv(timeout=_PATIENCE))["status"] != "completed":
                pass
            report("WS", TRAINING, time.perf_counter() - began, 0, None)
    except (OSError, TimeoutError, RuntimeError, ValueError, WebSocketException) as error:
        report("WS", TRAINING, time.perf_counter() - began, 0, error)
