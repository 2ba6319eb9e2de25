"""The platform's front end, as far as the gateway's streams need one: a page that logs in and shows a tenant's alerts."""

from __future__ import annotations

from pathlib import Path

import msgspec

from demo.platform.messages import Refusal, Request, Response
from demo.platform.server import Server
from demo.platform.world import PASSWORD, User

_PAGE = Path(__file__).with_name("front.html")


class Front:
    """Serves the page at `/`, for `user` unless its address names another account."""

    def __init__(self, user: User) -> None:
        script = _PAGE.read_text(encoding="utf-8")
        for name, value in (("ACCOUNT", user.email), ("PASSWORD", PASSWORD)):
            script = script.replace(name, msgspec.json.encode(value).decode())
        self._page = Response(
            200,
            script.encode(),
            (("content-type", "text/html; charset=utf-8"), ("cache-control", "no-store")),
        )
        self.server = Server(self._answer)

    def _answer(self, request: Request) -> Response:
        if request.path != "/" or request.method not in ("GET", "HEAD"):
            raise Refusal(404, "path-unknown", "There is one page here: /.")
        return self._page
