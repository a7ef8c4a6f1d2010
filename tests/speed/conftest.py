"""Measured speeds that were not measured, and a machine whose ceilings are quickly known."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("pydantic")

from crossrt.__main__ import main
from crossrt.speed.result.speeds import Ceiling, Difference, Latency, Speed, Speeds, Spread, Workload

from .small_machine import make_small

Command = Callable[..., tuple[int, str, str]]


def spread(median: float, width: float = 0.01, repeats: int = 5) -> Spread:
    return Spread(median=median, p5=median * (1 - width), p95=median * (1 + width), repeats=repeats)


@pytest.fixture
def speed_of() -> Callable[..., Speed]:
    """Return a function that makes a row of `pairs` a second."""

    def make(pairs: float = 100.0, *, width: float = 0.01, **fields: Any) -> Speed:
        given: dict[str, Any] = {
            "label": "b.fp32 onnxruntime",
            "model": "some/model",
            "bundle_sha256": "0" * 64,
            "precision": "fp32",
            "backend": "onnxruntime",
            "device": "cpu",
            "threads": 2,
            "runs_on": "onnxruntime 1, cpu",
            "pairs_per_s": spread(pairs, width),
            "tokens_per_s": spread(90 * pairs, width),
            "model_pairs_per_s": spread(1.1 * pairs, width),
            "ratio": spread(1.0, width),
            "padding": 0.02,
            "gflop_per_pair": 1.0,
            "of_ceiling": pairs / 200,
            "model_of_ceiling": 1.1 * pairs / 200,
            "latencies": [
                Latency(
                    passages=10,
                    p50_ms=1e4 / pairs,
                    p95_ms=1.2e4 / pairs,
                    p99_ms=1.3e4 / pairs,
                    requests=40,
                    p50_interval=[0.99e4 / pairs, 1.01e4 / pairs],
                    of_ceiling=pairs / 200,
                )
            ],
            "start_s": spread(0.4, width),
            "memory_mb": 300.0,
            "difference": Difference(
                max_abs=0.0, mean_abs=0.0, top10_overlap=1.0, reference=[1.0, 2.0], logits=[1.0, 2.0]
            ),
        }
        return Speed(**given | fields)

    return make


@pytest.fixture
def speeds_of(speed_of: Callable[..., Speed]) -> Callable[..., Speeds]:
    """Return a function that makes a result of these rows, or of one."""

    def make(*rows: Speed, **fields: Any) -> Speeds:
        given: dict[str, Any] = {
            "machine": {"processor": "Some CPU", "instructions": ["avx2"], "usable_cpus": 2, "memory_gb": 8},
            "versions": {"crossrt": "0.1.0"},
            "commit": "abc",
            "workload": Workload(
                source="pairs.tsv",
                sha256="1" * 64,
                pairs=200,
                mean_tokens=90.0,
                p50_tokens=88.0,
                p99_tokens=190.0,
                histogram={"80": 200},
            ),
            "ceilings": [
                Ceiling(
                    quantity="fp32",
                    unit="GFLOP/s",
                    threads=2,
                    rate=200.0,
                    by="onnxruntime",
                    rates={"onnxruntime": 200.0, "openvino": 190.0},
                )
            ],
            "noise": 0.02,
            "rows": list(rows) or [speed_of()],
            "curves": [],
        }
        return Speeds(**given | fields)

    return make


@pytest.fixture
def kept(tmp_path: Path) -> Callable[[Speeds, str], Path]:
    """Return a function that writes a result and returns its file."""

    def write(speeds: Speeds, name: str = "speeds.json") -> Path:
        (tmp_path / name).write_text(speeds.to_json())
        return tmp_path / name

    return write


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs `crossrt bench` and returns its exit status, output and errors."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["crossrt", "bench", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        return int(stopped.value.code or 0), said.out, said.err

    return run


@pytest.fixture
def quick_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure ceilings on small matrices and a small array, in moments."""
    make_small(monkeypatch, seconds=0.01)


@pytest.fixture(scope="session")
def two_precisions(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle whose int8 model is its fp32 model."""
    path = tmp_path_factory.mktemp("bundles") / "small"
    shutil.copytree(bundle, path)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["models"]["int8"] = manifest["models"]["fp32"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def changed(speeds: Speeds, **fields: Any) -> Speeds:
    return dataclasses.replace(speeds, **fields)
