"""Only for compiled builds; everything else is in pyproject.toml.

GATEWAY_COMPILE=1 has mypyc compile the modules that a request passes through, for a fifth less CPU time a request. They
behave as the sources they are made of, which stay the reference: every test runs against both.
"""

import os

from setuptools import setup

MODULES = [
    "handlers/proxy.py",
    "kernel/app.py",
    "kernel/exchange/cors.py",
    "kernel/exchange/exchange.py",
    "kernel/exchange/phase.py",
    "kernel/exchange/websocket.py",
    "kernel/http/addresses.py",
    "kernel/http/headers.py",
    "kernel/http/paths.py",
    "kernel/identity/access.py",
    "kernel/identity/cache.py",
    "kernel/identity/identity.py",
    "kernel/primitives/memo.py",
    "kernel/routing/router.py",
    "kernel/routing/trie.py",
    "kernel/server/intake.py",
    "kernel/stages/authenticate/__init__.py",
    "kernel/stages/cors.py",
    "kernel/stages/demo.py",
    "kernel/stages/edge.py",
    "kernel/stages/freshness.py",
    "kernel/stages/limit.py",
    "kernel/stages/lookup.py",
    "kernel/stages/readonly.py",
    "kernel/stages/subscription.py",
    "kernel/stages/tenancy.py",
    "kernel/store/bucket.py",
    "kernel/store/limiter.py",
    "kernel/telemetry/accesslog.py",
    "kernel/telemetry/metrics.py",
    "kernel/telemetry/trace.py",
    "kernel/upstream/attempt.py",
    "kernel/upstream/balance.py",
    "kernel/upstream/bodies.py",
    "kernel/upstream/breaker.py",
    "kernel/upstream/outlier.py",
    "kernel/upstream/callback_lane.py",
    "kernel/upstream/fast_response.py",
    "kernel/upstream/http1.py",
    "kernel/upstream/pool.py",
    "kernel/upstream/request_headers.py",
    "kernel/upstream/response.py",
    "kernel/upstream/response_headers.py",
]

if os.environ.get("GATEWAY_COMPILE") == "1":
    from mypyc.build import mypycify

    setup(ext_modules=mypycify(MODULES, opt_level="3"))
else:
    setup()
