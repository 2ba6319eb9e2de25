"""HAR 1.2 as a JSON schema, written from the specification (http://www.softwareishard.com/blog/har-12-spec/).

Members that begin with `_` are anybody's; all others are those of the specification.
"""

from __future__ import annotations

from typing import Any, Final

_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": -1}
_TIME: Final = {"type": "number", "minimum": -1}
_ELAPSED: Final = {"type": "number", "minimum": 0}
_MOMENT: Final = {
    "type": "string",
    "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})$",
}


def _object(needed: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(needed),
        "properties": needed | optional | {"comment": _TEXT},
        "patternProperties": {"^_": {}},
        "additionalProperties": False,
    }


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_PAIR = _object({"name": _TEXT, "value": _TEXT})
_COOKIE = _object(
    {"name": _TEXT, "value": _TEXT},
    path=_TEXT,
    domain=_TEXT,
    expires=_MOMENT,
    httpOnly={"type": "boolean"},
    secure={"type": "boolean"},
)
_MESSAGE = {
    "httpVersion": _TEXT,
    "cookies": _list(_COOKIE),
    "headers": _list(_PAIR),
    "headersSize": _COUNT,
    "bodySize": _COUNT,
}
_POST_DATA = _object(
    {"mimeType": _TEXT, "text": _TEXT},
    params=_list(_object({"name": _TEXT}, value=_TEXT, fileName=_TEXT, contentType=_TEXT)),
)
_REQUEST = _object(
    {
        "method": _TEXT,
        "url": {"type": "string", "pattern": "^(https?|wss?)://[^/ ]+/[^ #]*$"},
        "queryString": _list(_PAIR),
        **_MESSAGE,
    },
    postData=_POST_DATA,
)
_CONTENT = _object(
    {"size": _COUNT, "mimeType": _TEXT},
    compression={"type": "integer"},
    text=_TEXT,
    encoding={"const": "base64"},
)
_RESPONSE = _object(
    {
        "status": {"type": "integer", "minimum": 0},
        "statusText": _TEXT,
        "content": _CONTENT,
        "redirectURL": _TEXT,
        **_MESSAGE,
    }
)
_TIMINGS = _object(
    {"send": _ELAPSED, "wait": _ELAPSED, "receive": _ELAPSED},
    blocked=_TIME,
    dns=_TIME,
    connect=_TIME,
    ssl=_TIME,
)
ENTRY: Final[dict[str, Any]] = _object(
    {
        "startedDateTime": _MOMENT,
        "time": _ELAPSED,
        "request": _REQUEST,
        "response": _RESPONSE,
        "cache": {"type": "object"},
        "timings": _TIMINGS,
    },
    pageref=_TEXT,
    serverIPAddress=_TEXT,
    connection=_TEXT,
)
HAR: Final[dict[str, Any]] = _object(
    {
        "log": _object(
            {
                "version": {"const": "1.2"},
                "creator": _object({"name": _TEXT, "version": _TEXT}),
                "entries": _list(ENTRY),
            },
            browser=_object({"name": _TEXT, "version": _TEXT}),
            pages={"type": "array"},
        )
    }
)
