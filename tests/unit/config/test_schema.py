"""The JSON Schema of gateway.toml: what a gateway takes it takes, and it finds what editors can find."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from kernel.config import gateway_toml
from kernel.config.schema import schema
from kernel.config.tables import LIFE, ROUTE, SERVICE, VERSION
from tests.support.config import File

ROOT = Path(__file__).parents[3]
VALIDATOR = Draft202012Validator(schema())
WHOLE = "".join(
    [
        "[services.loyalty]\n",
        *(f"{name} = {field.example}\n" for name, field in SERVICE.items() if name != "versions"),
        "[[routes]]\n",
        *(f"{name} = {field.example}\n" for name, field in ROUTE.items()),
        "[services.loyalty.versions.v2]\n",
        *(f"{name} = {field.example}\n" for name, field in VERSION.items()),
        "[versions.v2]\n",
        *(f"{name} = {field.example}\n" for name, field in LIFE.items()),
        "[limits.tiers.enterprise]\nrequests = 6000\nwindow = 60\n",
        "[limits.tenants.t-1]\nrequests = 6000\nwindow = 60.5\n",
        '[alerts.channels]\nurgent = ["sse", "email"]\n',
    ]
)


def wrong(text: str) -> list[str]:
    # To a schema TOML's dates are strings.
    return [each.json_path for each in VALIDATOR.iter_errors(msgspec.to_builtins(tomllib.loads(text)))]


def test_it_is_a_schema_that_knows_every_field() -> None:
    Draft202012Validator.check_schema(schema())
    assert wrong(WHOLE) == []
    made: Any = schema()
    (services,) = made["properties"]["services"]["patternProperties"].values()
    assert set(services["properties"]) == set(SERVICE)
    assert set(made["properties"]["routes"]["items"]["properties"]) == set(ROUTE)
    (version,) = services["properties"]["versions"]["patternProperties"].values()
    assert set(version["properties"]) == set(VERSION)
    (version,) = made["properties"]["versions"]["patternProperties"].values()
    assert set(version["properties"]) == set(LIFE)
    assert all(each["description"].endswith(".") for each in services["properties"].values())


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[service.x]", "$"),
        ("[services.Bad_Name]", "$.services"),
        ("[services.x]\ncolour = 1", "$.services.x"),
        ("[services.x]\nurl = 5", "$.services.x.url"),
        ('[services.x]\nmin_tier = "gold"', "$.services.x.min_tier"),
        ('[services.x]\nhealth = "no slash"', "$.services.x.health"),
        ('[[routes]]\nservice = "x"', "$.routes[0]"),
        ('[[routes]]\npattern = ["/x"]', "$.routes[0].pattern"),
        ('[[routes]]\npattern = "/x"\nmethods = []', "$.routes[0].methods"),
        ('[[routes]]\npattern = "/x"\nlimit = {requests = 0, window = 60}', "$.routes[0].limit.requests"),
        ("[services.x.versions.two]", "$.services.x.versions"),
        ("[services.x.versions.v2]\nsunset = 5", "$.services.x.versions.v2.sunset"),
        ("[versions.v1]\nurl = 'http://x'", "$.versions.v1"),
        ("[limits.tiers.gold]\nrequests = 1\nwindow = 1", "$.limits.tiers"),
        ('[alerts.channels]\nurgent = ["pigeon"]', "$.alerts.channels.urgent[0]"),
    ],
)
def test_what_is_wrong_is_found_where_it_is(text: str, place: str, tmp_path: Path) -> None:
    assert wrong(text) == [place]
    # The gateway finds it, too.
    assert File(tmp_path / "gateway.toml").problems(text)


def test_the_examples_of_the_documentation_are_taken() -> None:
    texts = [
        block
        for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
        for block in re.findall(r"```toml\n(.*?)```", path.read_text(), re.DOTALL)
    ]
    example = re.search(
        r"\n\n(    \[services.*?)\n\nServices come first", gateway_toml.__doc__ or "", re.DOTALL
    )
    assert example
    for text in (*texts, re.sub(r"(?<=\S) {3,}\S.*", "", example[1])):
        assert wrong(text) == []
