"""benchmarks/zoo.py measures a published architecture once, and goes on where it was."""

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("pydantic")

from crossrt.engine.backends.registry import BACKENDS, installed_backends
from crossrt.engine.files.cache import VARIABLE
from crossrt.engine.precision import Precision
from crossrt.speed.result.speeds import Speeds, Spread
from tests.speed.small_machine import make_small

from ..processors import openvino_has_bf16


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch, load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    """Import benchmarks/zoo.py, with small requests and ceilings that are quickly measured."""
    module = load_benchmark("zoo")
    for name, value in {"REPEATS": 1, "GFLOP": 0.1, "MIN_PAIRS": 4, "STRETCH_S": 0.005}.items():
        monkeypatch.setattr(module, name, value)
    make_small(monkeypatch, seconds=0.005)
    monkeypatch.setattr("crossrt.speed.ceiling.shares.check_share", lambda *_, **__: None)
    monkeypatch.setenv(VARIABLE, os.environ[VARIABLE])  # which it sets
    return module


@pytest.mark.processor
def test_a_stopped_run_goes_on_where_it_was(
    zoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "zoo.json"

    def run(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["zoo.py", "--out", str(out), *words])
        zoo.main()
        return capsys.readouterr().out

    printed = run("--only", "TinyBERT-L-2-v2", "--price-per-hour", "0.5")
    speeds = Speeds.read(out)
    # The native kernels have a row in each precision that the processor has the instructions for. OpenVINO always has one:
    # without BF16 in the processor it says so.
    assert [row.label for row in speeds.rows] == [
        f"ms-marco-TinyBERT-L-2-v2.{precision.value} {backend}"
        for precision in (Precision.FP32, Precision.BF16, Precision.INT8)
        for backend in BACKENDS
        if backend in installed_backends(precision) and (precision, backend) != (Precision.BF16, "onnxruntime")
    ]
    for row in speeds.rows:
        if (row.precision, row.backend) == (Precision.BF16, "openvino") and not openvino_has_bf16():
            assert row.failed is not None
            assert "is not what this processor computes in" in row.failed
            continue
        assert row.failed is None
        assert row.published == {"ndcg10": 69.84, "mrr10": 32.56, "docs_per_s_v100": 9000}
        assert row.difference is not None
        assert row.difference.max_abs < (1e-4 if row.precision == Precision.FP32 else 5)
    int8 = next(row for row in speeds.rows if row.precision == Precision.INT8).difference
    assert int8 is not None
    assert int8.max_abs > 0, "it is another file"
    assert "a million pairs" in printed
    with monkeypatch.context() as patched:
        patched.setattr(zoo, "write_bundle", lambda *_: pytest.fail("made again"))
        assert run("--only", "TinyBERT-L-2-v2").count("\n") == 2 + len(speeds.rows)
    assert Speeds.read(out) == speeds


def test_a_result_of_another_commit_is_not_gone_on_with(
    zoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "zoo.json"
    file.write_text("{}")
    monkeypatch.setattr("sys.argv", ["zoo.py", "--out", str(file), "--only", "nothing"])
    with pytest.raises(SystemExit):
        zoo.main()
    assert "no model is called ['nothing']" in capsys.readouterr().err


def test_a_million_pairs_cost_the_hours_that_they_take(zoo: Any) -> None:
    row = zoo.Speed(
        label="m.fp32 onnxruntime",
        model="m",
        bundle_sha256="0" * 64,
        precision="fp32",
        backend="onnxruntime",
        device="cpu",
        threads=2,
        runs_on="onnxruntime",
        pairs_per_s=Spread(median=1e6 / 3600, p5=1e6 / 3600, p95=1e6 / 3600, repeats=5),
        published={"docs_per_s_v100": 1800.0},
    )
    assert zoo.line(row, 0.0, 0.25).split() == ["m.fp32", "onnxruntime", "278", "-", "1,800", "0.250"]
    assert zoo.line(row, 0.0, None).split()[-1] == "1,800"
