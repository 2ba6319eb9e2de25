"""Which collections the services keep. A tenant's first rows are the same on every start of one day."""

from __future__ import annotations

from demo.platform import seeds_kitchen as kitchen
from demo.platform import seeds_office as office
from demo.platform import seeds_shop as shop
from demo.platform.collection import Seed

# (service, path under its prefix, the collection's name, fields a new row must have, first rows)
COLLECTIONS: tuple[tuple[str, str, str, tuple[str, ...], Seed], ...] = (
    ("inventory", "/items", "items", ("name", "unit"), kitchen.items),
    ("inventory", "/movements", "movements", ("item", "quantity"), kitchen.movements),
    ("production", "/batches", "batches", ("product", "pieces"), kitchen.batches),
    ("production", "/equipment", "equipment", ("name",), kitchen.equipment),
    ("recipes", "", "recipes", ("name",), kitchen.recipes),
    ("suppliers", "", "suppliers", ("name",), kitchen.suppliers),
    ("orders", "", "orders", ("customer", "lines"), shop.orders),
    ("orders", "/customers", "customers", ("name",), shop.customers),
    ("sales", "/records", "records", ("product", "pieces"), shop.sales),
    ("sales", "/products", "products", ("name", "price_eur"), shop.products),
    ("procurement", "/purchase-orders", "purchase-orders", ("supplier",), kitchen.purchases),
    ("pos", "/terminals", "terminals", ("name",), shop.terminals),
    ("pos", "/transactions", "transactions", ("total_eur",), shop.tickets),
    ("forecasting", "/forecasts", "forecasts", ("product", "date"), shop.forecasts),
    ("training", "/models", "models", ("product",), office.models),
    ("ai-insights", "/insights", "insights", ("text",), office.insights),
    ("orchestrator", "/runs", "runs", (), office.runs),
    ("alert-processor", "", "alerts", ("severity", "message"), office.alerts),
    ("external", "/weather", "weather", ("date",), office.weather),
    ("external", "/holidays", "holidays", ("date", "name"), office.holidays),
    ("distribution", "/routes", "routes", ("name",), shop.deliveries),
    ("distribution", "/vehicles", "vehicles", ("name",), shop.vehicles),
)
