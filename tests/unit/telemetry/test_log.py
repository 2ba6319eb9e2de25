from __future__ import annotations

import json
import logging
import logging.config
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from kernel.telemetry.lines import JsonLines, PrettyLines
from kernel.telemetry.log import LineFormatter, Log, formatter, server_logging
from kernel.telemetry.redact import clean_text, is_secret
from kernel.telemetry.writer import Writer


class Sink(list[bytes]):
    """Collects what a `Writer` writes."""

    def __init__(self) -> None:
        super().__init__()
        self.writer = Writer(self.append)

    def lines(self) -> list[dict[str, Any]]:
        assert self.writer.close(5)
        return [json.loads(line) for line in b"".join(self).splitlines()]


@pytest.fixture
def sink() -> Iterator[Sink]:
    made = Sink()
    yield made
    made.writer.close(5)


def test_an_event_is_one_json_line(sink: Sink) -> None:
    Log(sink.writer).warning("service recovered", service="sales", seconds=1.5)
    (line,) = sink.lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {"level": "warning", "event": "service recovered", "service": "sales", "seconds": 1.5}


def test_levels_below_the_configured_one_are_left_out(sink: Sink) -> None:
    log = Log(sink.writer, level=logging.WARNING)
    for write in (log.debug, log.info, log.warning, log.error):
        write("x")
    assert [line["level"] for line in sink.lines()] == ["warning", "error"]


def test_an_exception_carries_its_stack_without_local_variables(sink: Sink) -> None:
    log = Log(sink.writer)

    def fail() -> None:
        body = "hunter2"  # noqa: F841
        raise ValueError("bad redis://user:hunter2@host/0")

    try:
        fail()
    except ValueError as error:
        try:
            raise KeyError("outer") from error
        except KeyError:
            log.exception("unhandled error", request_id="r-1")
    (line,) = sink.lines()
    assert (line["level"], line["request_id"]) == ("error", "r-1")
    assert [part["exc_type"] for part in line["exception"]] == ["KeyError", "ValueError"]
    assert line["exception"][1]["frames"][-1]["name"] == "fail"
    assert "hunter2" not in json.dumps(line)


def test_an_exception_outside_of_any_is_still_logged(sink: Sink) -> None:
    Log(sink.writer).exception("odd")
    assert sink.lines()[0]["event"] == "odd"


@pytest.mark.parametrize(
    "fields",
    [
        {"authorization": "s3cret"},
        {"refresh_token": b"s3cret"},
        {"headers": {"Cookie": "s3cret", "X-Api-Key": "s3cret"}},
        {"list": [{"jwt_secret_key": "s3cret"}]},
        {"url": "redis://:s3cret@host:6379/0"},
        {"text": "Authorization: Bearer s3cret.value"},
        {"text": "GET /x?a=1&token=s3cret&b=2"},
        {"text": "-----BEGIN RSA PRIVATE KEY-----\ns3cret\n-----END RSA PRIVATE KEY-----"},
        {"error": ValueError("password=s3cret")},
    ],
)
def test_secrets_are_redacted_wherever_they_are(sink: Sink, fields: dict[str, Any]) -> None:
    Log(sink.writer).info("x", **fields)
    Log(sink.writer, encoder=PrettyLines(colour=False)).info("x", **fields)
    assert sink.writer.close(5)
    assert b"s3cret" not in b"".join(sink)
    assert b"redacted" in b"".join(sink)


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("authorization", True),
        ("Proxy-Authorization", True),
        ("x-new-refresh-token", True),
        ("set-cookie", True),
        ("sec-websocket-protocol", True),
        ("author", False),
        ("auth_service_url", False),
        ("accept", False),
        ("tenant", False),
    ],
)
def test_names_of_secrets_are_known(name: str, secret: bool) -> None:
    assert is_secret(name) is secret


