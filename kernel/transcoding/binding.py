"""One rule at work: a request by its path, query and body to a message, and messages to JSON.

What is bound by the path is nowhere else; a body of `*` has all the rest and leaves nothing to the query; without one, or
with a field for it, the rest is in the query (google/api/http.proto).
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from kernel.routing.rpc import Rule
from kernel.transcoding.descriptors import HTTP_BODY, Descriptors
from kernel.transcoding.reader import Invalid
from kernel.transcoding.template import parse

JSON = b"application/json"
_MOST_PARAMETERS = 1000
_MEDIA = re.compile(r"[ -~]{0,200}")
_OCTETS = b"application/octet-stream"


class Unreadable(ValueError):
    """A message of the service is none of the type that its descriptors say. The text is for operators."""


class Binding:
    """`take` answers whether a path is one of the rule's, and what the variables in it are."""

    def __init__(self, descriptors: Descriptors, rule: Rule) -> None:
        method = descriptors.method(rule.call)
        template = parse(rule.template)
        self.call = rule.call
        self.streaming = rule.streaming
        self._descriptors = descriptors
        self._reader = descriptors.reader
        self._input = method.input_type
        self._output = method.output_type
        self._match = template.pattern().fullmatch
        self._variables = [(variable, variable.path.split(".")) for variable in template.variables]
        self._bound = {variable.path for variable in template.variables}
        self._body = rule.body
        fields = self._reader.fields(self._input)
        self._field = fields[rule.body] if rule.body not in ("", "*") else None
        if self._field is not None:
            self._bound.add(self._field.name)
        body_type = self._field.message if self._field else self._input if rule.body == "*" else None
        self._raw_body = body_type is not None and body_type.full_name == HTTP_BODY
        self._shown: Any = None
        if rule.response_body:
            self._shown = self._output.fields_by_name[rule.response_body]
        shown = self._shown.message_type if self._shown is not None else self._output
        # Messages are parts of a body, not JSON.
        self.raw_answer = shown is not None and shown.full_name == HTTP_BODY

    @property
    def has_body(self) -> bool:
        """Whether there is something for a body to be."""
        return self._body != ""

    def take(self, path: bytes) -> tuple[bytes | None, ...] | None:
        """The raw values of the variables in `path`; None when it is not the rule's."""
        found = self._match(path)
        return None if found is None else found.groups()

    def request(self, taken: tuple[bytes | None, ...], query: bytes, body: bytes, media: str) -> bytes:
        """The message of a request, encoded. Raises `Invalid`."""
        message = self._descriptors.message(self._input)
        if self.has_body:
            self._put_body(message, body, media)
        elif body.strip() not in (b"", b"{}"):
            raise Invalid("", "no body is taken here")
        for (variable, path), raw in zip(self._variables, taken, strict=True):
            text = variable.decode(raw or b"")
            self._reader.put_text(message, path, [text], variable.path)
        if query:
            self._put_query(message, query)
        try:
            data: bytes = message.SerializeToString()
        except ValueError as error:  # a required field of proto2
            raise Invalid("", str(error).partition("\n")[0][:300]) from None
        return data

    def _put_body(self, message: Any, body: bytes, media: str) -> None:
        field = self._field
        if self._raw_body:
            target = message if field is None else getattr(message, field.name)
            target.content_type, target.data = media, body
            return
        if not body.strip():
            return
        try:
            value = msgspec.json.decode(body)
        # SECURITY: RecursionError is what nesting without end comes to.
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Invalid("", "the body is not JSON") from None
        if field is None:
            self._reader.read(message, value)
        elif value is not None or field.takes_null:
            try:
                self._reader.put(message, field, value)
            except Invalid as error:
                raise error.within(field.name) from None

    def _put_query(self, message: Any, query: bytes) -> None:
        try:
            pairs = parse_qsl(
                query.decode("ascii"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=_MOST_PARAMETERS,
            )
        except UnicodeDecodeError:
            raise Invalid("", "the query is not UTF-8 behind its percent-encoding") from None
        except ValueError:
            raise Invalid("", f"the query has more than {_MOST_PARAMETERS} parameters") from None
        given: dict[str, list[str]] = {}
        for name, value in pairs:
            given.setdefault(name, []).append(value)
        if given and self._body == "*":
            raise Invalid(next(iter(given))[:100], "there is no such parameter: everything is in the body")
        seen: set[str] = set()
        for name, values in given.items():
            shown = name[:100]
            path = self._declared(name)
            dotted = ".".join(path)
            if not path or dotted in seen:
                raise Invalid(shown, "there is no such parameter" if not path else "it is given twice")
            if any(dotted == bound or dotted.startswith(f"{bound}.") for bound in self._bound):
                raise Invalid(shown, "it is in the path or in the body, and not in the query")
            seen.add(dotted)
            self._reader.put_text(message, path, values, shown)

    def _declared(self, name: str) -> list[str]:
        """The names in the .proto file of the fields on the way that `name` is, in either spelling; empty: there is none."""
        kind: Any = self._input
        path: list[str] = []
        for part in name.split("."):
            field = self._reader.fields(kind).get(part) if kind is not None else None
            if field is None:
                return []
            path.append(field.name)
            kind = field.message if field.key is None and not field.repeated and not field.own_form else None
        return path

    def answer(self, data: bytes) -> tuple[bytes, bytes]:
        """A message of the service as a response's content type and body. Raises `Unreadable`."""
        message = self._descriptors.message(self._output)
        try:
            message.ParseFromString(data)
        except DecodeError as error:
            raise Unreadable(f"{self.call} answered no {self._output.full_name}: {error}") from None
        if self.raw_answer:
            shown = message if self._shown is None else getattr(message, self._shown.name)
            # SECURITY: a line feed in it would begin another header.
            if not _MEDIA.fullmatch(shown.content_type):
                raise Unreadable(f"{self.call} answered a content type that is none")
            return shown.content_type.encode() or _OCTETS, shown.data
        try:
            value = json_format.MessageToDict(message, descriptor_pool=self._descriptors.pool)
            if self._shown is not None:
                name = self._shown.json_name
                value = value[name] if name in value else self._absent(message)
        except (TypeError, ValueError, json_format.Error) as error:  # an Any that nobody knows
            raise Unreadable(f"{self.call} answered what has no JSON form: {error}") from None
        return JSON, msgspec.json.encode(value)

    def _absent(self, message: Any) -> Any:
        """What a field that is not there is in JSON: as the library would print it."""
        if self._shown.message_type is not None and not self._shown.is_repeated:
            return None
        shown = json_format.MessageToDict(
            message, always_print_fields_with_no_presence=True, descriptor_pool=self._descriptors.pool
        )
        return shown.get(self._shown.json_name)


def shown_any(descriptors: Descriptors, url: str, data: bytes) -> dict[str, Any]:
    """A detail of an error: decoded when its type is known here, else as it came, in base64."""
    from google.protobuf import descriptor_pool  # noqa: PLC0415
    from google.rpc import error_details_pb2  # noqa: F401, PLC0415  # puts the usual details into the default pool

    name = url.rpartition("/")[2]
    for pool in (descriptors.pool, descriptor_pool.Default()):
        try:
            message = descriptors.message(pool.FindMessageTypeByName(name))
            message.ParseFromString(data)
            return {"@type": url, **json_format.MessageToDict(message, descriptor_pool=pool)}
        except (KeyError, TypeError, ValueError, DecodeError, json_format.Error):
            continue
    return {"@type": url, "value": b64encode(data).decode()}
