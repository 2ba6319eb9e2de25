"""Days and hours around today, and what is sold on them."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from random import Random

from demo.platform.bakery import Product


def day(offset: int = 0) -> date:
    """Today (UTC) and so many days."""
    return datetime.now(UTC).date() + timedelta(days=offset)


def at(offset: int, hour: int, minute: int = 0) -> str:
    """That day at that time, RFC 3339."""
    return datetime.combine(day(offset), time(hour, minute), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def demand(chance: Random, product: Product, when: date) -> int:
    """Pieces sold on `when`: weekends sell more, Mondays less."""
    weekday = (0.8, 0.9, 0.95, 1.0, 1.15, 1.45, 1.3)[when.weekday()]
    return max(1, round(product.daily * weekday * chance.uniform(0.9, 1.1)))
