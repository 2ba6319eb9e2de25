"""First rows of what the platform itself does: models, insights, runs, messages, alerts, the outside world."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from demo.platform.bakery import BAKERS, PRODUCTS
from demo.platform.collection import Row
from demo.platform.dates import at, day


def models(chance: Random) -> Iterator[Row]:
    for product in PRODUCTS[:8]:
        yield {
            "slug": product.slug,
            "product": product.name,
            "kind": "prophet",
            "mape": round(chance.uniform(0.06, 0.19), 3),
            "trained_on": str(day(-chance.randint(1, 20))),
        }


def insights(chance: Random) -> Iterator[Row]:
    for text, kind in (
        ("Hornea un 12 % más de croissants los sábados: se agotan antes de las 11:00.", "demand"),
        ("La merma de chapata baja si la última hornada sale a las 12:30.", "waste"),
        ("Compra la mantequilla en placa esta semana: el precio sube un 4 % el mes que viene.", "cost"),
        ("Mueve el pan de espelta al turno de tarde: el horno 2 está libre.", "production"),
    ):
        confidence = round(chance.uniform(0.7, 0.97), 2)
        yield {
            "kind": kind,
            "text": text,
            "confidence": confidence,
            "saves_eur_month": chance.randint(40, 420),
        }


def runs(chance: Random) -> Iterator[Row]:
    for offset in range(-5, 1):
        yield {
            "started_at": at(offset, 5, 30),
            "status": "succeeded" if offset else "running",
            "steps": ("forecast", "production_plan", "purchase_orders", "notify"),
            "seconds": chance.randint(18, 75),
        }


def notifications(chance: Random) -> Iterator[Row]:
    for number in range(6):
        yield {
            "channel": chance.choice(("email", "whatsapp")),
            "recipient": chance.choice(BAKERS),
            "message": chance.choice(("Plan de producción listo", "Pedido confirmado", "Stock bajo")),
            "status": "delivered",
            "at": at(-number, 6),
        }


def alerts(chance: Random) -> Iterator[Row]:
    for severity, message in (
        ("high", "Stock bajo: Mantequilla 82 % m.g."),
        ("medium", "Temperatura de la cámara 2: 6,8 °C"),
        ("low", "El proveedor Cacaos del Norte entrega mañana"),
        ("urgent", "Horno rotativo Salva parado por sobretemperatura"),
    ):
        yield {
            "severity": severity,
            "message": message,
            "status": chance.choice(("active", "acknowledged")),
            "timestamp": at(0, chance.randint(4, 9), chance.randint(0, 59)),
        }


def weather(chance: Random) -> Iterator[Row]:
    for offset in range(7):
        yield {
            "date": str(day(offset)),
            "city": "Madrid",
            "high_c": chance.randint(8, 34),
            "rain_probability": chance.randint(0, 90),
        }


def holidays(_: Random) -> Iterator[Row]:
    for month, number, name in (
        (1, 6, "Reyes"),
        (3, 19, "San José"),
        (5, 1, "Fiesta del Trabajo"),
        (8, 15, "La Asunción"),
        (10, 12, "Fiesta Nacional"),
        (11, 1, "Todos los Santos"),
        (12, 25, "Navidad"),
    ):
        yield {"date": f"{day().year}-{month:02}-{number:02}", "name": name, "region": "ES"}
