"""The steps of an export: their order, what they record, and what they do not do twice."""

import collections
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from crossrt import Bundle, CrossEncoder
from crossrt.engine.bundle.manifest import ONNX_FILES, BundleModel
from crossrt.engine.errors import ParityError
from crossrt.engine.precision import Precision
from crossrt.export import export
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.export import STEPS, export_bundle
from crossrt.export.parity.report import ParityReport
from crossrt.export.steps.context import ExportContext
from crossrt.export.steps.step import FailureStops, Step, StepResult

FP32, FP16, INT8 = Precision.FP32, Precision.FP16, Precision.INT8
FILE = "model.fp32.native"


# -- a whole export


def test_each_report_lies_in_the_bundle_in_the_order_of_the_steps(watched_export: Any) -> None:
    path = watched_export.bundle.path
    written = [step.name for step in STEPS if (path / f"parity.{step.name}.json").exists()]
    reports = [json.loads((path / f"parity.{name}.json").read_text()) for name in written]
    assert [(report["precision"], report["backend"]) for report in reports] == [
        (report.precision, report.backend) for report in watched_export.reports
    ]
    assert {"fp32", "fp16", "fp16.fused", "fp16.native", "int8", "int8.openvino", "int8.gpu"} <= {*written}


def test_each_file_is_hashed_once_when_it_is_written(watched_export: Any) -> None:
    names = [file.name.rpartition("/")[2] for file in watched_export.bundle.manifest.files]
    # Written a second time, once its mean error is measured and taken out.
    twice = [name for name in names if name == "model.int8.native"]
    assert collections.Counter(watched_export.hashed) == collections.Counter(names + twice)
    Bundle.open(watched_export.bundle.path, verify=True)


def test_the_runtime_is_opened_once_for_a_report_and_twice_for_fp16s_graphs(watched_export: Any) -> None:
    # The two FP16 graphs are run as they are, besides with a rounding after every operator.
    assert len(watched_export.opened) == len(watched_export.reports) + 2
    counts = collections.Counter(watched_export.opened)
    assert counts["fp32", "onnxruntime"] == counts["int8", "openvino"] == 1
    assert counts["fp16", "onnxruntime"] == 5, "FP16 and fused, each twice, and the native kernels' roundings"
    assert counts["int8", "onnxruntime"] == 2, "for CPUs and for GPUs"
    assert counts["fp32", "native"] <= 1
    assert counts["int8", "native"] <= 2, "with activations of 8 bits and of 7"


def test_int8s_search_ranks_the_file_that_is_published_as_its_report_does(watched_export: Any) -> None:
    path = watched_export.bundle.path
    rankings = json.loads((path / "calibration.int8.json").read_text())["rankings"]
    assert rankings == {
        "onnxruntime": json.loads((path / "parity.int8.json").read_text())["ranking"],
        "openvino": json.loads((path / "parity.int8.openvino.json").read_text())["ranking"],
    }


def test_a_file_that_stays_is_listed_by_its_precision(watched_export: Any) -> None:
    models = watched_export.bundle.manifest.models
    assert models["fp16"].file == "onnx/model_fp16.onnx"
    assert models["fp16"].fused_file == "model.fp16.fused.onnx"
    assert models["fp16"].native_file == "model.fp16.native"
    assert models["int8"].gpu_file == "model.int8.gpu.onnx"


# -- one step


@pytest.fixture(scope="module")
def passed(bundle: Path, checkpoint: Path) -> ParityReport:
    from crossrt.export.parity.pairs import builtin_pairs
    from crossrt.export.parity.parity import parity

    with CrossEncoder(bundle) as model:
        return parity(model, Checkpoint.read(checkpoint), builtin_pairs(64)[:3])


def written(report: ParityReport, **fields: Any) -> Callable[[ExportContext], StepResult]:
    """Return a step's `run` that writes a further FP32 file and has this report on it."""

    def run(context: ExportContext) -> StepResult:
        context.builder.write_text(FILE, "weights")
        return StepResult(report=report, model=replace(context.builder.models["fp32"], native_file=FILE, **fields))

    return run


def fp32_and(step: Step) -> tuple[Step, ...]:
    return (STEPS[0], step)


def further(report: ParityReport, stops: FailureStops) -> Step:
    return Step(name="fp32.more", precision=FP32, run=written(report), failure_stops=stops, extra_file=FILE)


