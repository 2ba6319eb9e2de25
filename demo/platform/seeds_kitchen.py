"""First rows of what happens in the kitchen: stock, baking, recipes, purchases."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from demo.platform.bakery import BAKERS, INGREDIENTS, PRODUCTS, SUPPLIERS
from demo.platform.collection import Row
from demo.platform.dates import at, day, demand


def _supplier_of(category: str) -> str:
    return next(supplier.name for supplier in SUPPLIERS if category in supplier.supplies)


def items(chance: Random) -> Iterator[Row]:
    for ingredient in INGREDIENTS:
        stock = round(ingredient.reorder * chance.uniform(0.4, 3.0), 1)
        yield {
            "slug": ingredient.slug,
            "sku": ingredient.slug.upper(),
            "name": ingredient.name,
            "category": ingredient.category,
            "unit": ingredient.unit,
            "stock": stock,
            "reorder_point": ingredient.reorder,
            "low_stock": stock < ingredient.reorder,
            "unit_cost_eur": round(ingredient.cost * chance.uniform(0.95, 1.08), 2),
            "supplier": _supplier_of(ingredient.category),
            "allergens": ingredient.allergens,
            "expires_on": str(day(chance.randint(2, ingredient.shelf_days))),
            "location": chance.choice(("almacén seco", "cámara 1", "cámara 2", "obrador")),
        }


def movements(chance: Random) -> Iterator[Row]:
    for number in range(40):
        ingredient = chance.choice(INGREDIENTS)
        kind = chance.choice(("entrada", "consumo", "consumo", "consumo", "merma"))
        amount = round(ingredient.reorder * chance.uniform(0.02, 0.5), 2)
        yield {
            "item": ingredient.name,
            "kind": kind,
            "quantity": amount if kind == "entrada" else -amount,
            "unit": ingredient.unit,
            "at": at(-(number // 8), 5 + number % 8),
            "by": chance.choice(BAKERS),
        }


def batches(chance: Random) -> Iterator[Row]:
    for offset in (-1, 0, 1):
        for product in PRODUCTS:
            pieces = demand(chance, product, day(offset))
            made = ("completed", "in_progress", "planned")[offset + 1]
            yield {
                "product": product.name,
                "pieces": pieces,
                "doughs": -(-pieces // product.batch),
                "status": made,
                "starts_at": at(offset, 3 + chance.randint(0, 3), chance.choice((0, 15, 30, 45))),
                "minutes": product.minutes,
                "waste_pieces": chance.randint(0, pieces // 20) if made == "completed" else 0,
                "baker": chance.choice(BAKERS),
            }


def equipment(chance: Random) -> Iterator[Row]:
    for name, kind in (
        ("Horno de pisos Guyon", "horno"),
        ("Horno rotativo Salva", "horno"),
        ("Amasadora de espiral 80 l", "amasadora"),
        ("Laminadora Rondo", "laminadora"),
        ("Cámara de fermentación", "cámara"),
    ):
        yield {
            "name": name,
            "kind": kind,
            "status": chance.choice(("running", "running", "idle", "maintenance")),
            "hours": chance.randint(800, 22_000),
            "next_service_on": str(day(chance.randint(3, 120))),
        }


def recipes(_: Random) -> Iterator[Row]:
    named = {ingredient.slug: ingredient for ingredient in INGREDIENTS}
    for product in PRODUCTS:
        cost = sum(named[slug].cost * amount for slug, amount in product.uses) / product.batch
        yield {
            "slug": product.slug,
            "name": product.name,
            "category": product.category,
            "yield_pieces": product.batch,
            "minutes": product.minutes,
            "ingredients": [
                {"name": named[slug].name, "quantity": amount, "unit": named[slug].unit}
                for slug, amount in product.uses
            ],
            "allergens": sorted({a for slug, _amount in product.uses for a in named[slug].allergens}),
            "cost_per_piece_eur": round(cost, 3),
            "price_eur": product.price,
            "margin": round(1 - cost / product.price, 3),
        }


def suppliers(chance: Random) -> Iterator[Row]:
    for supplier in SUPPLIERS:
        yield {
            "slug": supplier.slug,
            "name": supplier.name,
            "city": supplier.city,
            "supplies": supplier.supplies,
            "lead_days": supplier.days,
            "on_time": round(chance.uniform(0.82, 0.99), 2),
            "email": f"pedidos@{supplier.slug}.example",
            "minimum_order_eur": chance.choice((60, 100, 150, 200)),
        }


def purchases(chance: Random) -> Iterator[Row]:
    for number, supplier in enumerate(SUPPLIERS):
        wanted = [i for i in INGREDIENTS if i.category in supplier.supplies][:3]
        yield {
            "number": f"C-{880 + number}",
            "supplier": supplier.name,
            "status": chance.choice(("draft", "approved", "sent", "received")),
            "expected_on": str(day(supplier.days)),
            "lines": [
                {"item": i.name, "quantity": i.reorder, "unit": i.unit, "unit_cost_eur": i.cost}
                for i in wanted
            ],
            "total_eur": round(sum(i.reorder * i.cost for i in wanted), 2),
        }
