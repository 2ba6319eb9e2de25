"""How `Settings` declares a variable: its parser and its documentation ride in the annotation's `Meta`."""

from __future__ import annotations

from typing import Any

from msgspec import Meta

from kernel.config.values import Kind, number


def variable(
    kind: Kind[Any],
    about: str,
    example: str,
    *,
    group: str | None = None,
    default: str | None = None,
    secret: bool = False,
    name: str | None = None,
) -> Meta:
    """A variable's documentation and parser. `group` opens a section of the reference; `default` is its text there.

    A `secret` is never quoted, and may come from the file that `<NAME>_FILE` names. `name` is the variable's, when it is not
    the attribute's in upper case.
    """
    return Meta(
        description=about,
        examples=[example],
        extra={"kind": kind, "group": group, "default": default, "secret": secret, "name": name},
    )


def seconds(
    about: str, example: str, *, high: float = 3600.0, low: float = 0.001, group: str | None = None
) -> Meta:
    return variable(number(low, high), about, example, group=group)
