"""What a Spanish bakery buys, bakes and sells: the words the stub services' data is made of."""

from __future__ import annotations

from typing import NamedTuple


class Ingredient(NamedTuple):
    """Cost in euros per `unit`; `reorder` is the stock, in units, below which more is bought."""

    slug: str
    name: str
    category: str
    unit: str
    cost: float
    reorder: int
    shelf_days: int
    allergens: tuple[str, ...]


class Product(NamedTuple):
    """Price in euros; `daily` = pieces sold on an ordinary day; `uses` = (ingredient, its units for `batch` pieces)."""

    slug: str
    name: str
    category: str
    price: float
    daily: int
    batch: int
    minutes: int
    uses: tuple[tuple[str, float], ...]


class Supplier(NamedTuple):
    """`days` = from order to delivery."""

    slug: str
    name: str
    city: str
    supplies: tuple[str, ...]
    days: int


INGREDIENTS = (
    Ingredient("harina-fuerza", "Harina de fuerza W300", "harinas", "kg", 0.92, 150, 180, ("gluten",)),
    Ingredient("harina-floja", "Harina floja W120", "harinas", "kg", 0.78, 100, 180, ("gluten",)),
    Ingredient("harina-centeno", "Harina de centeno integral", "harinas", "kg", 1.15, 40, 150, ("gluten",)),
    Ingredient("harina-espelta", "Harina de espelta ecológica", "harinas", "kg", 2.10, 25, 150, ("gluten",)),
    Ingredient("masa-madre", "Masa madre líquida", "fermentos", "kg", 0.60, 20, 7, ("gluten",)),
    Ingredient("levadura", "Levadura fresca prensada", "fermentos", "kg", 3.40, 6, 28, ()),
    Ingredient("sal", "Sal marina de Torrevieja", "básicos", "kg", 0.35, 25, 720, ()),
    Ingredient("azucar", "Azúcar blanquilla", "básicos", "kg", 1.05, 60, 720, ()),
    Ingredient("mantequilla", "Mantequilla 82 % m.g.", "lácteos", "kg", 7.90, 40, 60, ("lácteos",)),
    Ingredient(
        "mantequilla-lamina",
        "Mantequilla en placa para hojaldre",
        "lácteos",
        "kg",
        8.60,
        30,
        60,
        ("lácteos",),
    ),
    Ingredient("leche", "Leche entera fresca", "lácteos", "l", 0.98, 50, 9, ("lácteos",)),
    Ingredient("nata", "Nata 35 % m.g.", "lácteos", "l", 3.75, 15, 14, ("lácteos",)),
    Ingredient("huevo", "Huevo campero L", "huevos", "docena", 2.95, 30, 25, ("huevo",)),
    Ingredient("aceite", "Aceite de oliva virgen extra", "aceites", "l", 8.40, 20, 365, ()),
    Ingredient("manteca", "Manteca de cerdo ibérico", "grasas", "kg", 4.10, 12, 120, ()),
    Ingredient("chocolate", "Cobertura de chocolate 70 %", "chocolates", "kg", 11.80, 15, 365, ("soja",)),
    Ingredient(
        "almendra", "Almendra marcona molida", "frutos secos", "kg", 12.50, 12, 180, ("frutos de cáscara",)
    ),
    Ingredient("nuez", "Nuez mariposa", "frutos secos", "kg", 9.70, 8, 180, ("frutos de cáscara",)),
    Ingredient("sesamo", "Sésamo tostado", "semillas", "kg", 4.60, 6, 240, ("sésamo",)),
    Ingredient("anis", "Matalahúva en grano", "especias", "kg", 14.20, 2, 365, ()),
    Ingredient("limon", "Limón ecológico", "frutas", "kg", 2.30, 6, 20, ()),
    Ingredient("cabello-angel", "Cabello de ángel", "rellenos", "kg", 3.85, 10, 180, ()),
)

