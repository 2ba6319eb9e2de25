"""What clients may ask, and how it is put to Nominatim: questions that mean the same have the same key."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated
from urllib.parse import quote, urlencode

from msgspec import Meta, Struct

from kernel.http.problems import BODY_INVALID, GatewayError

# Places of a coordinate's decimals: about a metre.
_DECIMALS = 5
# In the schema, but checked by hand: a regular expression is no help to whoever sent something else.
_COUNTRY = "[A-Za-z]{2}"
_LANGUAGE = "[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}"

_Text = Annotated[str, Meta(max_length=300)]
_Country = Annotated[str, Meta(examples=["es"], extra_json_schema={"pattern": f"^{_COUNTRY}$"})]
_Language = Annotated[
    str,
    Meta(
        max_length=35,
        description="Language of the answer (BCP 47); without one, each place's own.",
        examples=["es"],
        extra_json_schema={"pattern": f"^({_LANGUAGE})?$"},
    ),
]


class PostalAddress(Struct, forbid_unknown_fields=True):
    """An address in parts; at least one of them."""

    street: Annotated[str, Meta(max_length=300, description="House number and street.")] = ""
    city: _Text = ""
    county: _Text = ""
    state: _Text = ""
    country: _Text = ""
    postal_code: Annotated[str, Meta(max_length=40)] = ""


class Search(Struct, forbid_unknown_fields=True):
    """Where is this address? Either `query` or `address` is needed."""

    query: Annotated[
        str,
        Meta(max_length=300, description="The address as one text.", examples=["Puerta del Sol 8, Madrid"]),
    ] = ""
    address: PostalAddress | None = None
    countries: Annotated[
        list[_Country],
        Meta(max_length=10, description="Only places in these countries (ISO 3166-1 alpha-2)."),
    ] = []
    language: _Language = ""
    limit: Annotated[int, Meta(ge=1, le=20, description="The most places to answer with.")] = 5


class Reverse(Struct, forbid_unknown_fields=True):
    """What address is here?"""

    lat: Annotated[float, Meta(ge=-90, le=90, description="Degrees north.", examples=[40.41678])]
    lon: Annotated[float, Meta(ge=-180, le=180, description="Degrees east.", examples=[-3.70379])]
    zoom: Annotated[
        int, Meta(ge=3, le=18, description="3 a country, 10 a city, 16 a street, 18 a house.")
    ] = 18
    language: _Language = ""


class Question(Struct, frozen=True):
    """`key` is the same for all that ask the same; `target` is Nominatim's, below its base URL."""

    key: str
    target: str
    reverse: bool


def search(asked: Search) -> Question:
    """The question of a search. Raises GatewayError(BODY_INVALID) when it names no place, or in two ways."""
    if asked.address is not None and asked.query:
        raise GatewayError(BODY_INVALID("`address`: send either `query` or `address`, not both."))
    wanted: dict[str, str] = {}
    if asked.address is None:
        wanted["q"] = _tidy("query", asked.query)
        if not wanted["q"]:
            raise GatewayError(BODY_INVALID("`query`: send an address, here or in parts as `address`."))
    else:
        for name in asked.address.__struct_fields__:
            text = _tidy(f"address.{name}", getattr(asked.address, name))
            if text:
                wanted[name.replace("_", "")] = text
        if not wanted:
            raise GatewayError(BODY_INVALID("`address`: send at least one part, such as `city`."))
    for place, code in enumerate(asked.countries):
        if not re.fullmatch(_COUNTRY, code):
            raise GatewayError(BODY_INVALID(f"`countries[{place}]`: send a code of two letters, such as es."))
    countries = sorted({code.lower() for code in asked.countries})
    rest = {"limit": str(asked.limit)}
    if countries:
        rest["countrycodes"] = ",".join(countries)
    return _question("/search", wanted, {**rest, **_language(asked.language)}, False)


def reverse(asked: Reverse) -> Question:
    """The question of a reverse search, its place to about a metre. Raises GatewayError(BODY_INVALID)."""
    place = {"lat": _degrees(asked.lat), "lon": _degrees(asked.lon)}
    return _question("/reverse", place, {"zoom": str(asked.zoom), **_language(asked.language)}, True)


def _question(path: str, wanted: dict[str, str], rest: dict[str, str], backwards: bool) -> Question:
    folded = {name: unicodedata.normalize("NFC", value.casefold()) for name, value in wanted.items()}
    key = f"{path}?{urlencode(sorted({**folded, **rest}.items()))}"
    parameters = {"format": "jsonv2", "addressdetails": "1", **wanted, **rest}
    return Question(key, f"{path}?{urlencode(parameters, quote_via=quote)}", backwards)


def _language(code: str) -> dict[str, str]:
    if code and not re.fullmatch(_LANGUAGE, code):
        raise GatewayError(BODY_INVALID("`language`: send one language tag, such as es or pt-BR."))
    return {"accept-language": code.lower()} if code else {}


def _tidy(field: str, value: str) -> str:
    """`value` with single blanks and composed characters, "" when it is blank. Raises GatewayError(BODY_INVALID)."""
    text = " ".join(unicodedata.normalize("NFC", value).split())
    if any(unicodedata.category(each) in {"Cc", "Cs"} for each in text):
        raise GatewayError(BODY_INVALID(f"`{field}`: leave out control characters."))
    if text and not any(each.isalnum() for each in text):
        raise GatewayError(BODY_INVALID(f"`{field}`: send an address: there is no letter or digit in it."))
    return text


def _degrees(value: float) -> str:
    return f"{round(value, _DECIMALS) + 0.0:.{_DECIMALS}f}"
