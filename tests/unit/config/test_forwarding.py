"""`strip_prefix`, `rewrite` and headers of gateway.toml: what they come to, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.config.forwarding import reserved
from kernel.http.headers import FORWARD, TRUSTED, HeaderKinds
from kernel.routing.catalog import RouteRow
from tests.support.config import File

SCOPE = "/api/v1/tenants/{tenant_id}"


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "gateway.toml")


def rows(file: File, text: str) -> dict[str, RouteRow]:
    return {row.pattern: row for row in file.load(text).routes}


def route(pattern: str, *lines: str) -> str:
    return "\n".join(["[[routes]]", f'pattern = "{pattern}"', 'service = "pos"', *lines, ""])


@pytest.mark.parametrize(
    ("said", "plain", "scoped"),
    [
        ('strip_prefix = "/api/v1"', "/pos/**", "/tenants/{tenant_id}/pos/**"),
        ('strip_prefix = "/api/v1/pos"', "/**", "/**"),
        ('strip_prefix = "/api/v1/pos/"', "/**", "/**"),
        ('rewrite = "/v3/**"', "/v3/**", "/v3/**"),
        ('rewrite = ""', "", ""),
    ],
)
def test_what_a_service_says_holds_for_its_routes(file: File, said: str, plain: str, scoped: str) -> None:
    found = rows(file, f"[services.pos]\n{said}")
    assert found["/api/v1/pos/**"].rewrite == plain
    assert found[SCOPE + "/pos/**"].rewrite == scoped


def test_what_a_route_says_holds_below_a_tenant_too_and_takes_the_place_of_its_services(file: File) -> None:
    found = rows(
        file,
        """
        [services.pos]
        strip_prefix = "/api/v1"
        set_headers = {X-Colour = "blue"}
        remove_headers = ["x-debug"]
        """
        + route("/api/v1/pos/sales/{id}", 'rewrite = "/sold/{id}"', "set_headers = {}")
        + route("/api/v1/pos/**", 'strip_prefix = ""'),
    )
    for scope in ("/api/v1", SCOPE):
        assert found[f"{scope}/pos/sales/{{id}}"].rewrite == "/sold/{id}"
        assert found[f"{scope}/pos/sales/{{id}}"].set_headers == ()
        assert found[f"{scope}/pos/**"].rewrite == ""
        assert found[f"{scope}/pos/**"].set_headers == (("x-colour", "blue"),)
        assert found[f"{scope}/pos/**"].remove_headers == ("x-debug",)


def test_a_service_that_has_sockets_too_has_headers_of_its_answers_changed(file: File) -> None:
    found = rows(file, '[services.training]\nresponse_headers = {server = ""}\ntimeout = 7')
    assert found["/api/v1/training/**"].response_headers == (("server", ""),)
    socket = found["/api/v1/training/ws"]
    assert (socket.websocket, socket.response_headers, socket.timeout) == (True, (), 7)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('strip_prefix = "/api/v2"', "is not where /api/v1/pos/{id} begins"),
        ('strip_prefix = "/api/v1/po"', "is not where /api/v1/pos/{id} begins"),
        ('rewrite = "v3"', "starts with '/'"),
        ('rewrite = "/v3/{number}"', "names {number}, which the pattern has not; it has {id}"),
        ('rewrite = "/v3/{id}.json"', "'{id}.json' is not a literal"),
        ('rewrite = "/v3/**"', "ends in ** but the pattern does not"),
        ('rewrite = "/v3/**/x"', "'**' is not a literal"),
        ('rewrite = "/v3?x={id}"', "a path alone"),
        ('rewrite = "/v3#x"', "a path alone"),
        ('rewrite = "/a/../b"', "dot segment"),
        ('rewrite = "/a/%2e%2e/b"', "dot segment"),
        ('rewrite = "/a//b"', "empty segment"),
        ('rewrite = "/a b"', "percent-encoded"),
        ('rewrite = "/ñ"', "percent-encoded"),
        ('rewrite = "/a%0d%0a"', "control character"),
        ('rewrite = "/x"\nstrip_prefix = "/api/v1"', "one of them says what is sent"),
        ('set_headers = {"x colour" = "a"}', "is no name of a header"),
        ('set_headers = {"x-colour:" = "a"}', "is no name of a header"),
        ('set_headers = {x-colour = "a\\r\\nx-user-id: 1"}', "printable ASCII"),
        ('set_headers = {x-colour = "a\\u0000"}', "printable ASCII"),
        ('set_headers = {x-colour = "ñ"}', "printable ASCII"),
        ('set_headers = {x-colour = " a"}', "printable ASCII"),
        ('set_headers = {x-colour = ""}', "remove_headers removes"),
        ('set_headers = {x-colour = "a", X_Colour = "b"}', "there twice"),
        ('set_headers = {x-colour = "a"}\nremove_headers = ["X_COLOUR"]', "is in set_headers, too"),
        ('response_headers = {x-colour = "a\\nb"}', "printable ASCII"),
        ('websocket = true\nresponse_headers = {x-colour = "a"}', "a WebSocket has no answer"),
    ],
)
def test_what_could_not_be_meant_is_refused(file: File, line: str, problem: str) -> None:
    found = file.problems(route("/api/v1/pos/{id}", line))
    assert any(problem in each for each in found), found


@pytest.mark.parametrize(
    "name",
    [
        *(name.decode() for name in sorted(TRUSTED)),
        *("x-user-colour", "x-tenant-name", "x-subscription-plan", "x-gateway-x", "x-demo-x", "x-service-x"),
        *(
            "traceparent",
            "tracestate",
            "forwarded",
            "x-forwarded-for",
            "x-forwarded-x",
            "host",
            "authorization",
            "cookie",
        ),
        *(
            "content-length",
            "transfer-encoding",
            "te",
            "trailer",
            "upgrade",
            "connection",
            "keep-alive",
            "expect",
        ),
        *(
            "proxy-authorization",
            "proxy-x",
            "x-real-ip",
            "x-http-method-override",
            "x-original-url",
            "x-mirrored",
        ),
        *(
            "idempotency-key",
            "sec-websocket-protocol",
            "origin",
            "access-control-request-method",
            "x-refresh-token",
        ),
    ],
)
@pytest.mark.parametrize("field", ["set_headers", "remove_headers"])
def test_no_header_that_services_trust_is_set_or_removed_in_any_spelling(
    file: File, name: str, field: str
) -> None:
    for spelled in (
        name,
        name.upper(),
        name.title(),
        name.replace("-", "_"),
        name.title().replace("-", "_", 1),
    ):
        value = f'{{"{spelled}" = "1"}}' if field == "set_headers" else f'["{spelled}"]'
        (problem,) = file.problems(f"[services.pos]\n{field} = {value}")
        assert f"[services.pos] {field}: {spelled}: only the gateway" in problem


@pytest.mark.parametrize(
    "name",
    [
        *(
            "set-cookie",
            "location",
            "content-location",
            "www-authenticate",
            "content-length",
            "transfer-encoding",
        ),
        *("connection", "ratelimit", "x-ratelimit-limit", "access-control-allow-origin", "x-request-id"),
        *(
            "strict-transport-security",
            "deprecation",
            "sunset",
            "x-new-access-token",
            "x-subscription-status",
            "idempotent-replayed",
        ),
    ],
)
def test_nor_one_of_answers_that_the_gateway_says(file: File, name: str) -> None:
    for spelled in (name, name.title(), name.replace("-", "_")):
        for value in ("1", ""):
            (problem,) = file.problems(f'[services.pos]\nresponse_headers = {{"{spelled}" = "{value}"}}')
            assert f"{spelled}: only the gateway" in problem


@given(st.sampled_from(sorted(TRUSTED)), st.data())
def test_whatever_is_stripped_from_clients_is_reserved(name: bytes, data: st.DataObject) -> None:
    spelled = "".join(
        data.draw(st.sampled_from([letter.lower(), letter.upper(), *(["_"] if letter == "-" else [])]))
        for letter in name.decode()
    )
    assert HeaderKinds()[spelled.lower().encode()] != FORWARD
    assert reserved(spelled, "request")


def test_a_route_of_the_gateways_own_sends_nothing_that_could_be_rewritten(file: File) -> None:
    found = file.problems('[[routes]]\npattern = "/api/v1/alerts/stream"\nrewrite = "/x"')
    assert all("the gateway answers this route itself" in each for each in found)
