"""Load test: owners and tills at work, pages that listen, models in training, while somebody attacks. `make load`: a minute.

Every client has an address of its own, as behind a load balancer, so that a flood empties the attacker's bucket and
nobody else's. What must hold is judged at the end, and the exit code says it: the platform's users see no error and
no long wait, no attack gets in, and the flood is refused with 429.

GATEWAY_INFO    the file of a running `gateway demo --info FILE`, started with RATE_LIMIT_REQUESTS and TRUSTED_PROXIES
                as below; unset: a demo is started for this run, and stopped after it. In a distributed run the master does
                that, and tells its workers, which must be on the same machine then.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from locust import FastHttpUser, between, constant, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner
from locust.stats import StatsEntry

from loadtests import live

LIMIT = 600
DEMO = {"RATE_LIMIT_REQUESTS": str(LIMIT), "TRUSTED_PROXIES": "127.0.0.0/8"}
START_SECONDS = 30
ATTACK = "attack: "
ASK, TELL = "demo?", "demo"
REFUSED = ", refused for its rate"
_numbers = itertools.count(1)
_info: dict[str, Any] = {}


@events.init_command_line_parser.add_listener
def _thresholds(parser: LocustArgumentParser) -> None:
    parser.add_argument("--check-fail-ratio", type=float, default=0.0, help="share of unexpected answers")
    parser.add_argument("--check-p95-ms", type=float, default=200.0, help="of the honest clients' requests")
    parser.add_argument("--check-p99-ms", type=float, default=500.0, help="the same, 99 %%")
    parser.add_argument("--check-alert-p99-ms", type=float, default=500.0, help="of an alert to a page")
    parser.add_argument("--check-echo-p95-ms", type=float, default=200.0, help="of a socket's round trip")


@events.init.add_listener
def _connect(environment: Environment, **_: Any) -> None:
    """Find the demo, or start one, or learn of the master's."""
    file = os.environ.get("GATEWAY_INFO")
    runner = environment.runner
    if isinstance(runner, WorkerRunner) and not file:
        _ask_master(runner)
        return
    if isinstance(runner, MasterRunner):
        # A worker asks until it is told: what comes before the demo is up goes unanswered.
        runner.register_message(
            ASK, lambda environment, msg, **_: _info and runner.send_message(TELL, _info, msg.node_id)
        )
    if not file:
        directory = tempfile.TemporaryDirectory(prefix="bakery-load-")
        file = f"{directory.name}/info.json"
        demo = subprocess.Popen(  # noqa: S603  # this interpreter, a fixed command
            [sys.executable, "-m", "kernel", "demo", "--port", "0", "--info", file],
            env={**os.environ, **DEMO},
            stdout=subprocess.DEVNULL,
        )

        @events.quit.add_listener
        def _stop(exit_code: int, **_: Any) -> None:
            demo.terminate()
            demo.wait()
            directory.cleanup()

        deadline = time.monotonic() + START_SECONDS
        while not os.path.exists(file):
            if demo.poll() is not None or time.monotonic() > deadline:
                demo.kill()
                sys.exit("the demo did not start")
            time.sleep(0.05)
    _info.update(json.loads(Path(file).read_text()))
    environment.host = _info["url"]


def _ask_master(runner: WorkerRunner) -> None:
    runner.register_message(TELL, lambda environment, msg, **_: _info.update(msg.data))
    _await_demo(lambda: runner.send_message(ASK))
    runner.environment.host = _info["url"]


def _await_demo(ask: Callable[[], object] = bool) -> None:
    deadline = time.monotonic() + 2 * START_SECONDS
    while not _info:
        if time.monotonic() > deadline:
            sys.exit("the master tells of no demo: has it GATEWAY_INFO, or started one?")
        ask()
        time.sleep(0.2)


@events.quitting.add_listener
def _judge(environment: Environment, **_: Any) -> None:
    """The exit code: 1 when a threshold is missed."""
    if isinstance(environment.runner, WorkerRunner):
        return  # the master has everybody's figures
    options, stats = environment.parsed_options, environment.stats
    honest = StatsEntry(stats, "honest", "")
    for entry in stats.entries.values():
        if not entry.name.startswith(ATTACK) and entry.method not in {"SSE", "WS"}:
            honest.extend(entry)
    missed = []
    for who, entry, share, most in (
        ("honest clients", honest, 0.95, options.check_p95_ms),
        ("honest clients", honest, 0.99, options.check_p99_ms),
        ("alerts", stats.get(live.ALERT, "SSE"), 0.99, options.check_alert_p99_ms),
        ("sockets", stats.get(live.ECHO, "WS"), 0.95, options.check_echo_p95_ms),
    ):
        found = entry.get_response_time_percentile(share)
        if found > most:
            missed.append(f"{who}: {share:.0%} within {found:.0f} ms, not {most:.0f}")
        if entry.num_requests == 0:
            missed.append(f"{who}: no {share:.0%}, none was counted")
    if stats.total.fail_ratio > options.check_fail_ratio:
        missed.append(f"{stats.total.fail_ratio:.2%} unexpected answers, not {options.check_fail_ratio:.2%}")
    flood, refused = (stats.get(ATTACK + name, "GET").num_requests for name in ("flood", "flood" + REFUSED))
    if flood > 2 * LIMIT and not refused:
        missed.append("the flood was never refused")
    for line in missed:
        sys.stderr.write(f"load test: {line}\n")
    environment.process_exit_code = 1 if missed else 0


