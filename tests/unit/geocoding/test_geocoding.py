"""What clients may ask of the geocoder, how it is normalised, and how Nominatim's answers are read."""

from __future__ import annotations

import contextlib
import math
import unicodedata
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.platform.atlas import PLACES
from kernel.exchange.json_body import explain
from kernel.geocoding import questions
from kernel.geocoding.places import ATTRIBUTION, Garbage, Places, read
from kernel.geocoding.questions import Question, Reverse, Search
from kernel.http.problems import GatewayError


def search(**asked: Any) -> Question:
    return questions.search(msgspec.convert(asked, Search))


def parameters(question: Question) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(question.target).query, keep_blank_values=True))


def complaint(kind: type[Any], document: Any) -> str:
    """The detail of the refusal of `document`."""
    try:
        value = msgspec.json.decode(msgspec.json.encode(document), type=kind)
    except msgspec.ValidationError as error:
        return explain(str(error), kind)
    with pytest.raises(GatewayError) as refused:
        questions.search(value) if kind is Search else questions.reverse(value)
    assert refused.value.problem.kind.code == "body-invalid"
    return refused.value.problem.detail


def test_a_free_search_is_put_to_nominatim_with_its_parameters() -> None:
    asked = search(query="Puerta del Sol 8", countries=["ES", "pt", "es"], language="es-ES", limit=3)
    assert urlsplit(asked.target).path == "/search"
    assert parameters(asked) == {
        "format": "jsonv2",
        "addressdetails": "1",
        "q": "Puerta del Sol 8",
        "countrycodes": "es,pt",
        "accept-language": "es-es",
        "limit": "3",
    }


def test_an_address_in_parts_becomes_a_structured_search() -> None:
    asked = search(address={"street": "8 Rue du Cherche-Midi", "city": "Paris", "postal_code": "75006"})
    given_parts = parameters(asked)
    assert (given_parts["street"], given_parts["postalcode"]) == ("8 Rue du Cherche-Midi", "75006")
    assert "q" not in given_parts


def test_a_place_is_asked_for_to_about_a_metre() -> None:
    asked = questions.reverse(Reverse(lat=40.4165636, lon=-0.0000001))
    assert parameters(asked)["lat"] == "40.41656"
    assert parameters(asked)["lon"] == "0.00000"
    assert asked.key == questions.reverse(Reverse(lat=40.416561, lon=0.0)).key


@pytest.mark.parametrize(
    ("kind", "document", "field"),
    [
        (Search, {}, "`query`"),
        (Search, {"query": "   \n"}, "`query`"),
        (Search, {"query": "?!, -"}, "`query`"),
        (Search, {"query": "a\u0000b"}, "`query`"),
        (Search, {"query": "x" * 301}, "`query`"),
        (Search, {"query": 7}, "`query`"),
        (Search, {"query": None}, "`query`"),
        (Search, {"query": "a", "address": {"city": "b"}}, "`address`"),
        (Search, {"address": {}}, "`address`"),
        (Search, {"address": {"city": "\u0007x"}}, "`address.city`"),
        (Search, {"address": {"town": "x"}}, "`town`"),
        (Search, {"address": "Madrid"}, "`address`"),
        (Search, {"q": "Madrid"}, "`q`"),
        (Search, {"query": "a", "limit": 0}, "`limit`"),
        (Search, {"query": "a", "limit": 21}, "`limit`"),
        (Search, {"query": "a", "limit": "5"}, "`limit`"),
        (Search, {"query": "a", "countries": ["es", "esp"]}, "`countries[1]`"),
        (Search, {"query": "a", "countries": ["es\n"]}, "`countries[0]`"),
        (Search, {"query": "a", "countries": "es"}, "`countries`"),
        (Search, {"query": "a", "countries": ["es"] * 11}, "`countries`"),
        (Search, {"query": "a", "language": "es\n"}, "`language`"),
        (Search, {"query": "a", "language": "es,en;q=0.5"}, "`language`"),
        (Reverse, {"lat": 1}, "`lon`"),
        (Reverse, {"lat": 90.01, "lon": 0}, "`lat`"),
        (Reverse, {"lat": -90.01, "lon": 0}, "`lat`"),
        (Reverse, {"lat": 0, "lon": 180.01}, "`lon`"),
        (Reverse, {"lat": "0", "lon": 0}, "`lat`"),
        (Reverse, {"lat": None, "lon": 0}, "`lat`"),
        (Reverse, {"lat": 0, "lon": 0, "zoom": 19}, "`zoom`"),
        (Reverse, {"lat": 0, "lon": 0, "latitude": 1}, "`latitude`"),
    ],
)
def test_a_refusal_names_the_field(kind: type[Any], document: Any, field: str) -> None:
    assert field in complaint(kind, document)


