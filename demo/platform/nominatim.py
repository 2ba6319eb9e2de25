"""A stub of Nominatim that insists on the public server's usage policy: who asks, and one request a second, are checked.

/search and /reverse, format jsonv2: https://nominatim.org/release-docs/latest/api/Overview/.
"""

from __future__ import annotations

import asyncio
import math
import re
import unicodedata
from collections.abc import Iterable
from typing import Any, NamedTuple

from demo.platform.atlas import PLACES
from demo.platform.messages import Request, Response, reply
from demo.platform.server import Server

# Names by which libraries call themselves when nobody told them otherwise.
_STOCK = re.compile(
    r"(?i)\s*(python|httpx|aiohttp|requests|urllib|curl|wget|java|okhttp|apache-httpclient|go-http-client|axios"
    r"|node|undici|ruby|php|guzzle|libwww|postman|insomnia|mozilla)"
)
_WORD = re.compile(r"[a-z0-9]+")
_STRUCTURED = ("amenity", "street", "city", "county", "state", "country", "postalcode")
# Kilometres within which something is found for a point.
_REACH = 25.0


class Arrival(NamedTuple):
    """A request as it came: `at` is the loop's time; `status` what it got."""

    at: float
    status: int
    target: str
    user_agent: str


class Nominatim:
    """The stub; `interval` is its limit in seconds. `answer`, when set, replaces every answer; while it is
    `silent` none comes at all."""

    def __init__(self, interval: float = 1.0) -> None:
        self.interval = interval
        self.arrivals: list[Arrival] = []
        self.answer: Response | None = None
        self.silent = False
        self.url = ""
        self.server = Server(self._dispatch)
        self._last = -math.inf

    async def start(self, host: str = "127.0.0.1") -> None:
        """Opens the port; one that was stopped comes back on the port it had."""
        port = int(self.url.rpartition(":")[2]) if self.url else 0
        self.url = f"http://{host}:{await self.server.start(host, port)}"

    async def stop(self) -> None:
        """Closes the port and every connection at once."""
        await self.server.stop()

    async def _dispatch(self, request: Request) -> Response:
        now = asyncio.get_running_loop().time()
        agent = request.header("user-agent")
        response = self._judge(request, agent, now)
        self.arrivals.append(Arrival(now, 0 if response is None else response.status, request.target, agent))
        if response is None:
            await asyncio.Event().wait()
            raise AssertionError
        return response

    def _judge(self, request: Request, agent: str, now: float) -> Response | None:
        if not agent.strip() or _STOCK.match(agent):
            return _html(
                403, "Access blocked", "You have violated the usage policy: identify your application."
            )
        since, self._last = now - self._last, now
        if since < self.interval:
            return _html(429, "Bandwidth limit exceeded", "No more than one request a second.")
        if self.silent:
            return None
        if self.answer is not None:
            return self.answer
        if request.method != "GET":
            return _html(405, "Method Not Allowed", "GET only.")
        arguments = request.arguments()
        if arguments.get("format") != "jsonv2":
            return _error(400, "Parameter 'format' must be one of: jsonv2 (this stub has no other)")
        if request.path == "/search":
            return self._search(arguments)
        if request.path == "/reverse":
            return self._reverse(arguments)
        return _html(404, "Not Found", "There is nothing here.")

    def _search(self, arguments: dict[str, str]) -> Response:
        parts = [arguments[name] for name in _STRUCTURED if name in arguments]
        if "q" in arguments and parts:
            return _error(
                400, "Structured query parameters (...) cannot be used together with 'q' parameter."
            )
        words = _words([arguments["q"]] if "q" in arguments else parts)
        if not words:
            return reply([])
        countries = set(filter(None, arguments.get("countrycodes", "").split(",")))
        found = [
            place
            for place in PLACES
            if words <= _words([place["display_name"], *place["address"].values()])
            and (not countries or place["address"]["country_code"] in countries)
        ]
        found.sort(key=lambda place: -float(place["importance"]))
        limit = min(max(int(arguments.get("limit", "10")), 1), 40)
        return reply([_detailed(place, arguments) for place in found[:limit]])

    def _reverse(self, arguments: dict[str, str]) -> Response:
        try:
            lat, lon = float(arguments["lat"]), float(arguments["lon"])
        except (KeyError, ValueError):
            return _error(400, "Parameter 'lat' missing.")
        house = arguments.get("zoom", "18") in {"17", "18"}
        near = [place for place in PLACES if house or place["category"] == "boundary"]
        nearest = min(near, key=lambda place: _kilometres(place, lat, lon))
        if _kilometres(nearest, lat, lon) > _REACH:
            return reply({"error": "Unable to geocode"})
        return reply(_detailed(nearest, arguments))


def _detailed(place: dict[str, Any], arguments: dict[str, str]) -> dict[str, Any]:
    if arguments.get("addressdetails", "1") == "1":
        return place
    return {name: value for name, value in place.items() if name != "address"}


def _words(texts: Iterable[str]) -> set[str]:
    """The words of `texts` without accents, as Nominatim's index has them."""
    plain = unicodedata.normalize("NFKD", " ".join(texts)).encode("ascii", "ignore").decode().lower()
    return set(_WORD.findall(plain))


def _kilometres(place: dict[str, Any], lat: float, lon: float) -> float:
    north = float(place["lat"]) - lat
    east = (float(place["lon"]) - lon) * math.cos(math.radians(lat))
    return 111.2 * math.hypot(north, east)


def _error(status: int, message: str) -> Response:
    return reply({"error": {"code": status, "message": message}}, status)


def _html(status: int, title: str, text: str) -> Response:
    page = f"<html><head><title>{title}</title></head><body><h1>{title}</h1><p>{text}</body></html>\n"
    return Response(status, page.encode(), (("content-type", "text/html; charset=utf-8"),))
