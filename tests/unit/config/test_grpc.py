"""`protocol = "grpc"`: the routes that rules make, what they demand, and what is refused with a word on what to do."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from hypothesis import given
from hypothesis import strategies as st

from kernel.cli import main
from kernel.config import Settings
from kernel.config.grpc_routes import routes
from kernel.config.loading import load_with_warnings
from kernel.config.rewrite import Table
from kernel.routing.catalog import RouteRow, Service
from kernel.routing.rpc import Grpc
from kernel.routing.trie import Trie
from kernel.transcoding.template import Template, order, parse
from tests.support.config import File
from tests.support.grpc_service import DESCRIPTORS

TABLE = f'[services.ovens]\nprotocol = "grpc"\ndescriptors = "{DESCRIPTORS}"\nurl = "grpc://ovens:50051"\n'


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "gateway.toml")


def made(directory: Path, *rules: str, streaming: tuple[str, ...] = ()) -> str:
    """A table for a service `ovens` whose methods have `rules`: `GET /path body`."""
    proto = FileDescriptorProto(
        name="o.proto", package="o", syntax="proto3", dependency=["google/api/annotations.proto"]
    )
    asked = proto.message_type.add(name="Asked")
    for number, name in enumerate(("id", "tenant_id", "name", "other"), 1):
        asked.field.add(name=name, number=number, type=FieldDescriptorProto.TYPE_STRING, label=1)
    asked.field.add(name="many", number=9, type=FieldDescriptorProto.TYPE_STRING, label=3)
    service = proto.service.add(name="S")
    for at, rule in enumerate(rules):
        method = service.method.add(name=f"M{at}", input_type=".o.Asked", output_type=".o.Asked")
        method.client_streaming = f"M{at}" in streaming
        http = method.options.Extensions[annotations_pb2.http]
        for place, each in enumerate(rule.split(" + ")):
            binding = http if place == 0 else http.additional_bindings.add()
            verb, path, *more = each.split()
            if verb in {"GET", "PUT", "POST", "DELETE", "PATCH"}:
                setattr(binding, verb.lower(), path)
            else:
                binding.custom.kind, binding.custom.path = verb, path
            binding.body = more[0] if more else ""
    files = FileDescriptorSet()
    for name in ("google/protobuf/descriptor.proto", "google/api/http.proto", "google/api/annotations.proto"):
        descriptor_pool.Default().FindFileByName(name).CopyToProto(files.file.add())
    files.file.append(proto)
    (directory / "o.binpb").write_bytes(files.SerializeToString())
    return '[services.ovens]\nprotocol = "grpc"\ndescriptors = "o.binpb"\nurl = "grpc://ovens:50051"\n'


def rows(settings: Settings) -> dict[str, RouteRow]:
    """`METHOD pattern` -> the row, of the service."""
    return {
        f"{method} {row.pattern}": row
        for row in settings.routes
        if row.service == "ovens"
        for method in sorted(row.answered)
    }


def names(settings: Settings) -> list[str]:
    return sorted(
        name for name in rows(settings) if "{tenant_id}" not in name and not name.startswith("HEAD")
    )


def test_rules_make_the_routes_and_nothing_else_does(file: File, tmp_path: Path) -> None:
    settings = file.load(
        made(tmp_path, "GET /api/v1/ovens/{id} + POST /api/v1/ovens/{id}:do *", "GET /api/v1/ovens/a")
    )
    assert names(settings) == [
        "GET /api/v1/ovens/a",
        "GET /api/v1/ovens/{id}",
        "POST /api/v1/ovens/a",  # which is an id to the method that has this verb
        "POST /api/v1/ovens/{id}",
    ]
    scoped = [
        name.replace("tenants/{tenant_id}/", "")
        for name in rows(settings)
        if "{tenant_id}" in name and not name.startswith("HEAD")
    ]
    assert sorted(scoped) == names(settings)


def test_demands_hold_for_what_lies_below_them(file: File, tmp_path: Path) -> None:
    table = made(tmp_path, "GET /api/v1/ovens/{name=**}", "POST /api/v1/ovens/admin/{id} *")
    settings = file.load(
        f'{table}min_tier = "professional"\n'
        '[[routes]]\npattern = "/api/v1/ovens/admin/**"\nservice = "ovens"\n'
        'min_tier = "enterprise"\nlimit = {requests = 5, window = 60}\n'
    )
    found = rows(settings)
    demanded = {
        name: (row.min_tier, row.limit_key) for name, row in found.items() if not name.startswith("HEAD")
    }
    admin = ("enterprise", "/api/v1/ovens/admin/**")
    assert demanded["GET /api/v1/ovens/**"] == ("professional", "")
    # A wide rule below a narrow demand has a route there, under that demand.
    assert demanded["GET /api/v1/ovens/admin/**"] == admin
    assert demanded["POST /api/v1/ovens/admin/{id}"] == admin
    assert demanded["GET /api/v1/ovens/admin/{id}"] == admin
    # And the same below a tenant.
    assert demanded["GET /api/v1/tenants/{tenant_id}/ovens/admin/**"][0] == "enterprise"


def test_all_that_a_route_says_holds_for_its_rules(file: File, tmp_path: Path) -> None:
    settings = file.load(
        made(tmp_path, "POST /api/v1/ovens/join *", "GET /api/v1/ovens/me")
        + '[[routes]]\npattern = "/api/v1/ovens/join"\nservice = "ovens"\npublic = true\nalways_writable = true\n'
    )
    found = rows(settings)
    assert found["POST /api/v1/ovens/join"].public
    assert found["POST /api/v1/ovens/join"].always_writable
    assert not found["GET /api/v1/ovens/me"].public
    # What is open at one path is not made so below a tenant.
    assert not found["POST /api/v1/tenants/{tenant_id}/ovens/join"].public


@pytest.mark.parametrize("name", ["auth", "demo-session", "notification", "tenant"])
def test_what_the_gateway_asks_itself_speaks_http(name: str, file: File, tmp_path: Path) -> None:
    prefix = {"demo-session": "demo", "tenant": "tenants", "notification": "notifications"}.get(name, name)
    made(tmp_path, f"GET /api/v1/{prefix}/{{tenant_id}}/x")
    problems = file.problems(
        f'[services.{name}]\nprotocol = "grpc"\ndescriptors = "o.binpb"\nurl = "grpc://a:1"\n'
    )
    assert (
        f"gateway.toml [services.{name}] protocol: is http: the gateway asks this service itself" in problems
    )


def test_a_built_in_service_may_speak_grpc(file: File, tmp_path: Path) -> None:
    made(tmp_path, "GET /api/v1/training/jobs/{id}")
    settings = file.load(
        '[services.training]\nprotocol = "grpc"\ndescriptors = "o.binpb"\nurl = "grpc://a:1"\n'
    )
    patterns = sorted(row.pattern for row in settings.routes if row.service == "training")
    assert patterns == ["/api/v1/tenants/{tenant_id}/training/jobs/{id}", "/api/v1/training/jobs/{id}"]


def test_a_rule_may_have_its_own_tenant(file: File, tmp_path: Path) -> None:
    settings = file.load(
        made(tmp_path, "GET /api/v1/tenants/{tenant_id}/ovens/{id}", "GET /api/v1/ovens/{other}")
    )
    row = rows(settings)["GET /api/v1/tenants/{tenant_id}/ovens/{id}"]
    assert [rule.call for rule in row.rules] == ["/o.S/M0"]


def test_a_rule_elsewhere_needs_a_route_there(file: File, tmp_path: Path) -> None:
    table = made(tmp_path, "GET /v1/ovens/{id}")
    (problem,) = file.problems(table)[:1]
    assert problem.startswith(
        "gateway.toml [services.ovens] descriptors: o.S.M0: /v1/ovens/{id} is outside of"
    )
    assert "[[routes]]" in problem
    settings = file.load(f'{table}[[routes]]\npattern = "/v1/ovens/**"\nservice = "ovens"\n')
    assert names(settings) == ["GET /v1/ovens/{id}"]


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (("GET /api/v1/ovens/{nothing}",), "o.S.M0 GET /api/v1/ovens/{nothing}: {nothing} names no field"),
        (("GET /api/v1/ovens/{many}",), "o.S.M0 GET /api/v1/ovens/{many}: {many} is no single value"),
        (("GET /api/v1/ovens/{id",), "o.S.M0 GET /api/v1/ovens/{id: the path is malformed"),
        (("POST /api/v1/ovens body",), "o.S.M0 POST /api/v1/ovens: the body is body, which is no field of o.Asked"),
        (("REPORT /api/v1/ovens",), "o.S.M0 REPORT /api/v1/ovens: no REPORT is served here"),
        (("GET /api/v1/ovens/{id}", "GET /api/v1/ovens/{name}"), "o.S.M0 and o.S.M1 have rules for the same requests"),
        (("GET /api/v1/ovens/{id}/a", "GET /api/v1/ovens/{tenant_id}/b"),
         "o.S.M1: /api/v1/ovens/{tenant_id}/b has {tenant_id} where other routes have {id}"),
        ((), "no method has a google.api.http rule that can be served"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_rule(rules: tuple[str, ...], said: str, file: File, tmp_path: Path) -> None:
    problems = file.problems(made(tmp_path, *rules))
    assert any(problem.partition("descriptors: ")[2].startswith(said) for problem in problems), problems


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            '[[routes]]\npattern = "/api/v1/ovens/none/x"\nservice = "ovens"\n',
            "has no effect: no rule lies there",
        ),
        ('[[routes]]\npattern = "/api/v1/ovens/ws"\nservice = "ovens"\nwebsocket = true\n', "is a WebSocket"),
        (
            '[[routes]]\npattern = "/api/v1/ovens/{id}"\nservice = "ovens"\nrewrite = "/x"\n',
            "rewrite and strip_prefix are for services that speak HTTP",
        ),
    ],
)
def test_routes_that_a_grpc_service_cannot_have(more: str, said: str, file: File, tmp_path: Path) -> None:
    problems = file.problems(made(tmp_path, "GET /api/v1/ovens/{id}") + more)
    assert any(said in problem for problem in problems), problems


def test_streams_of_clients_are_told_and_have_no_route(file: File, tmp_path: Path) -> None:
    file.path.write_text(made(tmp_path, "GET /api/v1/ovens", "POST /api/v1/ovens *", streaming=("M1",)))
    loaded = load_with_warnings({"GATEWAY_CONFIG": str(file.path)})
    told = [str(each) for each in loaded.warnings if "streaming" in str(each)]
    assert len(told) == 1
    assert "o.S.M1 is client streaming" in told[0]
    assert names(loaded.settings) == ["GET /api/v1/ovens"]


def _without_imports(data: bytes) -> bytes:
    found = FileDescriptorSet.FromString(data)
    own = [each for each in found.file if each.package == "bakery.ovens.v1"]
    return bytes(FileDescriptorSet(file=own).SerializeToString())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: b"", "descriptors: the file is no FileDescriptorSet"),
        (lambda data: data[:-100], "descriptors: the file is no FileDescriptorSet"),
        (lambda data: b"\xff" * 100, "descriptors: the file is no FileDescriptorSet"),
        (_without_imports, "which is not in it: add --include_imports"),
    ],
)
def test_a_file_that_is_none(change: Callable[[bytes], bytes], said: str, file: File, tmp_path: Path) -> None:
    (tmp_path / "o.binpb").write_bytes(change(DESCRIPTORS.read_bytes()))
    problems = file.problems(TABLE.replace(str(DESCRIPTORS), "o.binpb"))
    assert any(said in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('protocol = "grpc"', "descriptors: is needed: the FileDescriptorSet of the service"),
        (
            'protocol = "grpc"\ndescriptors = "none.binpb"',
            "none.binpb cannot be read: No such file or directory",
        ),
        ('descriptors = "o.binpb"', "descriptors: is for a service that speaks gRPC"),
        ('max_message = "4MiB"', "max_message: is for a service that speaks gRPC"),
        (
            f'protocol = "grpc"\ndescriptors = "{DESCRIPTORS}"\nmax_message = "much"',
            "max_message: 'much' is not a size",
        ),
        ('protocol = "soap"', "'soap' is not one of http, grpc"),
        ('url = "grpc://ovens"', "url: a grpc URL names its port: grpc://host:50051"),
    ],
)
def test_what_is_wrong_with_the_table(table: str, said: str, file: File) -> None:
    problems = file.problems(f"[services.ovens]\n{table}\n")
    assert any(said in problem for problem in problems), problems


def test_a_grpc_url_alone_makes_no_grpc_service(file: File) -> None:
    (problem,) = file.problems('[services.ovens]\nurl = "grpc://ovens:50051"\n')
    assert problem.startswith("OVENS_SERVICE_URL: is a grpc URL")


_WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"grpc", "google"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
from hypothesis import given
from hypothesis import strategies as st

from kernel.cli import main
sys.exit(main(["check"]))
"""


