"""`gateway demo`: the stub platform is in demo/, beside the product and not part of it; this only finds it."""

from __future__ import annotations

from collections.abc import Sequence

from kernel.server.terminal import say

_MISSING = (
    "the demo is not part of the installed package: it needs the stub platform, which is in the project's repository. "
    "Clone it and run `make demo` there."
)


def demo(arguments: Sequence[str]) -> int:
    """Run the demo with `arguments`. Returns the exit code."""
    try:
        from demo.run import main  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name not in {"demo", "demo.run"}:
            raise
        say(_MISSING)
        return 1
    return main(arguments)