def test_an_extra_file_that_passes_is_recorded(
    passed: ParityReport, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "STEPS", fp32_and(further(passed, FailureStops.NEVER)))
    bundle, reports = export_bundle(Checkpoint.read(checkpoint), tmp_path / "b")
    assert len(reports) == 2
    assert bundle.manifest.models["fp32"].native_file == FILE
    assert FILE in [file.name for file in bundle.manifest.files]


def test_an_extra_file_that_fails_is_left_out_with_its_report_kept(
    passed: ParityReport, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = replace(passed, not_finite=1)
    monkeypatch.setattr(export, "STEPS", fp32_and(further(failed, FailureStops.NEVER)))
    bundle, (first, second) = export_bundle(Checkpoint.read(checkpoint), tmp_path / "b")
    assert (bool(first), bool(second)) == (True, False)
    assert bundle.manifest.models["fp32"].native_file is None
    assert not (bundle.path / FILE).exists()
    assert not json.loads((bundle.path / "parity.fp32.more.json").read_text())["passed"]
    assert FILE not in [file.name for file in bundle.manifest.files]


@pytest.mark.parametrize(
    ("stops", "keep_going", "published"),
    [
        (FailureStops.NEVER, False, True),
        (FailureStops.UNLESS_KEEP_GOING, True, True),
        (FailureStops.UNLESS_KEEP_GOING, False, False),
        (FailureStops.ALWAYS, True, False),
    ],
)
def test_a_step_that_fails_stops_the_export_or_not_and_the_target_is_as_it_was(
    stops: FailureStops,
    keep_going: bool,
    published: bool,
    passed: ParityReport,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "b"
    monkeypatch.setattr(export, "STEPS", STEPS[:1])
    export_bundle(Checkpoint.read(checkpoint), out)
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    failed = replace(passed, not_finite=1)
    monkeypatch.setattr(export, "STEPS", fp32_and(further(failed, stops)))
    if published:
        export_bundle(Checkpoint.read(checkpoint), out, force=True, keep_going=keep_going)
        assert (out / "parity.fp32.more.json").exists()
    else:
        with pytest.raises(ParityError, match="was not published: 1 logits are NaN or Inf") as caught:
            export_bundle(Checkpoint.read(checkpoint), out, force=True, keep_going=keep_going)
        assert caught.value.report is failed
        assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_precision_that_fails_is_marked_and_what_comes_after_it_is_left_out(
    passed: ParityReport, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = replace(passed, not_finite=1)

    def fp16(context: ExportContext) -> StepResult:
        model = BundleModel(file=ONNX_FILES["fp16"], parity=failed.summary())
        context.builder.write_text(model.file, "graph")
        return StepResult(report=failed, model=model)

    def never(context: ExportContext) -> None:
        raise AssertionError("it depends on a step that failed, or on a precision that is not exported")

    steps = (
        STEPS[0],
        Step(name="fp16", precision=FP16, run=fp16, failure_stops=FailureStops.UNLESS_KEEP_GOING),
        Step(name="fp16.more", precision=FP16, run=never, failure_stops=FailureStops.NEVER, after="fp16"),
        Step(name="fp16.int8", precision=FP16, run=never, failure_stops=FailureStops.NEVER, also=INT8),
        Step(name="int8", precision=INT8, run=never, failure_stops=FailureStops.NEVER),
    )
    monkeypatch.setattr(export, "STEPS", steps)
    bundle, reports = export_bundle(Checkpoint.read(checkpoint), tmp_path / "b", precisions=[FP16], keep_going=True)
    assert [bool(report) for report in reports] == [True, False]
    parity = bundle.manifest.models["fp16"].parity
    assert parity is not None
    assert not parity["passed"]


def test_a_step_that_raises_leaves_nothing(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(context: ExportContext) -> None:
        context.builder.write_text(FILE, "half of the weights")
        raise OSError(28, "No space left on device")

    step = Step(name="fp32.more", precision=FP32, run=broken, failure_stops=FailureStops.NEVER, extra_file=FILE)
    monkeypatch.setattr(export, "STEPS", fp32_and(step))
    with pytest.raises(OSError, match="No space left"):
        export_bundle(Checkpoint.read(checkpoint), tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
