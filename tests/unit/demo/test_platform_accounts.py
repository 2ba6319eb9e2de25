"""The stub platform's auth, tenant and demo-session services."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import jwt
import pytest

from demo.platform.info import Info
from demo.platform.process import platform_process
from demo.platform.world import PASSWORD


@pytest.fixture(scope="module")
def info() -> Iterator[Info]:
    with platform_process() as running:
        yield running


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False) as client:
        yield client


@pytest.fixture
def auth(info: Info) -> str:
    return f"{info.urls['auth']}/api/v1/auth"


def service(info: Info) -> dict[str, str]:
    return {"authorization": f"Bearer {info.tokens['service']}"}


def email(info: Info, label: str) -> str:
    return next(account.email for account in info.accounts if account.label == label)


def login(http: httpx.Client, auth: str, address: str, **more: Any) -> dict[str, Any]:
    answer = http.post(f"{auth}/login", json={"email": address, "password": PASSWORD, **more})
    assert answer.status_code == 200
    document: dict[str, Any] = answer.json()
    return document


def claims(token: str) -> dict[str, Any]:
    payload: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return payload


# --- auth


def test_login_gives_a_token_with_the_platform_s_claims(info: Info, auth: str, http: httpx.Client) -> None:
    pair = login(http, auth, email(info, "owner").upper())
    payload = jwt.decode(
        pair["access_token"], info.environment["JWT_PUBLIC_KEY"], ["RS256"], issuer="bakery-auth"
    )
    assert payload["type"] == "access"
    assert payload["exp"] - payload["iat"] == pair["expires_in"] == 1800
    assert payload["tenant_id"] == info.tenants["owner"]
    assert payload["tenant_role"] == "owner"
    assert set(payload["subscription"]) == {"tier", "status", "valid_until"}
    assert payload["tenant_access"][0]["can_view_children"] is True
    assert payload["jti"]
    refresh = claims(pair["refresh_token"])
    assert (refresh["type"], refresh["exp"] - refresh["iat"]) == ("refresh", 7 * 24 * 3600)


def test_published_key_set_verifies_the_tokens(info: Info, http: httpx.Client) -> None:
    keys = jwt.PyJWKSet.from_dict(http.get(info.jwks_url).json())
    token = info.tokens["owner"]
    assert jwt.decode(token, keys[jwt.get_unverified_header(token)["kid"]], ["RS256"])["type"] == "access"


@pytest.mark.parametrize(
    "body",
    [{"email": "lucia@la-espiga.example", "password": "x"}, {"email": "nobody@x.example", "password": "x"}],
)
def test_wrong_credentials_are_401_without_saying_which(
    body: dict[str, str], auth: str, http: httpx.Client
) -> None:
    answer = http.post(f"{auth}/login", json=body)
    assert (answer.status_code, answer.json()["code"]) == (401, "credentials-invalid")


def test_login_without_a_password_is_422(auth: str, http: httpx.Client) -> None:
    assert http.post(f"{auth}/login", json={"email": "lucia@la-espiga.example"}).status_code == 422


def test_refresh_rotates_and_a_spent_token_ends_the_family(info: Info, auth: str, http: httpx.Client) -> None:
    first = login(http, auth, email(info, "owner"))
    second = http.post(f"{auth}/refresh", json={"refresh_token": first["refresh_token"]})
    assert claims(second.json()["access_token"])["jti"] != claims(first["access_token"])["jti"]
    spent = http.post(f"{auth}/refresh", json={"refresh_token": first["refresh_token"]})
    assert (spent.status_code, spent.json()["code"]) == (401, "refresh-token-spent")
    after = http.post(f"{auth}/refresh", json={"refresh_token": second.json()["refresh_token"]})
    assert after.status_code == 401


def test_refresh_takes_no_access_token(info: Info, auth: str, http: httpx.Client) -> None:
    answer = http.post(f"{auth}/refresh", json={"refresh_token": info.tokens["owner"]})
    assert (answer.status_code, answer.json()["code"]) == (401, "refresh-token-invalid")


def test_refresh_by_cookie_sets_the_new_cookie(info: Info, auth: str, http: httpx.Client) -> None:
    login(http, auth, email(info, "owner"), remember=True)
    before = http.cookies["refresh_token"]
    assert http.post(f"{auth}/refresh").status_code == 200
    assert http.cookies["refresh_token"] != before


def test_logout_ends_the_refresh_token_and_the_access_token(
    info: Info, auth: str, http: httpx.Client
) -> None:
    pair = login(http, auth, email(info, "owner"))
    bearer = {"authorization": f"Bearer {pair['access_token']}"}
    token = {"refresh_token": pair["refresh_token"]}
    assert http.post(f"{auth}/logout", json=token, headers=bearer).status_code == 204
    assert http.post(f"{auth}/refresh", json=token).status_code == 401
    verdict = http.post(f"{auth}/verify", json={"token": pair["access_token"]}, headers=service(info)).json()
    assert verdict == {"active": False, "reason": "logged out"}


def test_register_founds_a_bakery_on_trial(auth: str, http: httpx.Client) -> None:
    body = {
        "email": f"{uuid.uuid4().hex}@nueva.example",
        "password": "secreto largo",
        "full_name": "Eva",
        "tenant_name": "La Nueva",
    }
    made = http.post(f"{auth}/register", json=body)
    assert made.status_code == 201
    assert claims(made.json()["access_token"])["subscription"]["status"] == "trialing"
    assert http.post(f"{auth}/register", json=body).status_code == 409


def test_verify_tells_services_and_nobody_else(info: Info, auth: str, http: httpx.Client) -> None:
    body = {"token": info.tokens["owner"]}
    assert http.post(f"{auth}/verify", json=body).status_code == 403
    owner = {"authorization": f"Bearer {info.tokens['owner']}"}
    assert http.post(f"{auth}/verify", json=body, headers=owner).status_code == 403
    verdict = http.post(f"{auth}/verify", json=body, headers=service(info)).json()
    assert verdict == {"active": True, "claims": claims(info.tokens["owner"])}
    head, payload, _ = info.tokens["owner"].split(".")
    forged = http.post(f"{auth}/verify", json={"token": f"{head}.{payload}.AAAA"}, headers=service(info))
    assert forged.json()["active"] is False


def test_me_is_the_user_the_gateway_vouches_for(info: Info, auth: str, http: httpx.Client) -> None:
    user = claims(info.tokens["staff"])["user_id"]
    me = http.get(f"{auth}/me", headers={"x-user-id": user}).json()
    assert me["email"] == email(info, "staff")
    assert set(me["tenants"]) == {info.tenants["staff"], info.tenants["second_owner"]}
    assert http.get(f"{auth}/me").status_code == 403


# --- tenant


def as_owner(info: Info, label: str = "owner") -> dict[str, str]:
    """What the gateway would inject."""
    return {
        "x-tenant-id": info.tenants[label],
        "x-user-id": claims(info.tokens[label])["user_id"],
        "x-user-role": claims(info.tokens[label])["tenant_role"],
        "x-user-type": "access",
    }


def test_hierarchy_leads_from_an_outlet_to_its_group(info: Info, http: httpx.Client) -> None:
    url = f"{info.urls['tenant']}/api/v1/tenants/{info.tenants['staff']}/hierarchy"
    placed = http.get(url, headers=service(info)).json()
    assert placed["ancestors"] == [info.tenants["owner"]] == [placed["parent_id"]]
    assert http.get(url, headers=as_owner(info)).status_code == 403
    group = f"{info.urls['tenant']}/api/v1/tenants/{info.tenants['owner']}"
    children = http.get(f"{group}/children", headers=as_owner(info)).json()["items"]
    assert len(children) == 2
    assert info.tenants["staff"] in {child["id"] for child in children}


def test_list_shows_the_caller_s_tenants(info: Info, http: httpx.Client) -> None:
    url = f"{info.urls['tenant']}/api/v1/tenants"
    assert http.get(url, headers=as_owner(info)).json()["total"] == 3
    assert http.get(url, headers=as_owner(info, "second_owner")).json()["total"] == 1


def test_changed_subscription_is_in_the_next_token(info: Info, auth: str, http: httpx.Client) -> None:
    url = f"{info.urls['tenant']}/api/v1/tenants/{info.tenants['starter']}/subscription"
    headers = as_owner(info, "starter")
    assert http.put(url, json={"tier": "diamond"}, headers=headers).status_code == 422
    assert http.put(url, json={"tier": "enterprise"}, headers=headers).json()["tier"] == "enterprise"
    assert http.put(url, json={}, headers={**headers, "x-user-role": "baker"}).status_code == 403
    pair = login(http, auth, email(info, "starter"))
    assert claims(pair["access_token"])["subscription"]["tier"] == "enterprise"
    own = f"{info.urls['tenant']}/api/v1/subscriptions"
    assert http.get(own, headers=headers).json()["tier"] == "enterprise"


def test_payment_revives_an_expired_subscription(info: Info, http: httpx.Client) -> None:
    base = f"{info.urls['tenant']}/api/v1/tenants/{info.tenants['expired']}"
    headers = as_owner(info, "expired")
    now = datetime.now(UTC).isoformat()
    assert http.get(f"{base}/subscription", headers=headers).json()["valid_until"] < now
    paid = http.post(f"{base}/billing/payments", json={"months": 2}, headers=headers)
    assert paid.status_code == 201
    assert http.get(f"{base}/subscription", headers=headers).json()["valid_until"] > now
    assert http.get(f"{base}/billing", headers=headers).json()["price_eur_month"] == 29
    assert http.get(f"{base}/billing/invoices", headers=headers).json()["total"] == 3


@pytest.mark.parametrize(
    ("operation", "who", "allowed"),
    [
        ("delete-tenant", "second_owner", True),
        ("change-subscription", "second_owner", True),
        ("delete-tenant", "staff", False),
        ("delete-tenant", "owner", False),
        ("launch-rocket", "second_owner", False),
    ],
)
def test_verify_allows_critical_operations_to_owners(
    operation: str, who: str, allowed: bool, info: Info, http: httpx.Client
) -> None:
    url = f"{info.urls['tenant']}/api/v1/tenants/{info.tenants['second_owner']}/verify"
    body = {"operation": operation, "user_id": claims(info.tokens[who])["user_id"]}
    verdict = http.post(url, json=body, headers=service(info)).json()
    assert verdict["allowed"] is allowed
    assert bool(verdict["reason"]) is not allowed
    assert http.post(url, json=body).status_code == 403


def test_clone_is_deleted_with_its_data(info: Info, http: httpx.Client) -> None:
    base = info.urls["tenant"]
    body = {"source_tenant_id": info.tenants["owner"]}
    assert http.post(f"{base}/api/v1/tenant/clone", json=body).status_code == 403
    copy = http.post(f"{base}/api/v1/tenant/clone", json=body, headers=service(info)).json()["id"]
    headers = {**as_owner(info), "x-tenant-id": copy}
    items = f"{info.urls['inventory']}/api/v1/inventory/items"
    assert http.get(items, headers=headers).json()["total"] > 0
    url = f"{base}/api/v1/tenants/{copy}"
    assert http.delete(url, headers={**headers, "x-user-role": "baker"}).status_code == 403
    assert http.delete(url, headers=headers).status_code == 204
    assert http.get(url, headers=headers).status_code == 404
    assert http.get(items, headers=headers).json()["total"] == 0


def test_group_with_outlets_is_not_deleted(info: Info, http: httpx.Client) -> None:
    url = f"{info.urls['tenant']}/api/v1/tenants/{info.tenants['owner']}"
    assert http.delete(url, headers=as_owner(info)).json()["code"] == "tenant-has-outlets"


# --- demo-session


def test_demo_session_has_a_tenant_with_data_until_it_ends(info: Info, http: httpx.Client) -> None:
    url = f"{info.urls['demo-session']}/api/v1/demo/sessions"
    made = http.post(url, json={"account_type": "enterprise"})
    session = made.json()
    assert made.status_code == 201
    assert http.cookies["demo_session_id"] == session["session_id"]
    one = f"{url}/{session['session_id']}"
    assert http.get(one).status_code == 403
    assert http.get(one, headers=service(info)).json() == session
    headers = {"x-tenant-id": session["virtual_tenant_id"]}
    items = f"{info.urls['inventory']}/api/v1/inventory/items"
    assert http.get(items, headers=headers).json()["total"] > 0
    assert http.delete(one, headers=service(info)).status_code == 204
    assert http.get(one, headers=service(info)).status_code == 404


def test_demo_session_expires_and_can_be_prolonged(info: Info, http: httpx.Client) -> None:
    url = f"{info.urls['demo-session']}/api/v1/demo/sessions"
    session = http.post(url, json={"ttl_seconds": 0.000001}).json()
    one = f"{url}/{session['session_id']}"
    assert http.get(one, headers=service(info)).json()["status"] == "expired"
    assert http.post(f"{one}/extend", headers=service(info)).json()["status"] == "active"
    assert http.post(url, json={"account_type": "casino"}).status_code == 422
