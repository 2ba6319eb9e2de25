"""JSON and text to messages, by the JSON mapping of Protocol Buffers (protobuf.dev/programming-guides/json).

Stricter than the library's own reader, and every error names its field: that takes any text for base64, and answers in the
words of Python. Messages with a JSON form of their own (Timestamp, Struct, Any, wrappers) are left to it.
"""

from __future__ import annotations

import math
import re
from base64 import b64decode
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

Convert = Callable[[Any], Any]

# As the library's.
_DEEPEST = 100
_MOST_NAMED = 12
_WHOLE = re.compile(r"-?[0-9]{1,20}")
_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_MASK = re.compile(r"(?:[A-Za-z0-9.]+(?:,[A-Za-z0-9.]+)*)?")
_BEFORE = re.compile(r"(?:Failed to parse [^ ]+ field: )+")
_AFTER = re.compile(r"(?: at [\w.\[\]]+)?\.*\Z")
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_LARGEST_FLOAT = 3.4028235677973366e38
_OWN_FORM = "google.protobuf."
_WRAPPER = re.compile(r"google\.protobuf\.(?:Bool|Bytes|Double|Float|U?Int(?:32|64)|String)Value")
# Those that are text in JSON, so that they can stand in a query.
_TEXTUAL = frozenset({"google.protobuf.Timestamp", "google.protobuf.Duration", "google.protobuf.FieldMask"})
_NULL = "google.protobuf.NullValue"


