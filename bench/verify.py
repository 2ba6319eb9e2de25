"""Checks that a peer does the work it is measured for. Run against the very process that is measured."""

from __future__ import annotations

import http.client
import json

from bench.keys import EMAIL, TENANT, USER
from bench.peers.base import Check
from bench.rig import BODY, ECHO, PATH, Rig

EXPECTED = {
    "x-user-id": USER,
    "x-user-email": EMAIL,
    "x-user-role": "owner",
    "x-user-type": "access",
    "x-tenant-id": TENANT,
    "x-subscription-tier": "professional",
    "x-subscription-status": "active",
}
FORGED = {
    "X-User-ID": "attacker",
    "x-user-role": "admin",
    "X-TENANT-ID": TENANT,  # allowed to ask for, so its own value; the header set must still be one
    "X-Service-Name": "auth",
    "X-Is-Demo": "true",
    "X-Can-View-Children": "true",
    "X-Forwarded-By": "attacker",
}


def verify(rig: Rig, port: int, checks: Check) -> list[str]:
    """What the peer on `port` does wrong; empty when it is fit to be measured."""
    wrong: list[str] = []
    bearer = {"Authorization": f"Bearer {rig.token}"}
    status, body = _get(port, PATH, bearer)
    if status != 200:
        return [f"answers {status} to a good request: {body[:200]!r}"]
    if Check.PROXIES in checks:
        if body.decode() != BODY:
            wrong.append("changes the body")
        status, body = _get(port, f"{ECHO}?q=1", bearer)
        if status != 200 or json.loads(body)["target"] != f"{ECHO}?q=1":
            wrong.append(f"changes the target: {body[:200]!r}")
    if Check.POLICIES in checks:
        wrong += _identity(port, bearer) + _refusals(rig, port)
    return wrong


def limits(rig: Rig, port: int) -> list[str]:
    """What is wrong with the limiter of a peer started with a limit of 20: a burst of 60 must be cut."""
    statuses = [_get(port, PATH, {"Authorization": f"Bearer {rig.token}"})[0] for _ in range(60)]
    if statuses[0] == 200 and 429 in statuses:
        return []
    return [f"does not limit: 60 requests against a limit of 20 gave {sorted(set(statuses))}"]


def _identity(port: int, bearer: dict[str, str]) -> list[str]:
    _, body = _get(port, ECHO, {**bearer, **FORGED})
    seen: dict[str, list[str]] = {}
    for name, value in json.loads(body)["headers"]:
        seen.setdefault(name.lower(), []).append(value)
    wrong = [
        f"upstream sees {name}: {seen.get(name)} instead of {value!r}"
        for name, value in EXPECTED.items()
        if seen.get(name) != [value]
    ]
    wrong += [
        f"lets a forged {name} pass"
        for name in ("x-service-name", "x-is-demo", "x-can-view-children")
        if seen.get(name) in (["auth"], ["true"])
    ]
    if len(seen.get("x-request-id", [])) != 1:
        wrong.append(f"upstream sees x-request-id: {seen.get('x-request-id')}")
    if seen.get("x-forwarded-by") in (None, ["attacker"]):
        wrong.append(f"upstream sees x-forwarded-by: {seen.get('x-forwarded-by')}")
    return wrong


def _refusals(rig: Rig, port: int) -> list[str]:
    wrong = []
    if (status := _get(port, PATH, {})[0]) != 401:
        wrong.append(f"answers {status} without a token")
    for reason, token in rig.keys.refused().items():
        status = _get(port, PATH, {"Authorization": f"Bearer {token}"})[0]
        if status != 401:
            wrong.append(f"answers {status} to a token with: {reason}")
    return wrong


def _get(port: int, target: str, headers: dict[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", target, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
