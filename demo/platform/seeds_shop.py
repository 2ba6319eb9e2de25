"""First rows of what happens in the shop: orders, sales, tills, forecasts, deliveries."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from demo.platform.bakery import CUSTOMERS, PRODUCTS
from demo.platform.collection import Row
from demo.platform.dates import at, day, demand


def orders(chance: Random) -> Iterator[Row]:
    for number in range(24):
        customer, kind = chance.choice(CUSTOMERS)
        ordered = [(p, chance.randint(2, 60)) for p in chance.sample(PRODUCTS, chance.randint(1, 4))]
        offset = number // 6 - 1
        yield {
            "number": f"P-{2400 + number}",
            "customer": customer,
            "customer_kind": kind,
            "status": "delivered" if offset < 0 else chance.choice(("confirmed", "in_production", "ready")),
            "deliver_at": at(offset, chance.randint(6, 11)),
            "lines": [{"product": p.name, "quantity": n, "price_eur": p.price} for p, n in ordered],
            "total_eur": round(sum(p.price * n for p, n in ordered), 2),
        }


def customers(chance: Random) -> Iterator[Row]:
    for name, kind in CUSTOMERS:
        yield {"name": name, "kind": kind, "discount": chance.choice((0, 0, 0.05, 0.1)), "payment_days": 30}


def products(_: Random) -> Iterator[Row]:
    for product in PRODUCTS:
        yield {
            "slug": product.slug,
            "name": product.name,
            "category": product.category,
            "price_eur": product.price,
            "active": True,
        }


def sales(chance: Random) -> Iterator[Row]:
    for offset in range(-7, 0):
        for product in PRODUCTS:
            pieces = demand(chance, product, day(offset))
            yield {
                "date": str(day(offset)),
                "product": product.name,
                "pieces": pieces,
                "revenue_eur": round(pieces * product.price, 2),
                "channel": chance.choice(("mostrador", "mostrador", "reparto", "web")),
            }


def terminals(_: Random) -> Iterator[Row]:
    for number in (1, 2):
        yield {"name": f"Caja {number}", "provider": "square", "status": "online", "last_sync": at(0, 6)}


def tickets(chance: Random) -> Iterator[Row]:
    for number in range(30):
        basket = chance.sample(PRODUCTS, chance.randint(1, 3))
        yield {
            "ticket": f"T-{50_200 + number}",
            "terminal": f"Caja {1 + number % 2}",
            "at": at(-1, 7 + number // 3, (number * 7) % 60),
            "products": [product.name for product in basket],
            "total_eur": round(sum(product.price for product in basket), 2),
            "paid_by": chance.choice(("tarjeta", "tarjeta", "efectivo", "bizum")),
        }


def forecasts(chance: Random) -> Iterator[Row]:
    for offset in range(1, 8):
        for product in PRODUCTS:
            pieces = demand(chance, product, day(offset))
            yield {
                "date": str(day(offset)),
                "product": product.name,
                "pieces": pieces,
                "low": round(pieces * 0.88),
                "high": round(pieces * 1.12),
                "model": "prophet-v3",
            }


def deliveries(chance: Random) -> Iterator[Row]:
    for number, area in enumerate(("Centro", "Norte", "Polígono")):
        stops = [name for name, _kind in chance.sample(CUSTOMERS, 3)]
        yield {
            "name": f"Ruta {area}",
            "vehicle": f"Furgoneta {number + 1}",
            "leaves_at": at(0, 6),
            "stops": stops,
        }


def vehicles(chance: Random) -> Iterator[Row]:
    for number in range(3):
        yield {"name": f"Furgoneta {number + 1}", "kind": "eléctrica", "charge": chance.randint(40, 100)}
