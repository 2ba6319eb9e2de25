"""Mutants of the hot path: lines are broken one at a time, and the tests named beside them must notice.

    make mutants                     all of them, two at a time
    python -m tests.mutants NAME     only those whose name has NAME in it

Each runs on a copy of the tree. A mutant that survives, or whose line is not there any more, is an error.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
_SECONDS = 240


class Mutant(NamedTuple):
    """In `file`, the one occurrence of `line` becomes `broken`; `tests` must fail then."""

    name: str
    file: str
    line: str
    broken: str
    tests: str


APP, EXCHANGE = "kernel/app.py", "kernel/exchange/exchange.py"
IDEMPOTENCY = "kernel/traffic/idempotency.py"
MUTANTS = (
    Mutant(
        "sizes swapped in the record",
        APP,
        "                x.received,\n                x.sent,\n",
        "                x.sent,\n                x.received,\n",
        "tests/integration/test_access_log.py",
    ),
    Mutant(
        "sizes swapped in the meter",
        APP,
        "route.meter.observe(x.method, x.status, seconds, x.received, x.sent)",
        "route.meter.observe(x.method, x.status, seconds, x.sent, x.received)",
        "tests/integration/test_access_log.py",
    ),
    Mutant(
        "in flight never given back",
        APP,
        "            state.metrics.in_flight -= 1\n        identity",
        "            pass\n        identity",
        "tests/integration/test_access_log.py",
    ),
    Mutant(
        "a stage's problem is passed over",
        APP,
        "                if outcome is not None:\n                    break\n            else:",
        "                if outcome is not None:\n                    continue\n            else:",
        "tests/integration/test_policy_table.py",
    ),
    Mutant(
        "no limits on answers",
        EXCHANGE,
        "            headers += self.limits\n        send = self.send\n        send(",
        "            pass\n        send = self.send\n        send(",
        "tests/integration/test_access_log.py",
    ),
    Mutant(
        "a body over the limit",
        EXCHANGE,
        "                if self.received > self.max_body:\n",
        "                if self.received > self.max_body + 1:\n",
        "tests/unit/exchange",
    ),
    Mutant(
        "a revoked token passes",
        "kernel/stages/freshness.py",
        "                return revoked\n",
        "                continue\n",
        "tests/integration/test_policy_changes.py tests/integration/test_auth_logout.py",
    ),
    Mutant(
        "a stale token passes",
        "kernel/stages/freshness.py",
        "            if identity.iat < timestamps.read(key, value):",
        "            if identity.iat > timestamps.read(key, value):",
        "tests/integration/test_policy_changes.py",
    ),
    Mutant(
        "a fetched verdict is kept",
        "kernel/stages/freshness.py",
        "        if context.fresh == generation:",
        "        if context.fresh != -1:",
        "tests/integration/test_policy_changes.py",
    ),
    Mutant(
        "the tenant's lock is not looked at",
        "kernel/stages/readonly.py",
        "        if len(values) > 1 and values[1] is not None:",
        "        if len(values) > 2 and values[1] is not None:",
        "tests/integration/test_policy_changes.py tests/integration/test_policy_platform.py",
    ),
    Mutant(
        "a demo's tenant is open to all",
        "kernel/stages/tenancy.py",
        "        return None if values[0] is None else _IN_DEMO",
        "        return None",
        "tests/integration/test_demo_mode.py",
    ),
    Mutant(
        "the context of another tenant",
        "kernel/stages/tenancy.py",
        "        x.context = context.block\n",
        "        x.context = x.context or context.block[:0]\n",
        "tests/integration/test_identity_headers.py",
    ),
    Mutant(
        "another method's route",
        "kernel/routing/router.py",
        "            route = known[0].get(method)\n",
        "            route = next(iter(known[0].values()))\n",
        "tests/unit/routing",
    ),
    Mutant(
        "literals lose to parameters",
        "kernel/routing/trie.py",
        "                if child is not None:\n",
        "                if child is not None and node.param is None:\n",
        "tests/unit/routing",
    ),
    Mutant(
        "a trusted header passes",
        "kernel/http/headers.py",
        "            normal in TRUSTED\n            or ",
        "            ",
        "tests/unit/http",
    ),
    Mutant(
        "an expired identity is remembered",
        "kernel/identity/cache.py",
        "        if identity.exp <= self._clock():",
        "        if identity.exp <= 0:",
        "tests/unit/identity/test_cache.py",
    ),
    Mutant(
        "a lease is spent twice",
        "kernel/store/limiter.py",
        "            left -= 1\n",
        "            left -= 0\n",
        "tests/integration/test_policy_limits.py",
    ),
    Mutant(
        "a byte of the next answer",
        "kernel/upstream/fast_response.py",
        "        if end + length != len(data):",
        "        if end + length > len(data):",
        "tests/unit/upstream/test_fast_response.py",
    ),
    Mutant(
        "a request that may have been done is let go of",
        IDEMPOTENCY,
        "                    await ledger.lose(request)\n",
        "                    await ledger.release(request)\n",
        "tests/integration/test_idempotency_trouble.py",
    ),
    Mutant(
        "an answer that broke off is none",
        IDEMPOTENCY,
        "if self._head is None and _untouched(x, error):",
        "if _untouched(x, error):",
        "tests/integration/test_idempotency_composed.py",
    ),
    Mutant(
        "an attempt that was written counts as not",
        "kernel/upstream/attempt.py",
        "            x.keyed = WRITTEN if written else UNWRITTEN\n",
        "            x.keyed = UNWRITTEN\n",
        "tests/integration/test_idempotency_trouble.py",
    ),
    Mutant(
        "a POST without a key is sent again",
        "kernel/upstream/attempt.py",
        "in_hand and (self._idempotent or keyed) else None",
        "in_hand else None",
        "tests/integration/test_idempotency_trouble.py",
    ),
    Mutant(
        "an answer is let go before it is kept",
        IDEMPOTENCY,
        "        await self._ledger.keep(self._request, seal(self._request.secret, _encode(answer)))\n",
        "",
        "tests/integration/test_idempotency.py",
    ),
    Mutant(
        "a key is everybody's",
        "kernel/traffic/idempotency_key.py",
        "for part in whose), key])",
        "for part in whose[:0]), key])",
        "tests/integration/test_idempotency.py",
    ),
    Mutant(
        "whoever comes takes a key that is another's",
        "kernel/store/idempotency_claim.lua",
        "  if owner == ARGV[2] then\n",
        "  if owner then\n",
        "tests/integration/test_idempotency.py",
    ),
    Mutant(
        "no lease is renewed",
        "kernel/traffic/idempotency_ledger.py",
        "        self._renew(monotonic() - _RENEW)\n",
        "",
        "tests/integration/test_idempotency_trouble.py",
    ),
    Mutant(
        "what the store could not be told is forgotten",
        "kernel/traffic/idempotency_ledger.py",
        "            for each in waiting:\n                self._try(each)\n",
        "",
        "tests/integration/test_idempotency_trouble.py",
    ),
)


def kill(mutant: Mutant) -> str:
    """Run `mutant`; "" when it was noticed, else what is wrong."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = Path(folder) / "tree"
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in listed.stdout.splitlines():
            if (ROOT / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name)
        path = tree / mutant.file
        text = path.read_text()
        if text.count(mutant.line) != 1:
            return f"its line stands {text.count(mutant.line)} times in {mutant.file}"
        path.write_text(text.replace(mutant.line, mutant.broken))
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            *mutant.tests.split(),
        ]
        try:
            ran = subprocess.run(
                command, cwd=tree, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return ""  # hanging is noticed, too
        return "" if ran.returncode == 1 else f"survived (exit {ran.returncode}): {ran.stdout[-300:]}"


def main() -> int:
    """Run those that are asked for; the exit code."""
    wanted = [mutant for mutant in MUTANTS if all(word in mutant.name for word in sys.argv[1:])]
    bad = 0
    with ThreadPoolExecutor(2) as pool:
        for mutant, wrong in zip(wanted, pool.map(kill, wanted), strict=True):
            bad += bool(wrong)
            sys.stdout.write(f"{wrong or 'killed':10} {mutant.name}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(wanted) - bad} passed, {bad} failed\n")
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
