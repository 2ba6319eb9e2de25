"""`gateway demo`: the stub platform lives in bench/, this only finds it."""

from __future__ import annotations

from collections.abc import Sequence


def demo(arguments: Sequence[str]) -> int:
    """Run the demo with `arguments`. Returns the exit code."""
    from demo.run import main  # noqa: PLC0415

    return main(arguments)
