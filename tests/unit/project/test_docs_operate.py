"""docs/operate.md names only what exists: metrics, labels, variables, routes, problem codes, log lines; its YAML is YAML."""

from __future__ import annotations

import configparser
import re
from typing import Any

import pytest
import yaml

from kernel.cli.reference import ROOT
from kernel.config.variables import VARIABLES
from kernel.http.problems import CATALOGUE
from kernel.routing.platform import ROUTES, SERVICES
from kernel.routing.trie import Trie
from kernel.telemetry.families import FAMILIES

TEXT = (ROOT / "docs" / "operate.md").read_text()
NAMES = {variable.name for variable in VARIABLES} | {service.env for service in SERVICES}
NAMES |= {f"{variable.name}_FILE" for variable in VARIABLES if variable.secret}
SOURCES = "".join(
    path.read_text() for folder in ("kernel", "handlers") for path in (ROOT / folder).rglob("*.py")
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def manifests() -> list[Any]:
    return [document for block in blocks("yaml") for document in yaml.safe_load_all(block)]


def kind(name: str) -> Any:
    (found,) = (each for each in manifests() if each.get("kind") == name)
    return found


def container() -> Any:
    (found,) = kind("Deployment")["spec"]["template"]["spec"]["containers"]
    return found


def rules() -> list[Any]:
    return [rule for each in manifests() for group in each.get("groups", ()) for rule in group["rules"]]


def served(method: str, path: str) -> bool:
    trie: Trie[None] = Trie()
    for row in ROUTES:
        trie.add(row.answered, row.pattern, None)
    return method in (trie.match(path.encode())[0] or {})


def test_every_metric_exists_with_the_labels_it_is_asked_by() -> None:
    found = re.findall(r"\b((?:gateway|process)_[a-z_]+)(?:\{([^}]*)\})?", TEXT)
    assert len(found) > 30
    for name, labels in found:
        family = FAMILIES.get(re.sub(r"_(?:bucket|sum|count)\Z", "", name)) or FAMILIES.get(name)
        assert family is not None, name
        asked = set(re.findall(r"([a-z_]+)[=!]~?\"", labels))
        assert asked <= {*family.labels, "job", "le"}, (name, asked)


def test_every_variable_exists() -> None:
    for name in re.findall(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b", TEXT):
        assert name in NAMES, name
    for name in (each["name"] for each in container()["env"]):
        assert name in NAMES, name


def test_every_route_exists() -> None:
    for method, path in re.findall(r"`(GET|POST|PUT|DELETE) (/[^\s`]*)`", TEXT):
        assert served(method, path.replace("{code}", "x")), path
    paths = set(re.findall(r"`(/(?:health|metrics|api|internal|docs)[^\s`]*)`", TEXT))
    paths |= set(re.findall(r"httpchk GET (\S+)", TEXT))
    paths |= {container()[f"{probe}Probe"]["httpGet"]["path"] for probe in ("liveness", "readiness")}
    assert {"/health/live", "/health/ready", "/metrics"} <= paths
    for path in paths:
        assert served("GET", path), path


def test_every_problem_code_exists_with_that_status() -> None:
    for status, code in re.findall(r"\b([345]\d\d) `([a-z-]+)`", TEXT):
        assert CATALOGUE[code].status == int(status), code
    for codes in re.findall(r'code=~?"([a-z|-]+)"', TEXT):
        assert set(codes.split("|")) <= set(CATALOGUE), codes


@pytest.mark.parametrize(
    "line",
    [
        "key set not loaded", "service unhealthy", "breaker opened", "breaker closed", "replica ejected",
        "replica let back in", "TLS to a service failed", "TLS to a service works again", "name of a service not resolved",
        "store lost: ", "store back",
        "granian does not take the callback lane", "worker stderr", "dies again and again",
        "open files are limited to ", "has changed, which takes a restart",
        "SIGHUP: the workers go on with the configuration they have",
    ],
)  # fmt: skip
def test_every_line_of_the_log_is_written_somewhere(line: str) -> None:
    assert line in TEXT
    assert line in SOURCES


def test_the_rules_are_named_once_and_say_how_bad_it_is() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) > 10
    assert len(names) == len(set(names))
    assert {rule["labels"]["severity"] for rule in rules()} == {"page", "ticket"}
    assert all(rule["expr"].count("(") == rule["expr"].count(")") for rule in rules())


def seconds_to_stop() -> float:
    defaults = {variable.name: variable.default for variable in VARIABLES}
    return float(defaults["DRAIN_SECONDS"]) + float(defaults["SHUTDOWN_GRACE_SECONDS"])


def test_the_pod_has_time_to_drain_and_runs_as_the_image_does() -> None:
    spec = kind("Deployment")["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] > seconds_to_stop()
    user = f"USER {spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}"
    assert user in (ROOT / "Dockerfile").read_text()
    assert f"EXPOSE {container()['ports'][0]['containerPort']}" in (ROOT / "Dockerfile").read_text()
    selector = kind("Service")["spec"]["selector"]
    assert selector.items() <= kind("Deployment")["spec"]["template"]["metadata"]["labels"].items()


def test_the_unit_reloads_by_the_signal_and_stops_after_the_grace() -> None:
    (block,) = blocks("ini")
    unit = configparser.RawConfigParser(strict=False)
    unit.read_string(block)
    assert unit["Service"]["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert unit["Service"]["KillMode"] == "mixed"
    assert float(unit["Service"]["TimeoutStopSec"]) > seconds_to_stop()
