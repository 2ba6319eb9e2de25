"""What the platform's services publish as a bakery's day goes by: an alert every few seconds, on `alerts:tenant:{id}`.

Each is also a row of the alert processor, so that GET /api/v1/alerts shows what a stream has shown.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Any

import msgspec

from demo.platform.bakery import INGREDIENTS, PRODUCTS, SUPPLIERS
from demo.platform.collection import Collection, Row

_EVERY = (1.5, 4.0)
# How much of it is for the first tenant, whose token the demo prints.
_FIRST = 0.6
# Rows that are kept of what was produced.
_KEPT = 500
_OVENS = ("Horno rotativo Salva", "Horno de suela 1", "Horno de suela 2")


def _stock(chance: Random) -> Row:
    item = chance.choice(INGREDIENTS)
    left = item.reorder * chance.uniform(0.05, 0.8)
    grave = left < item.reorder / 3
    message = f"Stock bajo: {item.name}, quedan {_number(left)} {item.unit} (mínimo {item.reorder})"
    return {"type": "stock", "severity": "high" if grave else "medium", "message": message, "item": item.slug}


def _oven(chance: Random) -> Row:
    oven = chance.choice(_OVENS)
    degrees = chance.randint(262, 290)
    grave = degrees > 280
    message = f"{oven} a {degrees} °C" + (": parado por sobretemperatura" if grave else ", 20 °C por encima")
    return {
        "type": "equipment",
        "severity": "urgent" if grave else "medium",
        "message": message,
        "oven": oven,
    }


def _cold_room(chance: Random) -> Row:
    degrees = chance.uniform(5.5, 9.0)
    message = f"Cámara {chance.randint(1, 3)} a {_number(degrees)} °C desde hace {chance.randint(10, 40)} min"
    return {"type": "equipment", "severity": "high" if degrees > 7 else "medium", "message": message}


def _batch(chance: Random) -> Row:
    product = chance.choice(PRODUCTS)
    late = chance.randint(5, 45)
    message = f"{product.name}: la hornada de {product.batch} va con {late} min de retraso"
    return {
        "type": "production",
        "severity": "high" if late > 30 else "low",
        "message": message,
        "product": product.slug,
    }


def _quality(chance: Random) -> Row:
    product = chance.choice(PRODUCTS)
    pieces = chance.randint(3, 12)
    message = f"{product.name}: {pieces} piezas fuera de peso en el último control"
    return {"type": "quality", "severity": "medium", "message": message, "product": product.slug}


def _delivery(chance: Random) -> Row:
    supplier = chance.choice(SUPPLIERS)
    message = f"{supplier.name} entrega con {chance.randint(1, 3)} h de retraso"
    return {"type": "delivery", "severity": "medium", "message": message, "supplier": supplier.slug}


def _demand(chance: Random) -> Row:
    product = chance.choice(PRODUCTS)
    message = f"Previsión: mañana se venderán {chance.randint(15, 40)} % más de {product.name}"
    return {"type": "forecast", "severity": "low", "message": message, "product": product.slug}


_KINDS: tuple[Callable[[Random], Row], ...] = (
    _stock,
    _stock,
    _oven,
    _cold_room,
    _batch,
    _quality,
    _delivery,
    _demand,
)


def _number(value: float) -> str:
    return f"{value:.1f}".replace(".", ",")


class Producer:
    """Publishes alerts for `tenants`, the first of them most often, and keeps them in `alerts`."""

    def __init__(self, alerts: Collection, tenants: Sequence[str]) -> None:
        self._alerts = alerts
        self._tenants = tuple(tenants)
        self._chance = Random()
        self._made: deque[tuple[str, str]] = deque()

    def alert(self) -> tuple[str, dict[str, Any]]:
        """The next one: its tenant, and what is published."""
        chance = self._chance
        tenant = self._tenants[0] if chance.random() < _FIRST else chance.choice(self._tenants)
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        facts = chance.choice(_KINDS)(chance)
        row = self._alerts.insert(tenant, {**facts, "status": "active", "timestamp": stamp})
        self._made.append((tenant, row["id"]))
        if len(self._made) > _KEPT:
            old_tenant, old = self._made.popleft()
            self._alerts.rows(old_tenant).pop(old, None)
        return tenant, {"alert_id": row["id"], **{name: row[name] for name in row if name != "id"}}

    async def run(self, store: str) -> None:
        """Publish to the store at this URL until cancelled; a store that is away is tried again."""
        import redis.asyncio  # the platform is up before it is loaded

        client = redis.asyncio.Redis.from_url(store)
        try:
            while True:
                tenant, alert = self.alert()
                with contextlib.suppress(redis.RedisError, OSError):
                    await client.publish(f"alerts:tenant:{tenant}", msgspec.json.encode(alert))
                await asyncio.sleep(self._chance.uniform(*_EVERY))
        finally:
            await client.aclose()
