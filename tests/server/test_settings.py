"""Settings of the server are refused where they are made, with what is allowed."""

from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="crossrt[serve] is not installed")

from crossrt.engine.errors import OptionError
from crossrt.server.models.model_settings import ModelLimits, ModelSettings
from crossrt.server.settings import Settings

MODEL = ModelSettings(name="m", bundle="b")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"models": ()}, "no model to serve"),
        ({"models": (MODEL, MODEL)}, "two models have one name: m, m"),
        ({"port": -1}, "--port -1: give 0 to 65535"),
        ({"port": 65536}, "--port 65536: give 0 to 65535"),
        ({"workers": 0}, "workers"),
        ({"max_payload": 0}, "max_payload"),
        *(
            ({name: wrong}, f"--{name.replace('_', '-')} {wrong}: give seconds, more than 0")
            for name in ("request_timeout", "header_timeout", "body_timeout", "write_timeout", "keep_alive")
            for wrong in (0, -1.0, float("nan"))
        ),
        *(
            ({name: wrong}, f"--{name.replace('_', '-')} {wrong}: give seconds, 0 or more")
            for name in ("shutdown_delay", "shutdown_timeout")
            for wrong in (-0.1, float("nan"))
        ),
        ({"tei_validation_status": 400}, "--tei-validation-status 400: give 413 or 422"),
        ({"log_format": "xml"}, "--log-format xml: give text or json"),
        ({"log_requests": "some"}, "--log-requests some: give all or usual or failed or none"),
        ({"gauges": ("tei", "triton")}, "--gauges triton: give tei or vllm"),
        ({"tls_key": "k"}, "--tls-certificate and --tls-key go together"),
        ({"tls_certificate": "c"}, "--tls-certificate and --tls-key go together"),
    ],
)
def test_what_is_not_allowed_is_named(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        Settings(**{"models": (MODEL,), **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"port": 0},
        {"port": 65535},
        {"workers": 1, "max_payload": 1},
        {"shutdown_delay": 0, "shutdown_timeout": 0.0},
        {"request_timeout": float("inf"), "keep_alive": 0.1},
        {"gauges": ("tei", "vllm")},
    ],
)
def test_the_bounds_are_allowed(fields: dict[str, Any]) -> None:
    Settings(models=(MODEL,), **fields)


@pytest.mark.parametrize("name", ["max_documents", "max_request_tokens", "max_queue_tokens"])
def test_a_limit_allows_at_least_one(name: str) -> None:
    ModelLimits(**{name: 1})
    with pytest.raises(OptionError, match=name):
        ModelLimits(**{name: 0})


def test_a_model_has_a_name_that_can_be_read_and_batches_of_at_least_one() -> None:
    for name in ("", "a\nb"):
        with pytest.raises(OptionError, match="is no name for a model; give one as NAME=BUNDLE"):
            ModelSettings(name=name, bundle="b")
    with pytest.raises(OptionError, match="batch_size"):
        ModelSettings(name="m", bundle="b", batch_size=0)
