"""Capture: notes requests and their answers in the file of CAPTURE_FILE, all of a route's or a share of them.

First in the order: what later stages answer is captured, too.
"""

from __future__ import annotations

from random import random
from typing import Final

from kernel.config import Settings
from kernel.exchange.exchange import Exchange, Stage
from kernel.exchange.phase import Phase
from kernel.routing.catalog import RouteRow
from kernel.state import State

NAME: Final = Phase("capture")


def describe(settings: Settings, row: RouteRow) -> str:
    """What the stage does with a request, in words; empty where it has no part in the route."""
    if not _captured(settings, row):
        return ""
    share = "all" if settings.capture_percent >= 100 else f"{settings.capture_percent:g} %"
    return (
        f"{share} of it is written to CAPTURE_FILE, {'with' if settings.capture_bodies else 'without'} bodies"
    )


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of routes that are captured; None is all that a gateway without CAPTURE_FILE has of it."""
    if state.capture is None or not _captured(state.settings, row):
        return None
    begin = state.capture.recorder.begin
    share = state.settings.capture_percent / 100
    if share >= 1:
        return begin

    def capture(x: Exchange) -> None:
        if random() < share:  # noqa: S311  # no secret hangs on it
            begin(x)

    return capture


def _captured(settings: Settings, row: RouteRow) -> bool:
    if settings.capture_file is None:
        return False
    if row.capture is not None:
        return row.capture
    return settings.capture_routes == "all" and not row.exempt
