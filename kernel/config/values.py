"""Kinds of values: text in, value out. `parse` raises ValueError whose message tells an operator what is wrong."""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from msgspec import Struct

from kernel.http.addresses import Network

T = TypeVar("T")
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})
_UNITS = {"": 1, "b": 1, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})")
_SIZE = re.compile(r"([0-9]{1,18}) ?([A-Za-z]*)")
_LABEL = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_QUOTED = 80
# As many as keys without a name are tried on one token.
MOST_SECRETS = 4


class Kind(Struct, Generic[T], frozen=True):
    """A kind of value: its `title` in the reference, and its parser."""

    title: str
    parse: Callable[[str], T]


def quote(value: str) -> str:
    """`value` for a message: printable and short."""
    return repr(value if len(value) <= _QUOTED else value[: _QUOTED - 3] + "...")


def sound(value: str) -> str:
    """`value`, if it is text: what comes from an environment may be any bytes. Raises ValueError."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8 text") from None
    if "\0" in value:
        raise ValueError("has a NUL character")
    return value


def _path(value: str) -> Path:
    # Linux' PATH_MAX and NAME_MAX.
    if len(value.encode()) > 4095 or any(len(part.encode()) > 255 for part in value.split("/")):
        raise ValueError("the name is too long: 255 bytes in each part of a path, 4095 in all")
    return Path(value)


def _label(value: str) -> str:
    if not _LABEL.fullmatch(value):
        raise ValueError(f"{quote(value)} is not 1 to 64 letters, digits, '_', '.', ':' or '-'")
    return value.lower()


TEXT = Kind("text", str)
LABEL = Kind("word", _label)
PATH = Kind("path of a file", _path)


def listed(item: Kind[T]) -> Kind[tuple[T, ...]]:
    """Comma-separated values: blanks around them and empty ones are dropped, doubles kept once."""

    def parse(value: str) -> tuple[T, ...]:
        entries = dict.fromkeys(part.strip() for part in value.split(","))
        return tuple(dict.fromkeys(item.parse(entry) for entry in entries if entry))

    return Kind(f"{item.title}, comma-separated", parse)


def _secrets(value: str) -> tuple[str, ...]:
    found = listed(TEXT).parse(value)
    if not found:
        raise ValueError("no secret is given")
    if len(found) > MOST_SECRETS:
        raise ValueError(f"has {len(found)} secrets; at most {MOST_SECRETS} are tried on a token")
    return found


SECRETS = Kind("secret, or several, comma-separated", _secrets)


def integer(low: int, high: int) -> Kind[int]:
    """Whole numbers from `low` to `high`."""

    def parse(value: str) -> int:
        if not _INTEGER.fullmatch(value):
            raise ValueError(f"{quote(value)} is not a whole number")
        result = int(value)
        if not low <= result <= high:
            raise ValueError(f"{result} is not between {low} and {high}")
        return result

    return Kind(f"integer, {low} to {high}", parse)


def number(low: float, high: float) -> Kind[float]:
    """Decimal numbers from `low` to `high`."""

    def parse(value: str) -> float:
        if not _NUMBER.fullmatch(value):
            raise ValueError(f"{quote(value)} is not a number")
        result = float(value)
        if not low <= result <= high:
            raise ValueError(f"{result:g} is not between {low:g} and {high:g}")
        return result

    return Kind(f"number, {low:g} to {high:g}", parse)


def size(low: int, high: int) -> Kind[int]:
    """Sizes in bytes: `10485760`, `10240 KiB` or `10MiB`."""

    def parse(value: str) -> int:
        match = _SIZE.fullmatch(value)
        unit = _UNITS.get(match[2].lower()) if match else None
        if match is None or unit is None:
            raise ValueError(f"{quote(value)} is not a size in bytes, KiB, MiB or GiB")
        result = int(match[1]) * unit
        if not low <= result <= high:
            raise ValueError(f"{size_text(result)} is not between {size_text(low)} and {size_text(high)}")
        return result

    return Kind(f"size, {size_text(low)} to {size_text(high)}", parse)


def size_text(count: int) -> str:
    """`count` bytes in the largest unit that divides it; `size` reads it back."""
    for unit in ("GiB", "MiB", "KiB"):
        factor = _UNITS[unit.lower()]
        if count and count % factor == 0:
            return f"{count // factor}{unit}"
    return str(count)


def _flag(value: str) -> bool:
    lowered = value.lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise ValueError(f"{quote(value)} is neither true nor false")


FLAG = Kind("true or false", _flag)


def choice(*options: str, fold: Callable[[str], str] = str) -> Kind[str]:
    """One of `options`, after `fold` has been applied."""

    def parse(value: str) -> str:
        folded = fold(value)
        if folded not in options:
            raise ValueError(f"{quote(value)} is not one of {', '.join(options)}")
        return folded

    return Kind(", ".join(f"`{option}`" for option in options), parse)


_FIELD_NAME = re.compile(r"[A-Za-z0-9!#$%&'+.^_`|~-]+")


def _field_name(value: str) -> str:
    # '*' is a token, too, and would be read as every header, but with credentials as one of that name.
    if not _FIELD_NAME.fullmatch(value):
        raise ValueError(f"{quote(value)} is not the name of a header")
    return value.lower()


FIELD_NAME = Kind("name of a header", _field_name)


def _network(value: str) -> Network:
    try:
        return ipaddress.ip_network(value)
    except ValueError:
        try:
            meant = ipaddress.ip_network(value, strict=False)
        except ValueError:
            raise ValueError(f"{quote(value)} is not an IP address or CIDR network") from None
        # Which of the two is meant decides whom to trust: the operator says.
        raise ValueError(f"{quote(value)} has host bits set: write {meant}") from None


NETWORK = Kind("address or CIDR network", _network)


def usable_cpus(quota_file: str = "/sys/fs/cgroup/cpu.max") -> int:
    """CPUs by affinity, less what a container's quota takes away."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open(quota_file, encoding="ascii") as file:
            quota, period = file.read().split()
        return max(1, min(cpus, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup here, or "max": no quota
        return cpus


def _workers(value: str) -> int:
    return usable_cpus() if value.lower() == "auto" else integer(1, 512).parse(value)


WORKERS = Kind("integer, 1 to 512, or `auto`: one for each usable CPU", _workers)
