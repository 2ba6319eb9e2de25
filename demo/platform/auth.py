"""The stub auth service.

    POST /api/v1/auth/login      {"email", "password", "remember"?: bool}     -> the token pair
    POST /api/v1/auth/register   {"email", "password", "full_name", "tenant_name"} -> 201, the token pair
    POST /api/v1/auth/refresh    {"refresh_token"} or the refresh cookie        -> a new pair; the old one is spent
    POST /api/v1/auth/logout     {"refresh_token"}? or the cookie               -> 204
    GET  /api/v1/auth/me                                                        -> the caller
    POST /api/v1/auth/verify     {"token"}, for services only                   -> {"active": true, "claims": {...}}
                                                                                or {"active": false, "reason": "..."}
    GET  /.well-known/jwks.json                                                 -> the public key (RFC 7517)

The token pair: {"access_token", "refresh_token", "token_type": "bearer", "expires_in": seconds, "user": {...}}. With
"remember", and when a refresh came by cookie, the refresh token is also set as the HttpOnly cookie `refresh_token`.
A refresh token that is used twice was stolen or replayed: its whole family is revoked (RFC 9700, section 4.14.2).
"""

from __future__ import annotations

import hmac
import uuid
from typing import Any

import jwt

from demo.platform.messages import Refusal, Request, Response, reply, text
from demo.platform.service import Service
from demo.platform.tokens import ACCESS_SECONDS, REFRESH_SECONDS, Keys
from demo.platform.world import User, World

COOKIE = "refresh_token"
# Sent on every call, so that the gateway can refresh by itself.
_COOKIE_PATH = "/api/v1"


class Auth:
    """Logs people in; `world` says who they are."""

    def __init__(self, service: Service, world: World, keys: Keys) -> None:
        self._world = world
        self._keys = keys
        # Family (one per login) -> the `jti` of its one refresh token that is not spent.
        self._families: dict[str, str] = {}
        self._ended: set[str] = set()
        service.add("POST", "/login", self._login, "Log in")
        service.add("POST", "/register", self._register, "Create an account and its bakery", 201)
        service.add("POST", "/refresh", self._refresh, "Exchange a refresh token for a new pair")
        service.add("POST", "/logout", self._logout, "End the session", 204)
        service.add("GET", "/me", self._me, "The caller")
        service.add("POST", "/verify", self._verify, "Whether a token is good; for services")
        service.add_path("GET", "/.well-known/jwks.json", self._jwks, "Public keys")

    def access_token(self, user: User) -> str:
        """A fresh access token for `user`."""
        return self._keys.user_token(self._world.claims(user), "access", ACCESS_SECONDS)

    def _pair(self, user: User, family: str, *, cookie: bool, status: int = 200) -> Response:
        claims = {"user_id": user.id, "family": family}
        refresh = self._keys.user_token(claims, "refresh", REFRESH_SECONDS)
        self._families[family] = str(_unverified(refresh)["jti"])
        document = {
            "access_token": self.access_token(user),
            "refresh_token": refresh,
            "token_type": "bearer",
            "expires_in": ACCESS_SECONDS,
            "user": _person(user),
        }
        return reply(document, status, (_cookie(refresh, REFRESH_SECONDS),) if cookie else ())

    async def _login(self, request: Request) -> Response:
        document = await request.json()
        email, password = text(document, "email"), text(document, "password")
        user = self._world.users.get(email.lower())
        known = user.password if user else ""
        if not hmac.compare_digest(known.encode(), password.encode()) or user is None:
            raise Refusal(401, "credentials-invalid", "The e-mail address or the password is wrong.")
        return self._pair(user, uuid.uuid4().hex, cookie=document.get("remember") is True)

    async def _register(self, request: Request) -> Response:
        document = await request.json()
        email = text(document, "email").lower()
        password, name = text(document, "password"), text(document, "full_name")
        bakery = text(document, "tenant_name")
        if "@" not in email:
            raise Refusal(422, "field-invalid", "'email' must be an e-mail address.")
        if len(password) < 8:
            raise Refusal(422, "field-invalid", "'password' must have at least 8 characters.")
        if email in self._world.users:
            raise Refusal(409, "email-taken", "There is an account with this e-mail address.")
        tenant = self._world.found(bakery)
        user = User(str(uuid.uuid4()), "", email, password, name, tenant.id, "owner")
        self._world.users[email] = user
        return self._pair(user, uuid.uuid4().hex, cookie=document.get("remember") is True, status=201)

    async def _refresh(self, request: Request) -> Response:
        cookie = request.cookie(COOKIE)
        token = str((await request.json()).get("refresh_token") or cookie)
        claims = self._refresh_claims(token)
        family = str(claims["family"])
        if self._families.get(family) != claims["jti"]:
            self._families.pop(family, None)
            raise Refusal(401, "refresh-token-spent", "This refresh token was used before: log in again.")
        user = self._world.user(str(claims["user_id"]))
        return self._pair(user, family, cookie=bool(cookie))

    def _refresh_claims(self, token: str) -> dict[str, Any]:
        try:
            claims = self._keys.verify(token)
        except jwt.InvalidTokenError as error:
            raise Refusal(401, "refresh-token-invalid", f"Not a good refresh token: {error}.") from None
        if claims["type"] != "refresh":
            raise Refusal(401, "refresh-token-invalid", "This is not a refresh token.")
        return claims

    async def _logout(self, request: Request) -> Response:
        token = str((await request.json()).get("refresh_token") or request.cookie(COOKIE))
        if token:
            self._families.pop(str(self._refresh_claims(token)["family"]), None)
        scheme, _, access = request.header("authorization").partition(" ")
        if scheme.lower() == "bearer" and access:
            self._ended.add(access.strip())
        return Response(204, headers=(_cookie("", 0),))

    def _me(self, request: Request) -> Response:
        user_id = request.header("x-user-id")
        if not user_id:
            raise Refusal(403, "user-missing", "No x-user-id: call this service through the gateway.")
        user = self._world.user(user_id)
        return reply({**_person(user), "tenants": [t.id for t in self._world.visible(user)]})

    async def _verify(self, request: Request) -> Response:
        self._keys.require_service(request)
        token = text(await request.json(), "token")
        try:
            claims = self._keys.verify(token)
        except jwt.ExpiredSignatureError:
            return reply({"active": False, "reason": "expired"})
        except jwt.InvalidTokenError as error:
            return reply({"active": False, "reason": f"invalid: {error}"})
        if claims["type"] == "refresh":
            return reply({"active": False, "reason": "a refresh token opens nothing"})
        if token in self._ended:
            return reply({"active": False, "reason": "logged out"})
        return reply({"active": True, "claims": claims})

    def _jwks(self, _: Request) -> Response:
        return reply(self._keys.jwks, headers=(("cache-control", "public, max-age=300"),))


def _unverified(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def _person(user: User) -> dict[str, Any]:
    return {
        "id": user.id,
        "email": user.email,
        "full_name": user.name,
        "tenant_id": user.tenant_id,
        "role": user.role,
    }


def _cookie(value: str, seconds: int) -> tuple[str, str]:
    return (
        "set-cookie",
        f"{COOKIE}={value}; Path={_COOKIE_PATH}; Max-Age={seconds}; HttpOnly; SameSite=Strict",
    )