class Client(FastHttpUser):
    """Someone with an address of his own."""

    abstract = True
    token = ""

    def on_start(self) -> None:
        _await_demo()  # a worker may be told to begin before it is told where
        # Each worker's own range: nobody shares an address, and a limit, with somebody of another worker.
        self.number = (max(getattr(self.environment.runner, "worker_index", 0), 0) << 12) + next(_numbers)
        self.address = f"198.18.{self.number >> 8 & 255}.{self.number & 255}"

    def call(
        self,
        method: str,
        path: str,
        *,
        expect: tuple[int, ...] = (200,),
        name: str | None = None,
        token: str | None = None,
        headers: dict[str, str] | None = None,
        body: object = None,
    ) -> Any:
        """Send a request; an answer outside `expect` is a failure. Returns the response."""
        bearer = self.token if token is None else token
        sent = {"x-forwarded-for": self.address, **(headers or {})}
        if bearer:
            sent["authorization"] = f"Bearer {bearer}"
        arguments: dict[str, Any] = {} if body is None else {"json": body}
        with self.client.request(
            method, path, name=name or path.partition("?")[0], headers=sent, catch_response=True, **arguments
        ) as response:
            if response.status_code == 429:
                response.request_meta["name"] += REFUSED
            if response.status_code in expect:
                response.success()
            else:
                response.failure(f"{response.status_code} {(response.text or '')[:120]}")
            return response

    def register(self, kind: str) -> None:
        """Open a bakery of one's own; its owner's token is used from then on."""
        answer = self.call(
            "POST",
            "/api/v1/auth/register",
            expect=(201,),
            body={
                "email": f"{kind}-{secrets.token_hex(8)}@load.example",
                "password": "pan-con-tomate",
                "full_name": f"Load {kind}",
                "tenant_name": f"Bakery {self.number}",
            },
        )
        self.token = answer.json()["access_token"] if answer.status_code == 201 else ""


class Owner(Client):
    """Opens a bakery, looks at the dashboard, writes now and then."""

    weight = 6
    wait_time = between(0.5, 1.5)

    def on_start(self) -> None:
        super().on_start()
        self.register("owner")

    @task(8)
    def dashboard(self) -> None:
        for path in ("orders", "inventory/items", "production/batches", "sales/records"):
            self.call("GET", f"/api/v1/{path}?limit=20")

    @task(2)
    def write(self) -> None:
        item = {"name": "Harina de espelta", "unit": "kg", "stock": 25}
        self.call("POST", "/api/v1/inventory/items", expect=(201,), body=item)

    @task(1)
    def who_am_i(self) -> None:
        self.call("GET", "/api/v1/auth/me")


class Till(Client):
    """A shop's till: many small writes, by the path of its shop."""

    weight = 3
    wait_time = between(0.2, 0.6)

    def on_start(self) -> None:
        super().on_start()
        self.register("till")
        tenant = self.call("GET", "/api/v1/auth/me").json()["tenant_id"]
        self.path = f"/api/v1/tenants/{tenant}/pos/transactions"

    @task(5)
    def sell(self) -> None:
        self.call("POST", self.path, expect=(201,), name="…/pos/transactions", body={"total_eur": 4.2})

    @task(1)
    def read_back(self) -> None:
        self.call("GET", self.path, name="…/pos/transactions")


class Page(Client):
    """A dashboard that is open: hears of alerts, is reloaded now and then, and must miss none."""

    weight = 2
    wait_time = between(0.1, 1.0)

    def on_start(self) -> None:
        super().on_start()
        self.listener = live.Listener(
            str(self.environment.host),
            _info["tokens"]["owner"],
            self.address,
            live.reporter(self.environment),
        )

    @task
    def listen(self) -> None:
        self.listener.listen(3)


class Trainer(Client):
    """Watches forecasts being trained."""

    weight = 1
    wait_time = between(0.5, 2.0)

    @task
    def train(self) -> None:
        report = live.reporter(self.environment)
        live.train(str(self.environment.host), _info["tokens"]["owner"], self.address, report, 5)


class Attacker(Client):
    """Floods, and tries what must not work. 429 is as good an answer as any refusal; all attackers share an address."""

    weight = 1
    wait_time = constant(0)

    def on_start(self) -> None:
        super().on_start()
        self.address = "203.0.113.66"

    def attack(self, name: str, path: str, refusal: int, **how: Any) -> None:
        self.call("GET", path, expect=(refusal, 429), name=ATTACK + name, **how)

    @task(20)
    def flood(self) -> None:
        self.attack("flood", "/api/v1/orders", 401)

    @task(2)
    def forged_signature(self) -> None:
        head, _, signature = _info["tokens"]["owner"].rpartition(".")
        token = f"{head}.{signature[:-8]}{secrets.token_urlsafe(6)}"
        self.attack("forged signature", "/api/v1/orders", 401, token=token)

    @task(2)
    def no_algorithm(self) -> None:
        payload = _info["tokens"]["owner"].split(".")[1]
        self.attack("alg none", "/api/v1/orders", 401, token=f"eyJhbGciOiJub25lIn0.{payload}.")

    @task(2)
    def foreign_tenant(self) -> None:
        path = f"/api/v1/tenants/{_info['tenants']['owner']}/orders"
        self.attack("foreign tenant", path, 403, token=_info["tokens"]["starter"])

    @task(2)
    def forged_identity(self) -> None:
        headers = {"x-user-id": "1", "x-user-role": "admin", "x-tenant-id": _info["tenants"]["owner"]}
        self.attack("forged identity", "/api/v1/orders", 401, headers=headers)

    @task(1)
    def traversal(self) -> None:
        self.attack("traversal", "/api/v1/auth/login/%2e%2e/%2e%2e/tenants", 400)
