"""The gateway, slower on purpose, to see the regression gate close. `python -m bench.slowed MICROSECONDS run`."""

from __future__ import annotations

import sys
from collections.abc import Awaitable
from time import perf_counter
from typing import Any

from kernel import app, cli


def main() -> None:
    """Spend MICROSECONDS more on every request, then be `gateway` with the other arguments."""
    seconds = float(sys.argv.pop(1)) / 1e6
    genuine = app.Gateway.enter

    def slowed(self: app.Gateway, *request: Any) -> Awaitable[None] | None:
        until = perf_counter() + seconds
        while perf_counter() < until:
            pass
        return genuine(self, *request)

    app.Gateway.enter = slowed  # type: ignore[method-assign,assignment]
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
