"""`gateway demo` as a newcomer meets it: one command, a command to paste, and nothing left afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from kernel.routing.platform import SERVICES
from tests.support.gateway import free_port

SECONDS = 20.0


@dataclass
class DemoProcess:
    """A running demo, leader of a process group as on a terminal. `info` is what it wrote."""

    process: subprocess.Popen[bytes]
    directory: Path
    info_file: Path
    output: Path

    @property
    def info(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.info_file.read_text())
        return document

    def printed(self) -> str:
        return self.output.read_text()

    def descendants(self) -> set[int]:
        """The process ids of everything it has started."""
        parents = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        found = {self.process.pid}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return found - {self.process.pid}


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@contextlib.contextmanager
def demo(directory: Path, *arguments: str, **variables: str) -> Iterator[DemoProcess]:
    info_file, output = directory / "info.json", directory / "output"
    # Not below pytest's directory, whose path is too long for the store's socket.
    temporary = Path(tempfile.mkdtemp(prefix="test-demo-"))
    inherited = {name: value for name, value in os.environ.items() if name != "PORT"}
    environment = inherited | {"TMPDIR": str(temporary)} | variables
    command = [sys.executable, "-m", "kernel", "demo", "--port", "0", "--info", str(info_file), *arguments]
    with output.open("wb") as sink:
        process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink, process_group=0)
    running = DemoProcess(process, temporary, info_file, output)
    try:
        wait_for(lambda: info_file.exists() or process.poll() is not None, "the demo is not ready")
        assert process.poll() is None, running.printed()
        yield running
    finally:
        process.terminate()
        process.wait(SECONDS)
        shutil.rmtree(temporary)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoProcess]:
    with demo(tmp_path_factory.mktemp("demo")) as running:
        yield running
    assert running.process.returncode == 0


@pytest.fixture
def http(shared: DemoProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shared.info["url"], trust_env=False) as client:
        yield client


def pasted(text: str, path: str) -> tuple[str, dict[str, str], str | None]:
    """The URL, headers and body of the banner's curl command for `path`."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith("curl ") and path in line]
    words = shlex.split(line)
    headers = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
    body = words[words.index("-d") + 1] if "-d" in words else None
    return next(word for word in words if word.startswith("http")), headers, body


def test_printed_curl_answers_with_real_data(shared: DemoProcess) -> None:
    wait_for(lambda: "Ctrl-C" in shared.printed(), "no banner")
    url, headers, _ = pasted(shared.printed(), "/inventory/items")
    answer = httpx.get(url, headers=headers, trust_env=False)
    assert answer.status_code == 200
    assert answer.json()["total"] > len(answer.json()["items"]) == 3


