"""Lines of the log: their level, their quotes and what they hold of an exception."""

import io
import json
import logging
import sys
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="crossrt[serve] is not installed")

from crossrt.server.models.model_settings import ModelSettings
from crossrt.server.request_log import JsonLines, RequestLog, TextLines, stamp
from crossrt.server.settings import Settings
from crossrt.server.tracing import trace_id


def line(monkeypatch: pytest.MonkeyPatch, status: int, form: str, **fields: Any) -> str:
    written = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stderr", written)
    settings: Any = Settings(models=(ModelSettings(name="m", bundle="b"),), log_format=form)  # type: ignore[arg-type]
    RequestLog(settings).write({"status": status, **fields}, status)
    return written.buffer.getvalue().decode()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    ("status", "level"), [(200, "info"), (429, "info"), (499, "info"), (500, "warning"), (504, "warning")]
)
def test_a_failure_of_the_server_is_a_warning(monkeypatch: pytest.MonkeyPatch, status: int, level: str) -> None:
    found = json.loads(line(monkeypatch, status, "json"))
    assert (found["level"], found["event"], found["status"]) == (level, "request", status)
    assert f" {level.upper()} status={status}\n" in line(monkeypatch, status, "text")


def test_a_value_is_quoted_where_it_would_end_or_look_like_another(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {
        "a": "plain:/+-.~",
        "b": "with space",
        "c": "x=1",
        "d": 'quo"te',
        "e": "line\nbreak",
        "f": "",
        "g": 1.5,
        "h": "ü",
    }
    said = line(monkeypatch, 200, "text", **fields).split(" ", 3)[3]
    assert said == 'a=plain:/+-.~ b="with space" c="x=1" d="quo\\"te" e="line\\nbreak" f="" g=1.5 h="ü"\n'


def test_a_traceback_is_in_the_line_of_its_record() -> None:
    try:
        raise KeyError("why")
    except KeyError:
        record = logging.LogRecord("crossrt.x", logging.ERROR, "f", 1, "failed %s", ("twice",), sys.exc_info())
    record.created = 0.0015
    found = json.loads(JsonLines().format(record))
    assert "KeyError: 'why'" in found.pop("traceback")
    assert found == {
        "time": "1970-01-01T00:00:00.001Z",
        "level": "error",
        "event": "log",
        "logger": "crossrt.x",
        "message": "failed twice",
    }
    said = TextLines("%(asctime)s %(levelname)s %(message)s").format(record)
    assert said.startswith(f"{stamp(0.0015)} ERROR failed twice\nTraceback")
    assert said.endswith("KeyError: 'why'")


@pytest.mark.parametrize(
    ("header", "trace"),
    [
        (b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01", "a" * 32),
        (b"00-" + b"0" * 32 + b"-" + b"b" * 16 + b"-01", None),
        (b"00-" + b"A" * 32 + b"-" + b"b" * 16 + b"-01", None),
        (b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01\n", None),
        (b"", None),
        (None, None),
    ],
)
def test_a_trace_is_that_of_a_well_formed_header(header: bytes | None, trace: str | None) -> None:
    assert trace_id(header) == trace