@given(
    words=st.lists(
        st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8), min_size=1, max_size=5
    ),
    blanks=st.lists(st.sampled_from([" ", "  ", "\t", "\n", "\u00a0"]), min_size=6, max_size=6),
    form=st.sampled_from(["NFC", "NFD"]),
)
def test_case_blanks_and_composition_do_not_make_another_question(
    words: list[str], blanks: list[str], form: Any
) -> None:
    plain = " ".join(words)
    other = blanks[5] + "".join(word + blank for word, blank in zip(words, blanks, strict=False))
    assert search(query=plain).key == search(query=unicodedata.normalize(form, other)).key
    # What is caseless once is caseless twice: lower and upper spelling meet wherever Unicode pairs them.
    if plain.lower().casefold() == plain.upper().casefold():
        assert search(query=plain.upper()).key == search(query=plain.lower()).key


@given(st.one_of(st.text(max_size=320), st.none(), st.integers(), st.lists(st.text())), st.integers(-2, 25))
def test_any_search_is_a_sound_target_or_a_named_complaint(query: Any, limit: int) -> None:
    try:
        document = msgspec.json.encode({"query": query, "limit": limit})
        asked = questions.search(msgspec.json.decode(document, type=Search))
    except (msgspec.ValidationError, GatewayError, UnicodeEncodeError):
        return
    assert asked.target.isascii()
    assert not set(asked.target) & set(" \r\n#")
    assert parameters(asked)["q"] == " ".join(unicodedata.normalize("NFC", query).split())


@given(st.floats(-90, 90), st.floats(-180, 180), st.integers(3, 18))
def test_any_place_on_earth_is_a_sound_target(lat: float, lon: float, zoom: int) -> None:
    asked = questions.reverse(Reverse(lat=lat, lon=lon, zoom=zoom))
    sent = parameters(asked)
    assert math.isclose(float(sent["lat"]), lat, abs_tol=1e-5)
    assert math.isclose(float(sent["lon"]), lon, abs_tol=1e-5)
    assert "-0.00000" not in asked.target


def test_a_search_becomes_typed_places() -> None:
    found = read(msgspec.json.encode(PLACES[:1]), reverse=False)
    (place,) = found.results
    assert (place.lat, place.lon) == (40.4165636, -3.7046014)
    assert place.address.road == "Puerta del Sol"
    assert place.address.city == "Madrid"
    assert place.address.postal_code == "28013"
    assert (place.category, place.type, place.name) == ("shop", "pastry", "La Mallorquina")
    assert place.bounding_box is not None
    assert place.bounding_box.south < place.lat < place.bounding_box.north
    assert place.bounding_box.west < place.lon < place.bounding_box.east
    assert found.attribution == ATTRIBUTION


def test_a_village_is_the_city_of_its_address() -> None:
    village = next(place for place in PLACES if "village" in place["address"])
    assert read(msgspec.json.encode(village), reverse=True).results[0].address.city == "Anguiano"


def test_what_an_address_lacks_is_absent() -> None:
    document = msgspec.json.encode(read(b'{"lat":"1","lon":"2","display_name":"Atlantic"}', reverse=True))
    assert msgspec.json.decode(document)["results"] == [
        {"lat": 1.0, "lon": 2.0, "display_name": "Atlantic", "address": {}}
    ]


def test_nothing_there_is_an_empty_answer() -> None:
    assert read(b'{"error":"Unable to geocode"}', reverse=True).results == []
    assert read(b"[]", reverse=False).results == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>busy</html>",
        b"{}",
        b"null",
        b"[{}]",
        b'[{"lat":"x","lon":"1","display_name":"a"}]',
        b'[{"lat":"91","lon":"1","display_name":"a"}]',
        b'[{"lat":"nan","lon":"1","display_name":"a"}]',
        b'[{"lat":"1","lon":"1","display_name":"a","boundingbox":["1","2"]}]',
        b"[" * 100_000,
        b"\xff",
    ],
)
@pytest.mark.parametrize("reverse", [True, False])
def test_garbage_is_no_answer(body: bytes, reverse: bool) -> None:
    with pytest.raises(Garbage):
        read(body, reverse=reverse)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(["lat", "lon", "display_name", "address", "error", "boundingbox"]), x
            )
        ),
    ),
    st.booleans(),
)
def test_any_json_is_places_or_garbage(document: Any, reverse: bool) -> None:
    with contextlib.suppress(Garbage):
        assert isinstance(read(msgspec.json.encode(document), reverse=reverse), Places)
