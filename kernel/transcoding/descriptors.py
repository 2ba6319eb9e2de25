"""A FileDescriptorSet, as `protoc --include_imports --descriptor_set_out` writes it: its types, and its methods' rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from google.api import annotations_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from kernel.routing.catalog import METHODS, with_head
from kernel.routing.rpc import Rule
from kernel.transcoding.reader import Field, Reader
from kernel.transcoding.template import TemplateError, Variable, parse

HTTP_BODY = "google.api.HttpBody"
_VERBS = ("get", "put", "post", "delete", "patch")


class DescriptorsError(ValueError):
    """The file is not what is needed; the message says what to do about it."""


class Served(NamedTuple):
    """A method with a rule: what it is for routes, or what is wrong with it."""

    rule: Rule | None
    method: str
    problem: str = ""


class Descriptors:
    """Everything that one file describes.

    Raises:
        DescriptorsError: it is no such file, or imports what is not in it.
    """

    def __init__(self, file: bytes) -> None:
        try:
            found = FileDescriptorSet.FromString(file)
        except DecodeError:
            found = FileDescriptorSet()
        if not found.file:
            raise DescriptorsError(
                "the file is no FileDescriptorSet: make it with protoc --include_imports --descriptor_set_out"
            )
        self.pool = DescriptorPool()
        self.files = {each.name: each for each in found.file}
        added: set[str] = set()
        for each in found.file:
            self._add(each.name, each.name, added)
        self.reader = Reader(self.pool)

    def _add(self, name: str, wanted_by: str, added: set[str]) -> None:
        """Add a file after what it imports."""
        if name in added:
            return
        added.add(name)
        file = self.files.get(name)
        if file is None:
            raise DescriptorsError(f"{wanted_by} imports {name}, which is not in it: add --include_imports")
        for dependency in file.dependency:
            self._add(dependency, name, added)
        try:
            self.pool.Add(file)
        except (TypeError, ValueError) as error:
            raise DescriptorsError(f"{name} cannot be used: {str(error).strip()[:200]}") from None

    def methods(self) -> Iterator[tuple[MethodDescriptor, Any]]:
        """All of them in the file's order, each with its HttpRule or None."""
        for file in self.files.values():
            prefix = f"{file.package}." if file.package else ""
            for service in file.service:
                known = self.pool.FindServiceByName(prefix + service.name).methods_by_name
                for method in service.method:
                    options = method.options
                    ruled = options.HasExtension(annotations_pb2.http)
                    yield known[method.name], options.Extensions[annotations_pb2.http] if ruled else None

    def method(self, path: str) -> MethodDescriptor:
        """The method of a rule."""
        service, _, name = path[1:].partition("/")
        return self.pool.FindServiceByName(service).methods_by_name[name]

    def message(self, kind: Descriptor) -> Any:
        """A new message of `kind`."""
        return message_factory.GetMessageClass(kind)()

    def served(self) -> Iterator[Served]:
        """Every rule of every method that has some."""
        for method, rule in self.methods():
            for each in (rule, *rule.additional_bindings) if rule is not None else ():
                yield self._read(method, each)

    def calls(self) -> list[str]:
        """Of each method, what a rule calls it."""
        return [f"/{method.containing_service.full_name}/{method.name}" for method, _ in self.methods()]

    def _read(self, method: MethodDescriptor, rule: Any) -> Served:
        name = method.full_name
        if method.client_streaming:
            both = method.server_streaming
            return Served(
                None,
                name,
                f"is {'bidirectional' if both else 'client'} streaming, which HTTP clients have no form for",
            )
        kind = rule.WhichOneof("pattern")
        if kind is None:
            return Served(None, name, "has a rule without a method and path")
        verb, path = (
            (rule.custom.kind.upper(), rule.custom.path)
            if kind == "custom"
            else (kind.upper(), getattr(rule, kind))
        )
        where = f"{verb} {path}"
        verbs = METHODS if verb == "*" else frozenset((verb,))
        if not verbs <= METHODS:
            return Served(None, name, f"{where}: no {verb} is served here")
        try:
            template = parse(path)
        except TemplateError as error:
            return Served(None, name, f"{where}: the path is malformed: {error}")
        for variable in template.variables:
            flaw = self._variable_flaw(method.input_type, variable)
            if flaw:
                return Served(None, name, f"{where}: {flaw}")
        flaw = self._body_flaw(method, rule.body, rule.response_body)
        if flaw:
            return Served(None, name, f"{where}: {flaw}")
        call = f"/{method.containing_service.full_name}/{method.name}"
        made = Rule(
            call,
            tuple(sorted(with_head(verbs))),
            path,
            rule.body,
            rule.response_body,
            method.server_streaming,
        )
        return Served(made, name)

    def _variable_flaw(self, kind: Descriptor, variable: Variable) -> str:
        field: Field | None = None
        for name in variable.path.split("."):
            if kind is None:
                field = None
                break
            field = self.reader.fields(kind).get(name)
            if field is None or field.repeated:
                break
            kind = field.message
        if field is None:
            return f"{{{variable.path}}} names no field"
        if field.repeated or field.key is not None or field.text is None:
            return f"{{{variable.path}}} is no single value"
        return ""

    def _body_flaw(self, method: MethodDescriptor, body: str, response_body: str) -> str:
        if body not in ("", "*") and body not in method.input_type.fields_by_name:
            return f"the body is {body}, which is no field of {method.input_type.full_name}"
        if response_body and response_body not in method.output_type.fields_by_name:
            return (
                f"the response_body is {response_body}, which is no field of {method.output_type.full_name}"
            )
        return ""
