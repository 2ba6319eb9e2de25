"""What is wrong with a configuration, collected so that an operator can mend all of it at once."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct


class ConfigError(Struct, frozen=True):
    """`problem` says what is wrong with `variable` (a variable, or a place in gateway.toml) and never quotes a secret;
    `example` is a value that would do."""

    variable: str
    problem: str
    example: str = ""

    def __str__(self) -> str:
        hint = f" (for example {self.example})" if self.example else ""
        return f"{self.variable}: {self.problem}{hint}"


class ConfigErrors(Exception):
    """Every error of a configuration; `warnings` are what else looks wrong, and is often the cause."""

    def __init__(self, errors: Iterable[ConfigError], warnings: Iterable[ConfigError] = ()) -> None:
        self.errors = tuple(errors)
        self.warnings = tuple(warnings)
        super().__init__("\n".join(map(str, self.errors)))
