"""The gateway, slower on purpose, to see the regression gate close. `python -m bench.slowed MICROSECONDS run`."""

from __future__ import annotations

import sys
from time import perf_counter

from kernel import app, cli
from kernel.exchange import Receive, Scope, Send


def main() -> None:
    """Spend MICROSECONDS more on every request, then be `gateway` with the other arguments."""
    seconds = float(sys.argv.pop(1)) / 1e6
    genuine = app.Gateway.__call__

    async def slowed(self: app.Gateway, scope: Scope, receive: Receive, send: Send) -> None:
        until = perf_counter() + seconds
        while perf_counter() < until:
            pass
        await genuine(self, scope, receive, send)

    app.Gateway.__call__ = slowed  # type: ignore[method-assign]
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