def test_text_made_to_be_slow_is_not() -> None:
    # With a scan of the rest for each word this takes minutes.
    assert "bearer" in clean_text("bearer," * 300_000)


def test_ordinary_text_stays_as_it_is() -> None:
    for text in (
        "status_code=200 for /api/v1/x",
        "took 3 s: http://sales-service:8000/a",
        "basic plan",
        "bearer token missing",
        "eye",
    ):
        assert clean_text(text) == text


@pytest.mark.parametrize(
    "value", ["a\r\nb\x1b[31m", "\ud800", b"\xff\n", 1 << 90, {1: object()}, float("nan"), {"s"}]
)
def test_any_value_makes_one_printable_line(sink: Sink, value: object) -> None:
    Log(sink.writer).info("x", value=value)
    assert len(sink.lines()) == 1
    assert all(0x20 <= byte < 0x7F for byte in sink[0].rstrip(b"\n"))


def test_a_logger_can_carry_fields(sink: Sink) -> None:
    Log(sink.writer).get_logger(service="sales").info("x")
    assert sink.lines()[0]["service"] == "sales"


@pytest.fixture
def _stdlib() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers = before
    root.setLevel(level)
    for name in ("_granian", "granian.access"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True


@pytest.mark.usefixtures("_stdlib")
def test_what_libraries_log_comes_out_as_lines_too(sink: Sink, capfd: pytest.CaptureFixture[str]) -> None:
    logging.config.dictConfig(server_logging())
    Log(sink.writer).take_over_stdlib()
    logging.getLogger("_granian").info("Started worker-%d token=%s", 1, "s3cret")
    logging.getLogger("_granian").debug("too quiet")
    try:
        raise ValueError("token=s3cret")
    except ValueError:
        logging.getLogger("asyncio").exception("Task failed\n{}")
    first, second = sink.lines()
    assert (first["event"], first["logger"], first["level"]) == (
        "Started worker-1 token=[redacted]",
        "_granian",
        "info",
    )
    assert second["exception"][0]["exc_value"] == "token=[redacted]"
    assert capfd.readouterr().out == ""


@pytest.mark.usefixtures("_stdlib")
@pytest.mark.parametrize(("level", "seen"), [(logging.DEBUG, ["debug", "error"]), (logging.INFO, ["error"])])
def test_that_a_client_has_left_is_no_error_of_the_servers(level: int, seen: list[str]) -> None:
    sink = Sink()
    Log(sink.writer, level=level).take_over_stdlib()
    logging.getLogger("_granian.asgi.io").error("ASGI transport error: SendError { .. }")
    logging.getLogger("_granian.asgi.io").error("ASGI something else")
    assert [line["level"] for line in sink.lines()] == seen


@pytest.mark.usefixtures("_stdlib")
def test_the_servers_own_configuration_makes_json_lines_on_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    logging.config.dictConfig(server_logging())
    logging.getLogger("_granian").info("Starting\nnow")
    assert json.loads(capfd.readouterr().out)["event"] == "Starting\nnow"


def test_pretty_lines_show_fields_and_the_stack() -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 0, "it\x1b broke", (), None)
    try:
        raise ValueError("because\nof this")
    except ValueError:
        record.exc_info = sys.exc_info()
    text = formatter(pretty=True).format(record).splitlines()
    assert "error" in text[0]
    assert "it\\u001b broke logger=x" in text[0]
    assert "in test_pretty_lines_show_fields_and_the_stack" in text[1]
    assert text[2] == "    ValueError: because\\u000aof this"
    assert isinstance(formatter(pretty=False), LineFormatter)
    assert json.loads(LineFormatter(JsonLines()).format(record))["level"] == "error"


def test_a_worker_that_logs_nothing_imports_neither_structlog_nor_prometheus() -> None:
    code = """
import sys
import kernel.telemetry.log, kernel.telemetry.metrics, kernel.telemetry.scrape, kernel.telemetry.audit
assert not {"structlog", "prometheus_client"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