class Invalid(ValueError):
    """What a client sent cannot be read. The message begins with the field; it is for the client."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"`{path}`: {problem}." if path else f"{problem[0].upper()}{problem[1:]}.")
        self.path = path
        self._problem = problem

    def within(self, step: str) -> Invalid:
        """The same, told of what `step` leads to. PERF: paths are made when something is wrong, and not before."""
        inner = self.path
        joined = f"{step}{inner}" if not inner or inner.startswith("[") else f"{step}.{inner}"
        return Invalid(joined, self._problem)


def _whole(name: str, low: int, high: int) -> Convert:
    def convert(value: Any) -> int:
        number = value
        if (isinstance(value, str) and _WHOLE.fullmatch(value)) or (
            isinstance(value, float) and value.is_integer()
        ):
            number = int(value)
        if not isinstance(number, int) or isinstance(number, bool):
            raise ValueError(f"a whole number ({name}) is expected")
        if not low <= number <= high:
            raise ValueError(f"the number is out of the range of {name}")
        return number

    return convert


def _decimal(largest: float) -> Convert:
    def convert(value: Any) -> float:
        if isinstance(value, str):
            special = _SPECIAL.get(value)
            if special is not None:
                return special
            if not _DECIMAL.fullmatch(value):
                raise ValueError("a number is expected")
        elif not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError("a number is expected")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if abs(number) > largest:
            raise ValueError("the number is out of range")
        return number

    return convert


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false is expected")
    return value


def _boolean_text(value: str) -> bool:
    if value not in ("true", "false"):
        raise ValueError("true or false is expected")
    return value == "true"


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a string is expected")
    return value


def _octets(value: Any) -> bytes:
    """Base64 of either alphabet, with its padding or without."""
    text = value.replace("-", "+").replace("_", "/") if isinstance(value, str) else "!"
    bare = text.rstrip("=")
    if not _BASE64.fullmatch(text) or len(bare) % 4 == 1:
        raise ValueError("base64 is expected")
    return b64decode(bare + "=" * (-len(bare) % 4))


_KINDS: dict[int, Convert] = {
    **dict.fromkeys(
        (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SFIXED32),
        _whole("int32", -(2**31), 2**31 - 1),
    ),
    **dict.fromkeys(
        (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_SINT64, FieldDescriptor.TYPE_SFIXED64),
        _whole("int64", -(2**63), 2**63 - 1),
    ),
    **dict.fromkeys(
        (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_FIXED32), _whole("uint32", 0, 2**32 - 1)
    ),
    **dict.fromkeys(
        (FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64), _whole("uint64", 0, 2**64 - 1)
    ),
    FieldDescriptor.TYPE_DOUBLE: _decimal(math.inf),
    FieldDescriptor.TYPE_FLOAT: _decimal(_LARGEST_FLOAT),
    FieldDescriptor.TYPE_BOOL: _boolean,
    FieldDescriptor.TYPE_STRING: _string,
    FieldDescriptor.TYPE_BYTES: _octets,
}


def _enumeration(kind: Any) -> Convert:
    """By name or by number; a number that has no name is kept, unless the enum is closed."""
    names: dict[str, int] = {value.name: value.number for value in kind.values}
    numbers = frozenset(names.values())
    shown = ", ".join([*names][:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
    number_of = _whole("int32", -(2**31), 2**31 - 1)

    def convert(value: Any) -> int:
        if isinstance(value, str) and value in names:
            return names[value]
        try:
            number: int = number_of(value)
        except ValueError:
            raise ValueError(f"it is none of {shown}") from None
        if kind.is_closed and number not in numbers:
            raise ValueError(f"it is none of {shown}")
        return number

    return convert


class Field:
    """A field and how its values are read. `text` reads one from text; None: it has no form as text."""

    __slots__ = (
        "convert", "inner", "key", "message", "name", "oneof", "own_form", "repeated", "takes_null", "text"
    )  # fmt: skip

    def __init__(self, field: FieldDescriptor) -> None:
        self.name: str = field.name
        self.repeated = bool(field.is_repeated)
        self.key: Convert | None = None
        self.oneof: str = field.containing_oneof.name if field.containing_oneof else ""
        value = field
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            self.key = _key(field.message_type.fields_by_name["key"])
            value = field.message_type.fields_by_name["value"]
        self.message: Descriptor | None = value.message_type
        name = (
            self.message.full_name if self.message else value.enum_type.full_name if value.enum_type else ""
        )
        self.takes_null = name in ("google.protobuf.Value", _NULL)
        self.own_form = self.message is not None and name.startswith(_OWN_FORM)
        self.inner: dict[str, Field] | None = None  # of a message, once they were needed
        self.convert = self._convert(value)
        self.text = None if self.key else self._text(value, name)

    @staticmethod
    def _convert(value: FieldDescriptor) -> Convert | None:
        if value.enum_type is None:
            return _KINDS.get(value.type)
        plain = _enumeration(value.enum_type)
        if value.enum_type.full_name != _NULL:
            return plain
        return lambda given: 0 if given is None else plain(given)

    def _text(self, value: FieldDescriptor, name: str) -> Convert | None:
        if value.type == FieldDescriptor.TYPE_BOOL:
            return _boolean_text
        if self.message is None:
            return self.convert
        if _WRAPPER.fullmatch(name):
            inner = self.message.fields_by_name["value"]
            return _boolean_text if inner.type == FieldDescriptor.TYPE_BOOL else _KINDS[inner.type]
        return _string if name in _TEXTUAL else None


def _key(field: FieldDescriptor) -> Convert:
    """Keys of JSON objects are strings, whatever they stand for."""
    return _boolean_text if field.type == FieldDescriptor.TYPE_BOOL else _KINDS[field.type]


class Reader:
    """Reads messages of one `pool`. What is known of a type is kept."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool
        self._fields: dict[str, dict[str, Field]] = {}

    def fields(self, kind: Descriptor) -> dict[str, Field]:
        """By both names: the JSON one, and that in the .proto file."""
        known = self._fields.get(kind.full_name)
        if known is None:
            known = {}
            for each in kind.fields:
                field = Field(each)
                known[each.name] = field
                known[each.json_name] = field
            self._fields[kind.full_name] = known
        return known

    def read(self, message: Any, value: Any) -> None:
        """Put the JSON `value` into `message`. Raises `Invalid`."""
        if message.DESCRIPTOR.full_name.startswith(_OWN_FORM):
            self._own_form(message, value)
        else:
            self._object(message, self.fields(message.DESCRIPTOR), value, 0)

    def _object(self, message: Any, fields: dict[str, Field], value: Any, depth: int) -> None:
        if not isinstance(value, dict):
            raise Invalid("", "a JSON object is expected")
        if depth >= _DEEPEST:
            raise Invalid("", "it is nested too deeply")
        seen: set[str] = set()
        for key, item in value.items():
            field = fields.get(key)
            if field is None:
                raise Invalid(key[:200], f"there is no such field; there are {_listed(fields)}")
            if field.name in seen or (field.oneof and item is not None and field.oneof in seen):
                raise Invalid(key, "it is given twice, or beside one that excludes it")
            seen.add(field.name)
            if item is None and not (field.takes_null and not field.repeated):
                continue
            if field.oneof:
                seen.add(field.oneof)
            try:
                self.put(message, field, item, depth)
            except Invalid as error:
                raise error.within(key) from None

    def put(self, message: Any, field: Field, item: Any, depth: int = 0) -> None:
        """Set `field` of `message` to the JSON value `item`. Raises `Invalid`, from the field on."""
        if field.key is not None:
            self._map(getattr(message, field.name), field, item, depth)
        elif field.repeated:
            self._list(getattr(message, field.name), field, item, depth)
        elif field.message is not None:
            nested = getattr(message, field.name)
            nested.SetInParent()
            self._nested(nested, field, item, depth + 1)
        else:
            _store(partial(setattr, message, field.name), field, item)

    def _nested(self, message: Any, field: Field, item: Any, depth: int) -> None:
        if field.own_form:
            self._own_form(message, item)
            return
        fields = field.inner
        if fields is None:
            fields = field.inner = self.fields(message.DESCRIPTOR)
        self._object(message, fields, item, depth)

    def _list(self, target: Any, field: Field, item: Any, depth: int) -> None:
        if not isinstance(item, list):
            raise Invalid("", "a JSON array is expected")
        if field.message is None:
            assert field.convert is not None
            try:
                # PERF: one call for all; which of them is wrong is looked for when one is.
                target.extend(map(field.convert, item))
            except ValueError:
                del target[:]
            else:
                return
        for at, each in enumerate(item):
            try:
                if each is None and not field.takes_null:
                    raise Invalid("", "null is no element")
                if field.message is None:
                    _store(target.append, field, each)
                else:
                    self._nested(target.add(), field, each, depth + 1)
            except Invalid as error:
                raise error.within(f"[{at}]") from None

    def _map(self, target: Any, field: Field, item: Any, depth: int) -> None:
        if not isinstance(item, dict):
            raise Invalid("", "a JSON object is expected")
        assert field.key is not None
        for name, each in item.items():
            try:
                key = field.key(name)
            except ValueError as error:
                raise Invalid(name, f"as a key {error}") from None
            try:
                if each is None and not field.takes_null:
                    raise Invalid("", "null is no value of a map")
                if field.message is not None:
                    self._nested(target[key], field, each, depth + 1)
                else:
                    _store(partial(target.__setitem__, key), field, each)
            except Invalid as error:
                raise error.within(name) from None

    def put_text(self, message: Any, path: Iterable[str], text: list[str], place: str) -> None:
        """Set the field at `path` below `message` to what `text` stands for: several texts make a repeated field.

        Raises:
            Invalid: it is no such text, or no field that has a form as text.
        """
        *outer, last = path
        for name in outer:
            field = self.fields(message.DESCRIPTOR).get(name)
            if field is None or field.message is None or field.repeated or field.own_form:
                raise Invalid(place, "there is no such field")
            message = getattr(message, field.name)
            message.SetInParent()
        field = self.fields(message.DESCRIPTOR).get(last)
        if field is None:
            raise Invalid(place, "there is no such field")
        if field.text is None:
            raise Invalid(place, "it has no form in which it could be sent here")
        if len(text) > 1 and not field.repeated:
            raise Invalid(place, "it is given more than once")
        if field.oneof and message.WhichOneof(field.oneof) not in (None, field.name):
            raise Invalid(place, "it is given beside one that excludes it")
        try:
            values = [field.text(each) for each in text]
        except ValueError as error:
            raise Invalid(place, str(error)) from None
        if field.message is not None:
            for each, value in zip(text, values, strict=True):
                nested = (
                    getattr(message, field.name).add() if field.repeated else getattr(message, field.name)
                )
                nested.SetInParent()
                if hasattr(nested, "value"):
                    nested.value = value
                    continue
                try:
                    self._own_form(nested, each)
                except Invalid as error:
                    raise error.within(place) from None
        elif field.repeated:
            getattr(message, field.name).extend(values)
        else:
            setattr(message, field.name, values[0])

    def _own_form(self, message: Any, value: Any) -> None:
        name = message.DESCRIPTOR.full_name
        if name == "google.protobuf.FieldMask" and isinstance(value, str) and not _MASK.fullmatch(value):
            raise Invalid("", "names of fields in camelCase are expected, separated by commas")
        if name == "google.protobuf.Empty" and value != {}:
            raise Invalid("", "an empty object is expected")
        if _WRAPPER.fullmatch(name):
            field = self.fields(message.DESCRIPTOR)["value"]
            message.SetInParent()
            _store(partial(setattr, message, "value"), field, value)
            return
        try:
            json_format.ParseDict(value, message, descriptor_pool=self._pool, max_recursion_depth=_DEEPEST)
        except json_format.ParseError as error:
            said = _AFTER.sub("", _BEFORE.sub("", str(error).partition("\n")[0])) or "it is malformed"
            raise Invalid("", said[0].lower() + said[1:300]) from None
        except (TypeError, ValueError, AttributeError, OverflowError, RecursionError, KeyError):
            raise Invalid("", f"no {name.rpartition('.')[2]} can be made of it") from None


def _store(put: Callable[[Any], None], field: Field, item: Any) -> None:
    assert field.convert is not None
    try:
        put(field.convert(item))
    except UnicodeError:
        raise Invalid("", "it is not Unicode text") from None
    except ValueError as error:
        raise Invalid("", str(error)) from None


def _listed(fields: dict[str, Field]) -> str:
    """The JSON names, the few first ones."""
    names = list(dict.fromkeys({id(field): name for name, field in fields.items()}.values()))
    more = ", ..." if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more if names else "none"
