"""Prefix trie over the segments of the raw path.

Patterns: `/a/b` literal segments (`/a/b/` is another path), `{name}` one non-empty segment, a trailing `**` the rest
(zero or more segments).
At every segment a literal beats a parameter beats a catch-all, whatever the order of insertion; a dead end goes back to
the deepest alternative. The pattern is chosen first, then the method: a known path with a wrong method is a miss with
the methods it has. Nothing is decoded: the bytes that match are the bytes that are forwarded.
"""

from __future__ import annotations

import re
from typing import Generic, TypeVar

T = TypeVar("T")
_SEGMENT = re.compile(rb"[A-Za-z0-9\-._~!$&'()+,;=:@%]+")
_PARAMETER = re.compile(r"\{([a-z][a-z0-9_]*)\}")


class RouteConflictError(ValueError):
    """Two patterns cannot both be registered; the message names them."""


class _Node(Generic[T]):
    __slots__ = ("literals", "param", "param_name", "pattern", "rest", "rest_pattern", "routes")

    def __init__(self) -> None:
        self.literals: dict[bytes, _Node[T]] = {}
        self.param: _Node[T] | None = None
        self.param_name = ""
        self.routes: dict[str, T] | None = None  # method -> route, for a pattern that ends here
        self.rest: dict[str, T] | None = None  # method -> route, for a catch-all that starts here
        self.pattern = ""
        self.rest_pattern = ""


class Trie(Generic[T]):
    """`add` routes, then `match` for ever; `match` never raises."""

    __slots__ = ("_root",)

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, methods: frozenset[str], pattern: str, route: T) -> None:
        """Register `route` for `pattern` and each of `methods`.

        Raises:
            RouteConflictError: malformed pattern, the same method twice, or two names for one parameter.
        """
        if not pattern.startswith("/"):
            raise RouteConflictError(f"{pattern}: a pattern starts with '/'")
        segments = pattern[1:].split("/")
        catch_all = segments[-1] == "**"
        node = self._root
        for segment in segments[:-1]:
            node = self._descend(node, segment, pattern)
        if not catch_all:
            # A last empty segment is the trailing slash of "/" or "/a/": a path of its own.
            node = (
                node.literals.setdefault(b"", _Node())
                if not segments[-1]
                else self._descend(node, segments[-1], pattern)
            )
        table = node.rest if catch_all else node.routes
        other = node.rest_pattern if catch_all else node.pattern
        if table is None:
            table = {}
            if catch_all:
                node.rest, node.rest_pattern = table, pattern
            else:
                node.routes, node.pattern = table, pattern
        for method in sorted(methods):
            if method in table:
                raise RouteConflictError(f"{method} {pattern} conflicts with {method} {other}")
            table[method] = route

    def _descend(self, node: _Node[T], segment: str, pattern: str) -> _Node[T]:
        named = _PARAMETER.fullmatch(segment)
        if named:
            if node.param is None:
                node.param, node.param_name = _Node(), named[1]
            elif node.param_name != named[1]:
                raise RouteConflictError(
                    f"{pattern}: the parameter {segment} is called {{{node.param_name}}} in another pattern"
                )
            return node.param
        raw = segment.encode()
        if not _SEGMENT.fullmatch(raw):
            raise RouteConflictError(
                f"{pattern}: {segment!r} is not a literal, a {{name}} or a trailing '**'"
            )
        return node.literals.setdefault(raw, _Node())

    def match(self, path: bytes) -> tuple[dict[str, T] | None, tuple[bytes, ...]]:
        """The methods' routes of the best pattern for `path` (raw, starting with '/') and the parameters' raw values.

        Returns (None, ()) when no pattern matches.
        """
        segments = path.split(b"/")
        count = len(segments)
        node: _Node[T] = self._root
        params: tuple[bytes, ...] = ()
        index = 1
        # Alternatives passed over on the way down, deepest last: (node, index, params, only the catch-all is left).
        passed: list[tuple[_Node[T], int, tuple[bytes, ...], bool]] | None = None
        catch_all_only = False
        while True:
            if index < count and not catch_all_only:
                segment = segments[index]
                child = node.literals.get(segment)
                if child is not None:
                    if node.param is not None or node.rest is not None:
                        # Only the parameter and the catch-all are left to try here.
                        alternative = (node, index, params, node.param is None or not segment)
                        if passed is None:
                            passed = [alternative]
                        else:
                            passed.append(alternative)
                    node = child
                    index += 1
                    continue
                if node.param is not None and segment:
                    if node.rest is not None:
                        passed = passed or []
                        passed.append((node, index, params, True))
                    node = node.param
                    params = (*params, segment)
                    index += 1
                    continue
            elif index >= count and node.routes is not None:
                return node.routes, params
            if node.rest is not None:
                return node.rest, params
            if not passed:
                return None, ()
            node, index, params, catch_all_only = passed.pop()
            if not catch_all_only:
                # The literal was tried: step into the parameter, leaving the catch-all behind as the last resort.
                parameter = node.param
                assert parameter is not None
                if node.rest is not None:
                    passed.append((node, index, params, True))
                params = (*params, segments[index])
                node = parameter
                index += 1
