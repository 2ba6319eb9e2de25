# mypy: allow-subclassing-any, allow-untyped-decorators, disable-error-code="import-not-found"
"""The gateway as the brief describes it, written as such a service usually is: FastAPI, a middleware a concern.

It is a peer of the benchmark, not a straw man: one shared AsyncClient and one shared redis pool, tokens verified once
and then cached in Redis, the limiter one Lua call, one log line a request, no per-request clients.

FastAPI is in requirements/bench.lock only; the first line lets the rest be type-checked without it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import jwt
import redis.asyncio as redis
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

UPSTREAM = os.environ["STACK_UPSTREAM"]
PUBLIC_KEY = os.environ["STACK_PUBLIC_KEY"]
ISSUER = os.environ["STACK_ISSUER"]
LIMIT = int(os.environ["STACK_LIMIT"])
WINDOW = int(os.environ["STACK_WINDOW"])

TOKEN_BUCKET = """
local now = redis.call('TIME')
now = now[1] + now[2] / 1000000
local state = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = math.min(tonumber(ARGV[1]), (tonumber(state[1]) or tonumber(ARGV[1]))
  + (now - (tonumber(state[2]) or now)) * tonumber(ARGV[1]) / tonumber(ARGV[2]))
local admitted = tokens >= 1
if admitted then tokens = tokens - 1 end
redis.call('HSET', KEYS[1], 'tokens', tokens, 'at', now)
redis.call('EXPIRE', KEYS[1], ARGV[2])
return {admitted and 1 or 0, math.floor(tokens)}
"""

OWN_HEADERS = frozenset(
    {
        *("x-user-id", "x-user-email", "x-user-role", "x-user-type", "x-service-name", "x-tenant-id"),
        *(
            "x-subscription-tier",
            "x-subscription-status",
            "x-is-demo",
            "x-demo-session-id",
            "x-demo-account-type",
        ),
        *(
            "x-tenant-access-type",
            "x-can-view-children",
            "x-parent-tenant-id",
            "x-forwarded-by",
            "x-request-id",
        ),
    }
)
HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host", "content-length"}
)
RESPONSE_DROPPED = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "server", "date"}
)

structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.JSONRenderer(),
    ],
    wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    logger_factory=structlog.PrintLoggerFactory(),
    cache_logger_on_first_use=True,
)
logger = structlog.get_logger()
registry = CollectorRegistry()
requests_total = Counter("gateway_requests", "Requests", ["method", "path", "status_code"], registry=registry)
request_duration = Histogram(
    "gateway_request_duration_seconds", "Duration", ["method", "path"], registry=registry
)
cache_hits = Counter("gateway_auth_cache_hits", "Token cache hits", registry=registry)
cache_misses = Counter("gateway_auth_cache_misses", "Token cache misses", registry=registry)


class RequestIdMiddleware(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        request.state.request_id = str(uuid.uuid4())
        response = await call_next(request)
        response.headers["x-request-id"] = request.state.request_id
        return response


class LoggingMiddleware(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        began = time.perf_counter()
        logger.debug("request_started", method=request.method, path=request.url.path)
        response = await call_next(request)
        seconds = time.perf_counter() - began
        requests_total.labels(request.method, "/api/v1/inventory/**", str(response.status_code)).inc()
        request_duration.labels(request.method, "/api/v1/inventory/**").observe(seconds)
        logger.info(
            "request",
            request_id=request.state.request_id,
            method=request.method,
            path=request.url.path,
            status=response.status_code,
            duration_ms=round(seconds * 1000, 2),
        )
        return response


class RateLimitMiddleware(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        authorization = request.headers.get("authorization", "")
        client = request.client.host if request.client else "unknown"
        who = hashlib.sha256(authorization.encode()).hexdigest()[:32] if authorization else client
        admitted, remaining = await request.app.state.bucket(keys=[f"rate:{who}"], args=[LIMIT, WINDOW])
        if not admitted:
            return JSONResponse({"detail": "Too many requests"}, 429, {"Retry-After": str(WINDOW)})
        response = await call_next(request)
        response.headers["x-ratelimit-limit"] = str(LIMIT)
        response.headers["x-ratelimit-remaining"] = str(remaining)
        return response


class AuthMiddleware(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return JSONResponse({"detail": "Authentication required"}, 401)
        store: redis.Redis = request.app.state.redis
        key = "auth:token:" + hashlib.sha256(token.encode()).hexdigest()
        cached = await store.get(key)
        if cached:
            cache_hits.inc()
            payload: dict[str, Any] = json.loads(cached)
            if payload["exp"] < time.time():
                return JSONResponse({"detail": "Token expired"}, 401)
        else:
            cache_misses.inc()
            try:
                payload = jwt.decode(token, PUBLIC_KEY, algorithms=["RS256"], issuer=ISSUER)
            except jwt.InvalidTokenError:
                return JSONResponse({"detail": "Invalid token"}, 401)
            await store.setex(key, max(1, min(900, int(payload["exp"] - time.time()))), json.dumps(payload))
        if payload.get("type") not in ("access", "service"):
            return JSONResponse({"detail": "Invalid token type"}, 401)
        changed = await store.get(f"tenant:{payload['tenant_id']}:subscription_changed_at")
        if changed and payload["iat"] < float(changed):
            return JSONResponse({"detail": "Token is stale"}, 401)
        request.state.user = payload
        subscription = payload["subscription"]
        request.state.injected_headers = {
            "x-user-id": payload["user_id"],
            "x-user-email": payload["email"],
            "x-user-role": payload["tenant_role"],
            "x-user-type": payload["type"],
            "x-tenant-id": payload["tenant_id"],
            "x-subscription-tier": subscription["tier"],
            "x-subscription-status": subscription["status"],
            "x-forwarded-by": "bakery-gateway",
            "x-request-id": request.state.request_id,
        }
        return await call_next(request)


class SubscriptionMiddleware(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        subscription = request.state.user["subscription"]
        if subscription["status"] not in ("active", "trialing", "pending_cancellation"):
            return JSONResponse({"detail": "Subscription required"}, 402)
        if datetime.fromisoformat(subscription["valid_until"]) < datetime.now(UTC):
            return JSONResponse({"detail": "Subscription expired"}, 402)
        return await call_next(request)


class ReadOnlyMiddleware(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        if request.method in ("POST", "PUT", "PATCH", "DELETE"):
            tenant = request.state.user["tenant_id"]
            if await request.app.state.redis.get(f"tenant:{tenant}:read_only"):
                return JSONResponse({"detail": "Tenant is read-only"}, 403)
        return await call_next(request)


@asynccontextmanager
async def lifespan(application: FastAPI) -> AsyncIterator[None]:
    application.state.redis = redis.from_url(os.environ["STACK_REDIS"], decode_responses=True)
    application.state.bucket = application.state.redis.register_script(TOKEN_BUCKET)
    # httpx's own default pool (100 connections, 20 kept): larger ones were slower here, smaller ones no faster.
    async with httpx.AsyncClient(base_url=UPSTREAM, timeout=30.0) as client:
        application.state.client = client
        yield
    await application.state.redis.aclose()


app = FastAPI(title="API Gateway", lifespan=lifespan)
# The last one added is the outermost: CORS, request id, logging, rate limit, authentication, subscription, read-only.
app.add_middleware(ReadOnlyMiddleware)
app.add_middleware(SubscriptionMiddleware)
app.add_middleware(AuthMiddleware)
app.add_middleware(RateLimitMiddleware)
app.add_middleware(LoggingMiddleware)
app.add_middleware(RequestIdMiddleware)
app.add_middleware(
    CORSMiddleware,
    allow_origins=["https://app.example.com"],
    allow_credentials=True,
    allow_methods=["*"],
    allow_headers=["*"],
)


@app.api_route("/api/v1/inventory/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
async def inventory(request: Request, path: str) -> Response:
    """Proxy to the inventory service."""
    headers = {
        name: value
        for name, value in request.headers.items()
        if name not in OWN_HEADERS and name not in HOP_BY_HOP
    }
    headers.update(request.state.injected_headers)
    client: httpx.AsyncClient = request.app.state.client
    try:
        answer = await client.request(
            request.method,
            f"/api/v1/inventory/{path}",
            params=request.query_params,
            headers=headers,
            content=await request.body(),
        )
    except httpx.TimeoutException:
        return JSONResponse({"detail": "Service timeout"}, 504)
    except httpx.RequestError:
        return JSONResponse({"detail": "Service unavailable"}, 502)
    passed = {name: value for name, value in answer.headers.items() if name not in RESPONSE_DROPPED}
    return Response(answer.content, answer.status_code, passed)
