"""Everything that is no request: structlog events, errors with their stack, and what other libraries log.

All of it leaves through the access log's `Writer`, so that lines never mix and never hold the event loop up. structlog
is imported with the first line logged (15 ms, 2 MiB): a worker that has nothing to say does not pay for it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import cached_property
from time import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kernel.telemetry.lines import Encoder, JsonLines, PrettyLines, stamp
from kernel.telemetry.redact import REDACTED, clean_text, is_secret
from kernel.telemetry.writer import Writer

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

ErrorInfo = (
    tuple[type[BaseException], BaseException, TracebackType | None]
    | tuple[None, None, None]
    | BaseException
    | bool
)
_MAX_FRAMES = 30
# How granian reports that a response was broken off on purpose: the access log has said so, with the reason.
_BROKEN_OFF = re.compile(r"\n(?:kernel\.app\.)?Truncated: [a-z-]+\s*\Z")
# How it tells, as an error and without saying whose, that a client has left in the midst of a response.
_CLIENT_LEFT = "ASGI transport error"


class Log:
    """The gateway's logger: `log.warning("what happened", service="sales", ...)`.

    Fields named like secrets are redacted, tokens and passwords inside texts as well. `level` is the lowest written.
    """

    def __init__(self, writer: Writer, *, level: int = logging.INFO, encoder: Encoder | None = None) -> None:
        self._writer = writer
        self._level = level
        self._encoder = encoder or JsonLines()

    def debug(self, event: str, **fields: Any) -> None:
        """Detail for somebody looking into a problem."""
        self._structlog.debug(event, **fields)

    def info(self, event: str, **fields: Any) -> None:
        """Something an operator expects."""
        self._structlog.info(event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something an operator should know; requests are still served."""
        self._structlog.warning(event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something failed."""
        self._structlog.error(event, **fields)

    def exception(self, event: str, **fields: Any) -> None:
        """Something failed: with the stack of the exception being handled."""
        self._structlog.error(event, exc_info=True, **fields)

    def get_logger(self, **fields: Any) -> FilteringBoundLogger:
        """A structlog logger that adds `fields` to every line."""
        return self._structlog.bind(**fields)

    def take_over_stdlib(self) -> None:
        """Have what libraries (granian, asyncio) log through `logging` come out here too."""
        root = logging.getLogger()
        root.handlers = [_WriterHandler(self._writer, LineFormatter(self._encoder), self._level)]
        root.setLevel(max(self._level, logging.INFO))
        for name in ("_granian", "granian.access"):
            logger = logging.getLogger(name)
            logger.handlers = []
            logger.propagate = True
        # A line for each of the gateway's own calls.
        logging.getLogger("httpx").setLevel(logging.WARNING)

    @cached_property
    def _structlog(self) -> FilteringBoundLogger:
        import structlog  # noqa: PLC0415  # see the module's docstring

        logger: FilteringBoundLogger = structlog.wrap_logger(
            _Output(self._writer),
            processors=[structlog.processors.add_log_level, self._render],
            wrapper_class=structlog.make_filtering_bound_logger(self._level),
        )
        return logger

    def _render(
        self, logger: WrappedLogger, method: str, fields: EventDict
    ) -> tuple[tuple[bytes], dict[str, Any]]:
        error = _error(fields.pop("exc_info", None))
        line = {"timestamp": stamp(time()), **redacted(fields)}
        if error is not None:
            line["exception"] = _clean(error)
        return (self._encoder.event(line),), {}


class LineFormatter(logging.Formatter):
    """Formats a `logging` record as the gateway's own lines look."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._encoder = encoder

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        fields: dict[str, Any] = {
            "timestamp": stamp(record.created),
            "level": record.levelname.lower(),
            "event": clean_text(record.getMessage()),
            "logger": record.name,
        }
        error = _error(record.exc_info)
        if error is not None:
            fields["exception"] = _clean(error)
        return self._encoder.event(fields).decode().removesuffix("\n")


def formatter(*, pretty: bool, colour: bool = False) -> LineFormatter:
    """The formatter that `server_logging` names."""
    return LineFormatter(PrettyLines(colour=colour) if pretty else JsonLines())


def server_logging(*, pretty: bool = False, colour: bool = False) -> dict[str, Any]:
    """granian's `log_dictconfig`, for the parent process and for workers before they have a `Log`."""
    lines = {"()": "kernel.telemetry.log.formatter", "pretty": pretty, "colour": colour}
    console = {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "lines"}
    quiet = {"handlers": ["console"], "level": "INFO", "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": lines},
        "handlers": {"console": console},
        "loggers": {"_granian": quiet, "granian.access": quiet},
        "root": {"handlers": ["console"], "level": "INFO"},
    }


def redacted(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as plain data without secrets."""
    return {
        str(name): REDACTED if isinstance(value, str | bytes) and is_secret(str(name)) else _clean(value)
        for name, value in fields.items()
    }


def _clean(value: Any) -> Any:
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if isinstance(value, str):
        # What is no text (a file name's lone surrogates) would make the whole line impossible to encode.
        return clean_text(value if value.isascii() else value.encode("utf-8", "backslashreplace").decode())
    if isinstance(value, Mapping):
        return redacted(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item) for item in value]
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 64:
        return value  # larger ones are not portable in JSON, and orjson refuses them
    return _clean(str(value))


def _error(info: ErrorInfo | None) -> list[dict[str, Any]] | None:
    """A stack as data, without local variables: they hold tokens and bodies."""
    if not info or info == (None, None, None):
        return None
    from structlog.processors import ExceptionRenderer  # noqa: PLC0415  # see the module's docstring
    from structlog.tracebacks import ExceptionDictTransformer  # noqa: PLC0415

    renderer = ExceptionRenderer(
        ExceptionDictTransformer(show_locals=False, max_frames=_MAX_FRAMES, use_rich=False)
    )
    rendered: list[dict[str, Any]] | None = renderer(None, "error", {"exc_info": info}).get("exception")
    return rendered


class _Output:
    """What structlog writes to."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def msg(self, line: bytes) -> None:
        self._writer.write(line)

    debug = info = warning = error = critical = msg


class _WriterHandler(logging.Handler):
    def __init__(self, writer: Writer, line_formatter: LineFormatter, lowest: int) -> None:
        super().__init__()
        self._lowest = lowest
        self._writer = writer
        self.setFormatter(line_formatter)

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("_granian"):
            text = record.getMessage()
            if _BROKEN_OFF.search(text):
                return
            if text.startswith(_CLIENT_LEFT):
                record.levelno, record.levelname = logging.DEBUG, "DEBUG"
                if self._lowest > logging.DEBUG:
                    return
        self._writer.write(self.format(record).encode() + b"\n")