PRODUCTS = (
    Product(
        "barra",
        "Barra de pan",
        "panes",
        1.10,
        240,
        60,
        210,
        (("harina-fuerza", 15), ("sal", 0.3), ("levadura", 0.2)),
    ),
    Product(
        "hogaza",
        "Hogaza de masa madre",
        "panes",
        4.20,
        60,
        20,
        960,
        (("harina-fuerza", 10), ("masa-madre", 3), ("sal", 0.2)),
    ),
    Product(
        "centeno",
        "Pan de centeno",
        "panes",
        4.60,
        25,
        15,
        780,
        (("harina-centeno", 7), ("masa-madre", 2), ("sal", 0.15)),
    ),
    Product(
        "espelta",
        "Pan de espelta",
        "panes",
        5.10,
        18,
        12,
        600,
        (("harina-espelta", 6), ("masa-madre", 1.5), ("sal", 0.1)),
    ),
    Product(
        "chapata",
        "Chapata al aceite",
        "panes",
        1.90,
        70,
        30,
        300,
        (("harina-fuerza", 8), ("aceite", 0.6), ("sal", 0.2)),
    ),
    Product(
        "croissant",
        "Croissant de mantequilla",
        "bollería",
        1.60,
        180,
        48,
        840,
        (("harina-fuerza", 3), ("mantequilla-lamina", 1.5), ("leche", 1)),
    ),
    Product(
        "napolitana",
        "Napolitana de chocolate",
        "bollería",
        1.80,
        90,
        40,
        840,
        (("harina-fuerza", 3), ("mantequilla-lamina", 1.4), ("chocolate", 0.8)),
    ),
    Product(
        "ensaimada",
        "Ensaimada mallorquina",
        "bollería",
        2.20,
        45,
        24,
        1080,
        (("harina-fuerza", 2.5), ("manteca", 1), ("azucar", 0.5), ("huevo", 0.5)),
    ),
    Product(
        "magdalena",
        "Magdalena de limón",
        "bollería",
        0.75,
        130,
        60,
        60,
        (("harina-floja", 2), ("azucar", 2), ("aceite", 1.2), ("huevo", 2), ("limon", 0.3)),
    ),
    Product(
        "palmera",
        "Palmera de hojaldre",
        "bollería",
        1.90,
        55,
        30,
        420,
        (("harina-floja", 2.5), ("mantequilla-lamina", 1.6), ("azucar", 0.9)),
    ),
    Product(
        "empanada",
        "Empanada gallega",
        "salados",
        12.50,
        14,
        6,
        120,
        (("harina-fuerza", 2), ("aceite", 0.5), ("huevo", 0.5)),
    ),
    Product(
        "tarta-santiago",
        "Tarta de Santiago",
        "pastelería",
        18.00,
        9,
        6,
        75,
        (("almendra", 1.5), ("azucar", 1.5), ("huevo", 2)),
    ),
    Product(
        "roscon",
        "Roscón de nata",
        "pastelería",
        22.00,
        8,
        8,
        600,
        (("harina-fuerza", 3), ("mantequilla", 0.6), ("nata", 2), ("huevo", 1)),
    ),
    Product(
        "miguelito",
        "Miguelito de crema",
        "pastelería",
        1.30,
        80,
        50,
        300,
        (("harina-floja", 2), ("mantequilla-lamina", 1.3), ("leche", 2)),
    ),
)

SUPPLIERS = (
    Supplier("harinera-duero", "Harinera del Duero", "Zamora", ("harinas",), 3),
    Supplier("molino-espelta", "Molino Ecológico Las Eras", "Cuenca", ("harinas", "semillas"), 5),
    Supplier("lacteos-asturias", "Lácteos de Asturias", "Oviedo", ("lácteos",), 2),
    Supplier("granja-olmo", "Granja El Olmo", "Segovia", ("huevos",), 1),
    Supplier("almazara-jaen", "Almazara Sierra Mágina", "Jaén", ("aceites",), 4),
    Supplier("cacao-norte", "Cacaos del Norte", "Bilbao", ("chocolates",), 4),
    Supplier(
        "frutos-levante", "Frutos Secos de Levante", "Alicante", ("frutos secos", "especias", "frutas"), 3
    ),
    Supplier(
        "distribuciones-pan",
        "Distribuciones Panaderas",
        "Madrid",
        ("básicos", "fermentos", "grasas", "rellenos"),
        2,
    ),
)

CUSTOMERS = (
    ("Cafetería Central", "hostelería"),
    ("Hotel Plaza Mayor", "hostelería"),
    ("Restaurante El Fogón", "hostelería"),
    ("Colegio San José", "comedor"),
    ("Residencia Los Olivos", "comedor"),
    ("Ultramarinos Pilar", "tienda"),
    ("Catering La Dehesa", "catering"),
    ("Oficinas Torre Norte", "empresa"),
)

BAKERS = ("Rosa Prieto", "Iván Castaño", "Nuria Sáez", "Tomás Gil", "Fátima Benali")
