"""An auth service under the test's control: key set, verdicts, refreshes. Counts what it is asked, and can hang."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from jwt.algorithms import get_default_algorithms

from tests.support.raw import Reply, ask, request
from tests.support.tokens import private_key

KEY_SET = "/.well-known/jwks.json"
VERIFY = "/api/v1/auth/verify"
REFRESH = "/api/v1/auth/refresh"
HOLD_SECONDS = 20.0


@dataclass
class Asked:
    """One call."""

    path: str
    headers: dict[str, str]
    document: Any


@dataclass
class AuthService:
    """`answers` maps a path to (status, body, headers), or to a callable of the call that gives it.

    While `held` is set, a path named there gets no answer.
    """

    port: int = 0
    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    go_on: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def key_set_url(self) -> str:
        return self.url + KEY_SET

    @property
    def calls(self) -> Counter[str]:
        return Counter(each.path for each in self.asked)

    def publish(self, **keys: str) -> None:
        """Let the key set be these: kid -> name of a key of tests.support.tokens."""
        self.answers[KEY_SET] = (200, {"keys": [jwk(kid, name) for kid, name in keys.items()]}, ())

    def reset(self) -> None:
        self.answers.clear()
        self.asked.clear()
        self.held.clear()
        self.go_on.set()
        self.go_on = threading.Event()


def jwk(kid: str, name: str) -> dict[str, Any]:
    """The public half of an RSA key."""
    public: Any = private_key(name).public_key()
    made: dict[str, Any] = get_default_algorithms()["RS256"].to_jwk(public, as_dict=True)
    return {**made, "kid": kid, "alg": "RS256", "use": "sig"}


@contextmanager
def auth_service() -> Iterator[AuthService]:
    """A running one, on a loopback port."""
    service = AuthService()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.path, headers, json.loads(body) if body else None)
            service.asked.append(asked)
            if self.path in service.held:
                service.go_on.wait(HOLD_SECONDS)
            answer = service.answers.get(self.path, (200, {}, ()))
            status, document, extra = answer(asked) if callable(answer) else answer
            raw = document if isinstance(document, bytes) else json.dumps(document).encode()
            if status == 204:
                raw = b""
            self.send_response(status)
            for name, value in extra:
                self.send_header(name, value)
            if status != 204:
                self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *args: Any) -> None:
            """A client that left is no error here."""

    server = Server(("127.0.0.1", 0), Handler)
    service.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()


def counter(port: int, name: str) -> float:
    """A sample of the gateway's /metrics; `name` with its labels, as it is written there. 0 when it is not there."""
    reply: Reply = ask(port, request(target=b"/metrics"))
    assert reply.status == 200
    for line in reply.body.decode().splitlines():
        if line.startswith(name + " "):
            return float(line.rpartition(" ")[2])
    return 0.0


def code(reply: Reply) -> tuple[int, str]:
    """Status and problem code."""
    return reply.status, "" if reply.status < 400 else str(json.loads(reply.body)["code"])
