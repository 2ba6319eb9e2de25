"""The components of one document: references to them, and which of them are needed and sound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kernel.openapi.objects import KIND, Objects, operation_pointer
from kernel.openapi.parts import (
    SECTIONS,
    Json,
    Key,
    OperationId,
    Part,
    Ref,
    Unusable,
    escaped,
    pointer,
    shown,
)
from kernel.openapi.schemas import Schemas


class Components:
    """`raw` as the document has them; `clean` those that are needed; `bad` why others cannot be had."""

    def __init__(self, given: Any, legacy: bool) -> None:
        self.raw: dict[str, Json] = {}
        for section in (*SECTIONS, "pathItems"):
            found = given.get(section) if isinstance(given, dict) else None
            self.raw[section] = found if isinstance(found, dict) else {}
        self.clean: dict[Key, Part] = {}
        self.bad: dict[Key, str] = {}
        # What is wrong with where a reference (component, rest) leads to.
        self._verdicts: dict[tuple[Key, str], str] = {}
        # What the part that is being cleaned refers to.
        self.refs: list[Ref] = []
        # Operations that are served, by id and by pointer.
        self.operations: dict[str, OperationId] = {}
        children: dict[str, list[str]] = {}
        for name, schema in self.raw["schemas"].items():
            for parent in _parents(schema):
                children.setdefault(parent, []).append(name)
        self.objects = Objects(Schemas(self.resolve, children, legacy), self.resolve, self._operation)

    def resolve(self, section: str, text: Any, *, keep: bool = True) -> Ref:
        """The reference that `text` is; one to `keep` belongs to the part that is being cleaned. Raises Unusable."""
        if not isinstance(text, str) or not text.startswith("#/"):
            raise Unusable(f"it refers to {shown(text)}, which is outside the document")
        parts = pointer(text)
        if len(parts) < 3 or parts[0] != "components" or parts[1] != section:
            raise Unusable(f"it refers to {shown(text)}, which is no component of {section}")
        target: Any = self.raw[section]
        for part in parts[2:]:
            if isinstance(target, list) and part.isascii() and part.isdigit() and int(part) < len(target):
                target = target[int(part)]
            elif isinstance(target, dict) and part in target:
                target = target[part]
            else:
                raise Unusable(f"it refers to {shown(text)}, which is not there")
        rest = "".join(f"/{escaped(part)}" for part in parts[3:])
        ref = Ref((section, parts[2]), rest)
        if keep:
            self.refs.append(ref)
        return ref

    def _operation(self, named: str) -> OperationId | None:
        if named.startswith("#/"):
            place = operation_pointer(named)
            named = f"#/paths/{escaped(place[0])}/{place[1]}" if place else ""
        return self.operations.get(named)

    def collect(self, wanted: list[Part]) -> None:
        """Clean every component that is referred to, directly or not; what cannot be cleaned spoils what needs it."""
        waiting = [ref.key for part in wanted for ref in part.refs]
        while waiting:
            key = waiting.pop()
            if key in self.clean or key in self.bad:
                continue
            refs: list[Ref] = []
            self.refs = refs
            try:
                section, name = key
                raw = self.raw[section][name]
                clean = key_scheme(raw) if section == "securitySchemes" else None
                self.clean[key] = Part(clean or self.objects.clean(KIND[section], raw, name), refs)
            except Unusable as why:
                self.bad[key] = f"{key[1]}: {why}"
            waiting += [ref.key for ref in refs]
        users: dict[Key, list[Key]] = {}
        for key, part in self.clean.items():
            for ref in part.refs:
                users.setdefault(ref.key, []).append(key)
                wrong = self._astray(ref)
                if wrong:
                    self.bad.setdefault(key, f"{key[1]}: it refers to {shown(ref.text())}, {wrong}")
        spoilt = list(self.bad)
        while spoilt:
            key = spoilt.pop()
            for user in users.get(key, ()):
                if user not in self.bad:
                    self.bad[user] = self.bad[key]
                    spoilt.append(user)

    def trouble(self, part: Part) -> str:
        """Why `part` cannot be had for what it refers to; "" when it can."""
        for ref in part.refs:
            if ref.key in self.bad:
                return self.bad[ref.key]
            wrong = self._astray(ref)
            if wrong:
                return f"it refers to {shown(ref.text())}, {wrong}"
        return ""

    def _astray(self, ref: Ref) -> str:
        """What is wrong with where `ref` leads to, reference after reference; "" when nothing is."""
        passed: dict[tuple[Key, str], None] = {}
        while True:
            at = (ref.key, ref.rest)
            verdict = self._verdicts.get(at)
            if verdict is not None:
                break
            if at in passed:
                verdict = "which leads in a circle"
                break
            passed[at] = None
            following = None
            verdict = ""
            if ref.key in self.clean:  # or it is bad itself
                try:
                    target = _target(self.clean[ref.key], ref.rest)
                    following = target.get("$ref") if isinstance(target, dict) else None
                except LookupError:
                    verdict = "which is not there"
            if not isinstance(following, Ref):
                break
            ref = following
        self._verdicts.update(dict.fromkeys(passed, verdict))
        return verdict

    def prune(self, wanted: list[Part]) -> None:
        """Leave only the components that are still needed; none of them is bad."""
        needed: set[Key] = set()
        waiting = [ref.key for part in wanted for ref in part.refs]
        while waiting:
            key = waiting.pop()
            if key not in needed:
                needed.add(key)
                waiting += [ref.key for ref in self.clean[key].refs]
        self.clean = {key: part for key, part in self.clean.items() if key in needed}


def _parents(schema: Any) -> Iterator[str]:
    listed = schema.get("allOf") if isinstance(schema, dict) else None
    for each in listed if isinstance(listed, list) else ():
        text = each.get("$ref") if isinstance(each, dict) else None
        if isinstance(text, str) and text.startswith("#/components/schemas/"):
            yield pointer(text)[2]


def key_scheme(scheme: Any) -> Json | None:
    """An API key that a client sends beside its token; None for everything that tokens stand for."""
    if not isinstance(scheme, dict) or scheme.get("type") != "apiKey":
        return None
    name, place = scheme.get("name"), scheme.get("in")
    if (
        not isinstance(name, str)
        or place not in ("query", "header", "cookie")
        or name.lower() == "authorization"
    ):
        return None
    kept = {"type": "apiKey", "name": name, "in": place}
    if isinstance(scheme.get("description"), str):
        kept["description"] = scheme["description"]
    return kept


def _target(part: Part, rest: str) -> Any:
    """What `rest` leads to once its component has been cleaned. Raises LookupError."""
    target = part.document
    for each in pointer("#" + rest) if rest else ():
        if isinstance(target, list):
            target = target[int(each)] if each.isdigit() else target[len(target)]
        elif isinstance(target, dict):
            target = target[each]
        else:
            raise LookupError(each)
    return target
