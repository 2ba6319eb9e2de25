"""The variables that `Settings` declares, read back from its annotations for the parser and the reference."""

from __future__ import annotations

from typing import Any, get_type_hints

from msgspec import Meta, Struct

from kernel.config.settings import Settings
from kernel.config.values import Kind, size_text


class Variable(Struct, frozen=True):
    """A variable as declared. `default` is text for the reference, empty when there is none."""

    name: str
    attribute: str
    kind: Kind[Any]
    about: str
    example: str
    default: str
    secret: bool
    group: str


def _text(value: object, kind: Kind[Any]) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return size_text(value) if kind.title.startswith("size") else str(value)
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _variables() -> tuple[Variable, ...]:
    found: list[Variable] = []
    group = ""
    hints = get_type_hints(Settings, include_extras=True)
    for attribute, default in zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True):
        for meta in getattr(hints[attribute], "__metadata__", ()):
            if not isinstance(meta, Meta) or meta.extra is None:
                continue
            kind = meta.extra["kind"]
            group = meta.extra["group"] or group
            found.append(
                Variable(
                    name=meta.extra["name"] or attribute.upper(),
                    attribute=attribute,
                    kind=kind,
                    about=meta.description or "",
                    example=str((meta.examples or [""])[0]),
                    default=meta.extra["default"] or _text(default, kind),
                    secret=meta.extra["secret"],
                    group=group,
                )
            )
    return tuple(found)


VARIABLES: tuple[Variable, ...] = _variables()
