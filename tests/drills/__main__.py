"""`python -m tests.drills`: see the package."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from kernel.server.embedded_store import EmbeddedStore
from tests.drills.faults import Faults
from tests.drills.ledger import Ledger
from tests.drills.load import HANG, Load
from tests.drills.service import Service
from tests.support.gateway import GatewayProcess, service_env, start_gateway, workers
from tests.support.tokens import SECRET, public_pem

# A worker may have grown by so much in the end: caches fill, the allocator keeps some.
_GROWN_MIB = 40
_GROWN_FILES = 30
_SETTLE = 6.0


def environment(service: Service, store: EmbeddedStore) -> dict[str, str]:
    """Both gateways'."""
    return {
        **service_env(f"http://127.0.0.1:{service.port}"),
        "REDIS_URL": store.url,
        "JWT_PUBLIC_KEY": public_pem(),
        "JWT_SECRET_KEY": SECRET,
        "WORKERS": "2",
        "RATE_LIMIT_REQUESTS": "100000",
        "REQUEST_TIMEOUT_SECONDS": f"{HANG:g}",
        "SHUTDOWN_GRACE_SECONDS": "5",
        "LOG_LEVEL": "WARNING",
    }


def weight(gateways: list[GatewayProcess]) -> tuple[float, int]:
    """(MiB resident, open files) of all workers together."""
    resident = files = 0
    for gateway in gateways:
        for pid in workers(gateway):
            status = Path(f"/proc/{pid}/status").read_text()
            resident += int(status.split("VmRSS:")[1].split()[0])
            files += len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return resident / 1024, files


async def drill(seed: int, seconds: float, only: list[str], directory: Path) -> Ledger:
    """Run one; its book."""
    rng = random.Random(seed)
    ledger = Ledger()
    service = Service(random.Random(seed + 1))
    await service.start()
    with EmbeddedStore() as store:
        env = environment(service, store)
        gateways = [await asyncio.to_thread(start_gateway, env, directory) for _ in range(2)]
        try:
            load = Load(ledger, [gateway.port for gateway in gateways], random.Random(seed + 2), store.url)
            load.start()
            await asyncio.sleep(3)
            before = weight(gateways)
            faults = Faults(store, service, gateways, load, rng)
            names = [name for name in faults.names() if not only or any(word in name for word in only)]
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                name = ledger.now = rng.choice(names)
                ledger.faults[name] += 1
                sys.stdout.write(f"{time.strftime('%H:%M:%S')} {name}\n")
                sys.stdout.flush()
                await getattr(faults, name)()
                service.calm()
                await asyncio.sleep(rng.uniform(0.5, 1.5))
                if load.store_well and rng.random() < 0.5:
                    await load.revoke()
            ledger.now = "the end"
            await asyncio.sleep(_SETTLE)
            await load.stop()
            judge(ledger, load, service, gateways, before)
        finally:
            for gateway in gateways:
                await asyncio.to_thread(gateway.stop)
            await service.stop()
    return ledger


def judge(
    ledger: Ledger,
    load: Load,
    service: Service,
    gateways: list[GatewayProcess],
    before: tuple[float, int],
) -> None:
    """What can only be told in the end."""
    ledger.arrivals(service.arrived)
    for number, stream in enumerate(load.streams):
        for wrong in stream.disorder():
            ledger.violation(f"stream {number}: {wrong}")
        missing = stream.missing()
        if missing and not stream.resets:
            ledger.violation(f"stream {number}: {len(missing)} alerts never came, {missing[0]} the first")
    for gateway in gateways:
        if gateway.process.poll() is not None:
            ledger.violation(f"a gateway ended with {gateway.process.returncode}")
        elif len(workers(gateway)) != 2:
            ledger.violation(f"a gateway has {len(workers(gateway))} workers")
        if "Traceback" in gateway.log():
            ledger.violation("a gateway logged a traceback: " + gateway.log().split("Traceback", 1)[1][:600])
    memory, files = weight(gateways)
    if memory - before[0] > _GROWN_MIB * 4:
        ledger.violation(f"workers grew from {before[0]:.0f} to {memory:.0f} MiB")
    if files - before[1] > _GROWN_FILES * 4:
        ledger.violation(f"open files grew from {before[1]} to {files}")


def main() -> int:
    """Parse, run, report; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.drills", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=600, help="how long faults are made")
    parser.add_argument(
        "--only", action="append", default=[], metavar="WORD", help="only faults whose name has it"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="drill-") as directory:
        ledger = asyncio.run(drill(options.seed, options.seconds, options.only, Path(directory)))
    sys.stdout.write("\n".join(["", f"seed        {options.seed}", *ledger.lines(), ""]))
    return 1 if ledger.found else 0


if __name__ == "__main__":
    sys.exit(main())