def test_printed_stream_shows_the_alerts_that_services_publish(
    shared: DemoProcess, http: httpx.Client
) -> None:
    wait_for(lambda: "Ctrl-C" in shared.printed(), "no banner")
    url, headers, _ = pasted(shared.printed(), "/alerts/stream")
    with httpx.stream("GET", url, headers=headers, trust_env=False, timeout=SECONDS) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        lines = answer.iter_lines()
        alert = next(json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: "))
    assert {"alert_id", "severity", "message", "timestamp", "type"} <= set(alert)
    assert alert["tenant_id"] == shared.info["tenants"]["owner"]
    assert (
        http.get(f"/api/v1/alerts/{alert['alert_id']}", headers=headers).json()["message"] == alert["message"]
    )


def test_printed_login_gives_a_token_that_opens_the_gateway(shared: DemoProcess, http: httpx.Client) -> None:
    wait_for(lambda: "Ctrl-C" in shared.printed(), "no banner")
    url, headers, body = pasted(shared.printed(), "/auth/login")
    answer = httpx.post(url, headers=headers, content=body, trust_env=False)
    token = answer.json()["access_token"]
    me = http.get("/api/v1/auth/me", headers={"authorization": f"Bearer {token}"})
    assert me.json()["tenant_id"] == shared.info["tenants"]["owner"]


def test_printed_alert_reaches_every_channel_of_its_severity(shared: DemoProcess, http: httpx.Client) -> None:
    wait_for(lambda: "Ctrl-C" in shared.printed(), "no banner")
    (line,) = [
        line for line in shared.printed().splitlines() if "/alerts/dispatch" in line and "curl" in line
    ]
    # The shell fills in the alert's id and time.
    script = f"curl() {{ for word; do printf '%s\\n' \"$word\"; done; }}; {line}"
    words = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    name, _, value = words[words.index("-H") + 1].partition(": ")
    url = next(word for word in words if word.startswith("http"))
    answer = httpx.post(url, headers={name: value}, content=words[-1], trust_env=False)
    assert answer.status_code == 200
    assert [result["channel"] for result in answer.json()["results"]] == ["sse", "email"]
    headers = {"authorization": f"Bearer {shared.info['tokens']['owner']}"}
    sent = http.get("/api/v1/notifications?limit=200", headers=headers).json()["items"]
    alert = answer.json()["alert_id"]
    assert [each["channel"] for each in sent if each.get("alert_id") == alert] == ["email"]


def test_the_alerts_page_may_call_the_gateway(shared: DemoProcess, http: httpx.Client) -> None:
    page, _, where = shared.info["page"].partition("/#")
    assert where == f"gateway={shared.info['url']}"
    answer = httpx.get(page, trust_env=False)
    assert answer.status_code == 200
    assert "EventSource" in answer.text
    allowed = http.options(
        "/api/v1/alerts/ticket", headers={"origin": page, "access-control-request-method": "POST"}
    )
    assert allowed.headers["access-control-allow-origin"] == page
    assert allowed.headers["access-control-allow-credentials"] == "true"


def test_info_names_everything_a_script_needs(shared: DemoProcess) -> None:
    info = shared.info
    assert {"url", "redis", "tokens", "tenants", "pid"} <= set(info)
    assert {"owner", "second_owner", "service"} <= set(info["tokens"])
    assert info["tenants"]["owner"] != info["tenants"]["second_owner"]
    assert info["pid"] == shared.process.pid
    assert stat.S_IMODE(shared.info_file.stat().st_mode) == 0o600
    with redis.Redis.from_url(info["redis"]) as store:
        assert store.ping()


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
@pytest.mark.parametrize("who", ["owner", "second_owner", "service"])
def test_tokens_open_every_service(who: str, service: Any, shared: DemoProcess, http: httpx.Client) -> None:
    headers = {"authorization": f"Bearer {shared.info['tokens'][who]}"}
    # The last prefix: /api/v1/tenants/echo would be a tenant.
    seen = http.get(f"/api/v1/{service.prefixes[-1]}/echo", headers=headers)
    assert seen.status_code == 200
    assert seen.json()["service"] == service.name


def test_the_first_version_of_an_api_ends_and_the_second_answers(
    shared: DemoProcess, http: httpx.Client
) -> None:
    headers = {"authorization": f"Bearer {shared.info['tokens']['owner']}"}
    first = http.get("/api/v1/inventory/items?limit=2", headers=headers)
    second = http.get("/api/v2/inventory/items?limit=2", headers=headers)
    assert second.json()["data"] == first.json()["items"]
    assert second.json()["page"]["total"] == first.json()["total"]
    assert first.headers["deprecation"].startswith("@")
    assert first.headers["link"] == '</api/v2/inventory/items>; rel="successor-version"'
    assert "deprecation" not in second.headers


def test_tenants_are_kept_apart(shared: DemoProcess, http: httpx.Client) -> None:
    headers = {"authorization": f"Bearer {shared.info['tokens']['owner']}"}
    own, other = shared.info["tenants"]["owner"], shared.info["tenants"]["second_owner"]
    assert http.get(f"/api/v1/tenants/{own}/inventory/items", headers=headers).status_code == 200
    assert http.get(f"/api/v1/tenants/{other}/inventory/items", headers=headers).status_code == 403


def test_requests_are_shown_below_the_banner(shared: DemoProcess, http: httpx.Client) -> None:
    line = re.compile(r"200 GET +/api/v1/pos/terminals .* ms +pos Lucía")
    headers = {"authorization": f"Bearer {shared.info['tokens']['owner']}"}

    def shown() -> bool:
        # Asked anew each time: of a burst, such as the tests before this one, only the first are shown.
        assert http.get("/api/v1/pos/terminals", headers=headers).status_code == 200
        return bool(line.search(shared.printed()))

    wait_for(shown, "the request is not shown")


def test_taken_port_is_said_with_the_remedy(shared: DemoProcess) -> None:
    port = httpx.URL(shared.info["url"]).port
    command = [sys.executable, "-m", "kernel", "demo", "--port", str(port)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert second.returncode == 1
    assert f":{port}" in second.stderr
    assert "--port" in second.stderr
    assert "Traceback" not in second.stderr


def test_ctrl_c_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    port = free_port()
    with demo(tmp_path, "--port", str(port)) as running:
        assert running.info["url"].endswith(f":{port}")
        started = running.descendants()
        assert len(started) >= 3
        os.killpg(running.process.pid, signal.SIGINT)
        assert running.process.wait(SECONDS) == 0
        assert list(running.directory.iterdir()) == []
    assert [pid for pid in started if alive(pid)] == []
    assert not running.info_file.exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/health/live", trust_env=False)


def test_a_terminal_without_accents_is_no_obstacle(tmp_path: Path) -> None:
    with demo(tmp_path, LC_ALL="POSIX", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0") as running:
        wait_for(lambda: "Panader\\xeda La Espiga" in running.printed(), "the banner is not there")


def test_an_impatient_ctrl_c_leaves_nothing_either(tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        started = running.descendants()
        while running.process.poll() is None:
            os.killpg(running.process.pid, signal.SIGINT)
            time.sleep(0.001)
        assert running.process.returncode == 0, running.printed()
        assert "Traceback" not in running.printed()
        assert list(running.directory.iterdir()) == []
    assert [pid for pid in started if alive(pid)] == []


def test_killed_demo_leaves_no_process(tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        started = running.descendants()
        running.process.kill()
        running.process.wait(SECONDS)
        wait_for(lambda: not any(alive(pid) for pid in started), "a process outlived the demo")


def test_child_that_dies_ends_the_demo_and_is_named(tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        started = running.descendants()
        (platform,) = [
            pid for pid in started if b"demo.platform" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        os.kill(platform, signal.SIGKILL)
        assert running.process.wait(SECONDS) == 1
    assert "the stub platform ended by signal 9" in running.printed()
    assert [pid for pid in started if alive(pid)] == []
