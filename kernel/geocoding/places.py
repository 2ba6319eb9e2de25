"""Nominatim's answers (format jsonv2), and what clients get of them.

Nominatim writes coordinates as text, names the town of an address by its size, and says "not found" with a 200.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

ATTRIBUTION = "© OpenStreetMap contributors, ODbL 1.0: https://www.openstreetmap.org/copyright"
_MOST = 40
# What a place may be called in its address, the larger settlement first.
_TOWNS = ("city", "town", "village", "municipality", "hamlet")
_QUARTERS = ("suburb", "city_district", "borough", "quarter", "neighbourhood")
_ROADS = ("road", "pedestrian", "square", "footway", "path")


class AddressParts(Struct, omit_defaults=True):
    """What is known of an address; what is not is absent."""

    house_number: str = ""
    road: str = ""
    quarter: str = ""
    city: str = ""
    county: str = ""
    state: str = ""
    postal_code: str = ""
    country: str = ""
    country_code: str = ""


class Box(Struct):
    """Degrees."""

    south: float
    north: float
    west: float
    east: float


class Place(Struct, omit_defaults=True):
    """A place found. `category` and `type` are OpenStreetMap's tag; `importance` is 0 to 1."""

    lat: float
    lon: float
    display_name: str
    address: AddressParts
    name: str = ""
    category: str = ""
    type: str = ""
    importance: float | None = None
    osm_type: str = ""
    osm_id: int | None = None
    bounding_box: Box | None = None


class Places(Struct):
    """The answer, best first. `attribution` is to be shown wherever the places are."""

    results: list[Place]
    attribution: str = ATTRIBUTION


class Garbage(Exception):
    """Not an answer of Nominatim's."""


_Latitude = Annotated[float, Meta(ge=-90, le=90)]
_Longitude = Annotated[float, Meta(ge=-180, le=180)]


class _Found(Struct):
    lat: _Latitude
    lon: _Longitude
    display_name: str
    address: dict[str, str] = {}
    name: str | None = None
    category: str | None = None
    type: str | None = None
    importance: float | None = None
    osm_type: str | None = None
    osm_id: int | None = None
    boundingbox: tuple[_Latitude, _Latitude, _Longitude, _Longitude] | None = None


class _NotFound(Struct):
    error: str | None = None


_search_decoder = msgspec.json.Decoder(Annotated[list[_Found], Meta(max_length=_MOST)], strict=False)
_reverse_decoder = msgspec.json.Decoder(_Found, strict=False)
_error_decoder = msgspec.json.Decoder(_NotFound)


def read(body: bytes, *, reverse: bool) -> Places:
    """Nominatim's answer to a search or a reverse search. Raises Garbage."""
    try:
        if not reverse:
            return Places([_place(found) for found in _search_decoder.decode(body)])
        if _error_decoder.decode(body).error is not None:
            return Places([])
        return Places([_place(_reverse_decoder.decode(body))])
    except (ValueError, RecursionError) as error:
        raise Garbage(str(error)) from None


def _place(found: _Found) -> Place:
    parts = found.address

    def first(*names: str) -> str:
        return next((parts[name] for name in names if parts.get(name)), "")

    box = found.boundingbox
    return Place(
        lat=found.lat,
        lon=found.lon,
        display_name=found.display_name,
        address=AddressParts(
            house_number=first("house_number"),
            road=first(*_ROADS),
            quarter=first(*_QUARTERS),
            city=first(*_TOWNS),
            county=first("county", "province", "state_district"),
            state=first("state"),
            postal_code=first("postcode"),
            country=first("country"),
            country_code=first("country_code"),
        ),
        name=found.name or "",
        category=found.category or "",
        type=found.type or "",
        importance=found.importance,
        osm_type=found.osm_type or "",
        osm_id=found.osm_id,
        bounding_box=None if box is None else Box(*box),
    )