def test_without_the_extra_it_is_an_error_that_names_it(file: File) -> None:
    file.path.write_text(TABLE)
    ran = subprocess.run(
        [sys.executable, "-c", _WITHOUT],
        env={"GATEWAY_CONFIG": str(file.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 1, ran.stdout
    assert "pip install 'bakery-gateway[grpc]'" in ran.stderr
    assert "Traceback" not in ran.stderr


_IMPORTED = """
import sys
from kernel.config.loading import load
from kernel.server import worker
settings = load({"GATEWAY_CONFIG": sys.argv[1]} if sys.argv[1] else {})
looked_for = ("grpc", "google.protobuf", "kernel.transcoding", "kernel.upstream.grpc_channels")
print(sorted(name for name in looked_for if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("configured", "found"),
    [
        (False, "[]"),
        # The parent, which workers are forked from, reads descriptors; grpcio, which keeps threads, it never loads.
        (True, "['google.protobuf', 'kernel.transcoding']"),
    ],
)
def test_nothing_is_imported_that_is_not_needed(configured: bool, found: str, file: File) -> None:
    file.path.write_text(TABLE)
    named = str(file.path) if configured else ""
    ran = subprocess.run(
        [sys.executable, "-c", _IMPORTED, named], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.strip() == found


def test_commands_tell_of_it(
    file: File, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file.path.write_text(TABLE)
    monkeypatch.setenv("GATEWAY_CONFIG", str(file.path))
    monkeypatch.chdir(file.path.parent)

    def said(*arguments: str, code: int = 0) -> str:
        assert main(list(arguments)) == code
        return " ".join(capsys.readouterr().out.split())

    assert "gRPC ovens 12 methods served, without a route: Ovens/Record, Ovens/Internal" in said("check")
    assert "calls Ovens/UpdateOven" in said("routes")
    assert "calls /bakery.ovens.v1.Ovens/Heat" in said("explain", "POST", "/api/v1/ovens/7:heat")
    assert "404 route-unknown: /api/v1/ovens/{oven_id} has" in said(
        "explain", "POST", "/api/v1/ovens/7", code=1
    )


def test_bodies_have_the_bound_that_grpc_servers_have(file: File, tmp_path: Path) -> None:
    table = made(tmp_path, "POST /api/v1/ovens *")
    assert rows(file.load(table))["POST /api/v1/ovens"].max_body == 4 * 1024**2
    assert rows(file.load(table, MAX_BODY_BYTES="1MiB"))["POST /api/v1/ovens"].max_body == 1024**2
    assert rows(file.load(f'{table}max_body = "9MiB"\n'))["POST /api/v1/ovens"].max_body == 9 * 1024**2


_SEGMENTS = st.sampled_from(["a", "b", "{x}"])
_PATTERNS = st.lists(_SEGMENTS, min_size=0, max_size=3).flatmap(
    lambda parts: st.sampled_from([parts, [*parts, "**"]]).filter(bool).map("/".join)
)
_METHODS = st.sampled_from(["GET", "POST"])
_PATHS = ["/".join(each) for count in range(5) for each in itertools.product("abz", repeat=count)]


@given(
    demands=st.dictionaries(_PATTERNS, st.lists(_METHODS, unique=True), max_size=4),
    rules=st.lists(st.tuples(_METHODS, _PATTERNS), min_size=1, max_size=4, unique=True),
)
def test_no_rule_leads_around_a_demand(
    demands: dict[str, list[str]], rules: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever rules and demands overlap: a path has the demands that it would have if the service spoke HTTP, and goes to
    the method whose template is the narrowest."""
    prefix = "/api/v1/ovens"
    before = [RouteRow(pattern=f"{prefix}/**", service="ovens")]
    for pattern, methods in demands.items():
        limited = frozenset(methods) if methods else None
        made_row = RouteRow(pattern=f"{prefix}/{pattern}", methods=limited, service="ovens", min_tier=pattern)
        before = [each for each in before if each.pattern != made_row.pattern] + [made_row]
    bound = [f"{method} {prefix}/{re.sub('{x}', '*', pattern)}" for method, pattern in rules]
    made(directory := tmp_path_factory.getbasetemp(), *bound)
    table = Table(before)
    grpc = Grpc((directory / "o.binpb").read_bytes(), 1)
    service = Service("ovens", "OVENS", ("ovens",), tenant_scoped=False, grpc=grpc)
    wrong: list[str] = []
    routes(table, service, (), 1, lambda *what: wrong.append(what[0]), lambda doubt: None)
    assert not wrong
    first, second = _trie(before), _trie(table)
    for rest in _PATHS:
        path = f"{prefix}/{rest}".removesuffix("/").encode()
        for method in ("GET", "POST"):
            expected = (first.match(path)[0] or {}).get(method)
            taking = [
                rule
                for rule in bound
                if rule.startswith(method) and _template(rule).pattern().fullmatch(path)
            ]
            best = min(taking, key=lambda rule: order(_template(rule).shape), default=None)
            row = (second.match(path)[0] or {}).get(method)
            here = row.rules if row is not None else ()
            served = next((each for each in here if parse(each.template).pattern().fullmatch(path)), None)
            if expected is None or best is None:
                assert served is None, (path, method)
            else:
                assert served is not None, (path, method)
                assert served.call == f"/o.S/M{bound.index(best)}"
                assert row is not None
                assert row.min_tier == expected.min_tier, (path, method)


def _template(rule: str) -> Template:
    return parse(rule.split()[1])


def _trie(rows: Iterable[RouteRow]) -> Trie[RouteRow]:
    trie: Trie[RouteRow] = Trie()
    for row in rows:
        trie.add(row.answered, row.pattern, row)
    return trie


def test_two_spellings_of_a_pattern_are_told(file: File, tmp_path: Path) -> None:
    both = "".join(
        f'[[routes]]\npattern = "/api/v1/ovens/{{{name}}}/x"\nservice = "ovens"\n' for name in ("one", "two")
    )
    problems = file.problems(made(tmp_path, "GET /api/v1/ovens/{id}/x") + both)
    assert any("are one pattern: spell it in one way" in problem for problem in problems), problems


def test_what_the_gateway_answers_itself_is_not_a_rules(file: File, tmp_path: Path) -> None:
    made(tmp_path, "GET /api/v1/alerts/stream")
    problems = file.problems(
        '[services.alert-processor]\nprotocol = "grpc"\ndescriptors = "o.binpb"\nurl = "grpc://a:1"\n'
    )
    assert any("is answered by the gateway itself" in problem for problem in problems), problems


_NAMES = "metadata has names of a-z, 0-9, '-', '_' and '.', not gRPC's own"


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("preserve_host = true", "preserve_host: is for services that speak HTTP: leave it out"),
        ('health = "/healthz"', "health: is for services that speak HTTP: leave it out"),
        ('openapi = "/api.json"', "openapi: is for services that speak HTTP: leave it out"),
        (
            'strip_prefix = "/api/v1"',
            "rewrite and strip_prefix are for services that speak HTTP: gRPC is sent no path",
        ),
        (
            'set_headers = {"x-a#" = "1"}',
            "set_headers x-a#: metadata has names of a-z, 0-9, '-', '_' and '.', not gRPC's own",
        ),
        (
            'set_headers = {"grpc-x" = "1"}',
            "set_headers grpc-x: metadata has names of a-z, 0-9, '-', '_' and '.', not gRPC's own",
        ),
        ("graphql = true", "descriptors: graphql is for services that speak HTTP: leave it out"),
        ('versions.v2.prefix = "/v2"', "versions: is for services that speak HTTP: leave it out"),
        (
            'mirror = {url = "http://m:1", percent = 5}',
            "mirror: is for services that speak HTTP: leave it out",
        ),
    ],
)
def test_what_means_nothing_to_grpc_is_not_ignored(field: str, said: str, file: File, tmp_path: Path) -> None:
    problems = file.problems(f"{made(tmp_path, 'GET /api/v1/ovens')}{field}\n")
    assert any(problem.endswith(said) for problem in problems), problems
