"""wrk, on the load core as all children of the rig: one closed-loop run and what came of it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.machine import Cores, busy_seconds, session_seconds

# wrk builds a constant request once and sends the same bytes for ever; a script with tokens swaps prepared requests.
_DONE = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\nRESULT {"requests":%d,"micros":%d,"bytes":%d,"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d,' ..
    '"p50":%.1f,"p90":%.1f,"p99":%.1f,"max":%.1f}\\n',
    summary.requests, summary.duration, summary.bytes, e.connect, e.read, e.write, e.status, e.timeout,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max))
end
"""
_ONE = 'wrk.headers["Authorization"] = "Bearer {token}"\nwrk.headers["Accept"] = "application/json"\n'
_CLOSE = 'wrk.headers["Connection"] = "close"\n'
_POST = 'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = [[{body}]]\n'
_MANY = """
local prepared, n, i = {}, 0, 0
init = function(args)
  for token in io.lines("@TOKENS@") do
    n = n + 1
    prepared[n] = wrk.format("GET", nil, {["Authorization"] = "Bearer " .. token, ["Accept"] = "application/json"})
  end
end
request = function()
  i = i % n + 1
  return prepared[i]
end
"""


@dataclass(frozen=True)
class Sample:
    """One measured run; times in seconds, latencies in microseconds."""

    requests: int
    seconds: float
    rate: float  # answered requests per second
    errors: int  # socket errors, timeouts and statuses of 400 and more
    p50: float
    p90: float
    p99: float
    worst: float
    cpu: float  # microseconds of CPU the peer spent on a request, 0 when it is no process of ours
    noise: float  # share of either core's time that went to something else, 0 to 1

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def one_token(directory: Path, token: str) -> Path:
    """A wrk script that sends one token."""
    script = directory / "one-token.lua"
    script.write_text(_ONE.format(token=token) + _DONE)
    return script


def closing(directory: Path, token: str) -> Path:
    """A wrk script that sends one token and opens a connection for every request."""
    script = directory / "closing.lua"
    script.write_text(_ONE.format(token=token) + _CLOSE + _DONE)
    return script


def posting(directory: Path, token: str, size: int) -> Path:
    """A wrk script that posts `size` bytes of JSON with one token."""
    script = directory / "posting.lua"
    body = '{"note":"' + "x" * (size - 11) + '"}'
    script.write_text(_ONE.format(token=token) + _POST.format(body=body) + _DONE)
    return script


def many_tokens(directory: Path, name: str, tokens: list[str]) -> Path:
    """A wrk script that goes round `tokens` in order."""
    listing = directory / f"{name}.tokens"
    listing.write_text("\n".join(tokens))
    script = directory / f"{name}.lua"
    script.write_text(_MANY.replace("@TOKENS@", str(listing)) + _DONE)
    return script


class LoadError(RuntimeError):
    """wrk failed to run."""


def wrk(
    url: str,
    *,
    script: Path,
    connections: int,
    seconds: float,
    cores: Cores,
    peer: int | None = None,
    helpers: Callable[[], float] = lambda: 0.0,
) -> Sample:
    """Run wrk against `url` for `seconds`; `peer` is the session whose CPU time is charged to the requests.

    `helpers` gives the CPU seconds so far of the other processes on the load core that belong to the run.
    """
    command = [
        *("wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"),
        *("-s", str(script), url),
    ]
    before_peer = session_seconds(peer) if peer is not None else 0.0
    before_helpers = helpers()
    before = busy_seconds(cores.peer), busy_seconds(cores.load)
    began = time.perf_counter()
    own = os.times()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - began
    after = busy_seconds(cores.peer), busy_seconds(cores.load)
    spent = (session_seconds(peer) if peer is not None else 0.0) - before_peer
    wrk_seconds = (
        os.times().children_user + os.times().children_system - own.children_user - own.children_system
    )
    generated = wrk_seconds + helpers() - before_helpers
    return parse(
        done.stdout + done.stderr,
        cpu_seconds=spent,
        noise=max(0.0, after[0] - before[0] - spent, after[1] - before[1] - generated) / wall,
    )


def parse(output: str, *, cpu_seconds: float, noise: float) -> Sample:
    """The sample in wrk's output; raises LoadError when there is none."""
    line = next((line for line in output.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise LoadError(f"wrk gave no result: {output[-500:]}")
    found = json.loads(line.removeprefix("RESULT "))
    seconds = found["micros"] / 1e6
    good = found["requests"] - found["status"]
    return Sample(
        requests=found["requests"],
        seconds=seconds,
        rate=good / seconds,
        errors=sum(found[kind] for kind in ("connect", "read", "write", "status", "timeout")),
        p50=found["p50"],
        p90=found["p90"],
        p99=found["p99"],
        worst=found["max"],
        cpu=1e6 * cpu_seconds / max(1, found["requests"]),
        noise=min(1.0, noise),
    )
