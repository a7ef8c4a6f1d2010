"""FP32 and BF16 for the native kernels: exported with parity where they run, left out or refused in words elsewhere."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file

from crossrt import CrossEncoder
from crossrt.__main__ import main
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.bundle.native_weights import NativeModel
from crossrt.engine.errors import BackendError, OptionError
from crossrt.engine.kernels import support
from crossrt.engine.kernels.support import why_not_native
from crossrt.engine.native_library import native_library
from crossrt.engine.precision import Precision
from crossrt.engine.runtime.autotune import candidates
from crossrt.engine.selection.select import choose_execution
from crossrt.engine.selection.select_cpu import choose_cpu
from crossrt.engine.text.pair_tokenizer import PairTokenizer
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.checkpoint.reference import Reference
from crossrt.export.export import export_bundle
from crossrt.export.graph.session import batches_of, logits_of
from crossrt.export.graph.writer import graph_of
from crossrt.export.parity.judge import ParityJudge
from crossrt.export.parity.pairs import builtin_pairs
from crossrt.export.parity.report import ParityReport
from crossrt.export.precision import native_weights as native
from crossrt.export.precision.fp16_emulation import rounded_where_stored
from crossrt.export.precision.native_weights import _to_bf16
from tests.engine.backends.emulated_gpu import emulated_logits
from tests.processors import openvino_has_bf16

DEMO = Path(__file__).resolve().parents[3] / "demo"
needs_kernels = pytest.mark.skipif(bool(why_not_native()), reason=why_not_native() or "they run")


@pytest.mark.processor
@needs_kernels
def test_fp32_is_exported_for_them_with_parity_and_taken_first(tmp_path: Path) -> None:
    read = Checkpoint.read(DEMO / "checkpoint")
    bundle, reports = export_bundle(read, tmp_path / "b")
    assert [(report.precision, report.backend, bool(report)) for report in reports] == [
        ("fp32", "onnxruntime", True),
        ("fp32", "native", True),
    ]
    assert json.loads((bundle.path / "parity.fp32.native.json").read_text())["backend"] == "native"
    assert NativeModel.open(bundle.native_file(Precision.FP32)).dims.precision == "fp32"
    pairs = list(builtin_pairs(160))
    expected = Reference(read).logits(pairs, max_length=160)
    with CrossEncoder(bundle.path) as model, CrossEncoder(bundle.path, backend="onnxruntime") as other:
        assert model.backend == "native"
        error, others = (np.abs(each.logits(pairs) - expected).max() for each in (model, other))
        assert error < max(2 * others, 2e-5)
        alone = np.concatenate([model.logits([pair]) for pair in pairs])
        np.testing.assert_array_equal(model.logits(pairs), alone)


@needs_kernels
def test_fp32_weights_that_score_otherwise_are_left_out(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        native, "_pad_channels", lambda values, width, whole=native._pad_channels: whole(values * 1.001, width)
    )
    bundle, (first, second) = export_bundle(Checkpoint.read(checkpoint), tmp_path / "b")
    assert (bool(first), bool(second)) == (True, False)
    assert bundle.manifest.models["fp32"].native_file is None
    assert not (bundle.path / "model.fp32.native").exists()
    with CrossEncoder(bundle.path) as model:
        assert model.backend == "onnxruntime"


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here, which compiles the kernels for the processor")
def test_what_is_judged_for_gpus_is_what_their_kernels_compute(tmp_path: Path) -> None:
    pytest.importorskip("cuda.bindings")
    read = Checkpoint.read(DEMO / "checkpoint")
    bundle, reports = export_bundle(read, tmp_path / "b", precisions=["fp32", "fp16"])
    [judged] = [report for report in reports if "native kernels" in report.backend]
    assert judged
    assert json.loads((bundle.path / "parity.fp16.native.json").read_text())["max_abs_diff"] == judged.max_abs_diff
    assert NativeModel.open(bundle.native_file(Precision.FP16)).dims.for_gpus
    encoder = PairTokenizer.from_file(bundle.tokenizer_file, max_length=160)
    pairs = list(builtin_pairs(160))[::3]
    encoded = encoder.encode(pairs)
    # By length, as batches are.
    order = np.argsort(-encoded.lengths, kind="stable")
    batches = list(batches_of(encoder, pairs, pad_id=read.pad_token_id))
    assert np.array_equal(np.concatenate([batch.rows for batch in batches]), order)
    simulated, full = (logits_of(graph, batches) for graph in (rounded_where_stored(read), graph_of(read)))
    computed = emulated_logits(bundle, encoded, tmp_path / "kernels")[order]
    # Their queries carry log2(e), so single roundings fall otherwise; their size and what they add up to are the same.
    ours, theirs = (np.abs(each - full) for each in (computed, simulated))
    assert 1e-3 < ours.mean() < 1.25 * theirs.mean()
    assert np.abs(computed - simulated).max() < 8e-3  # of 0.03 allowed


def test_weights_that_half_precision_cannot_hold_are_left_out_for_gpus(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_checkpoint(seed=5)
    weights = load_file(path / "model.safetensors")
    weights["bert.encoder.layer.0.intermediate.dense.bias"][3] = 1e5  # through GELU as it is, and read by nothing
    weights["bert.encoder.layer.0.output.dense.weight"][:, 3] = 0
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    bundle, reports = export_bundle(Checkpoint.read(path), tmp_path / "b", precisions=["fp32", "fp16"])
    assert [bool(report) for report in reports if report.precision == "fp16"] == [True, True, False]
    assert reports[-1].not_finite
    assert bundle.manifest.models["fp16"].native_file is None
    assert not (bundle.path / "model.fp16.native").exists()


def test_wider_heads_than_a_gpus_block_has_room_for_have_no_file(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_checkpoint(hidden_size=320, num_attention_heads=2)
    bundle, _ = export_bundle(Checkpoint.read(path), tmp_path / "b", precisions=["fp32", "fp16"])
    assert bundle.manifest.models["fp16"].native_file is None


@needs_kernels
@pytest.mark.parametrize(
    ("activation", "theirs"), [("gelu_new", "gelu_tanh"), ("gelu_pytorch_tanh", "gelu_tanh"), ("relu", None)]
)
def test_gpus_compute_gelu_with_tanh_and_no_relu(
    activation: str, theirs: str | None, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    read = Checkpoint.read(make_checkpoint(hidden_act=activation))
    bundle, reports = export_bundle(read, tmp_path / "b", precisions=["fp32", "fp16"])
    assert all(reports)
    name = bundle.manifest.models["fp16"].native_file
    found = NativeModel.open(bundle.path / name).dims.hidden_activation if name else None
    assert found == theirs
    assert NativeModel.open(bundle.native_file(Precision.FP32)).dims.hidden_activation == (theirs or activation)


def test_where_the_kernels_do_not_run_there_is_no_file_for_them(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossrt.export.steps.native.installed_backends", lambda *_: ("onnxruntime",))
    bundle, (report,) = export_bundle(Checkpoint.read(checkpoint), tmp_path / "b")
    assert report
    assert not list(bundle.path.glob("*.native"))


needs_bf16 = pytest.mark.skipif(
    bool(why_not_native(Precision.BF16)), reason=why_not_native(Precision.BF16) or "they run"
)


@pytest.mark.processor
@needs_bf16
def test_bf16_is_exported_with_parity_and_taken_before_openvinos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, (*_, report, others_report) = export_bundle(
        Checkpoint.read(DEMO / "checkpoint"), tmp_path / "b", precisions=[Precision.BF16]
    )
    assert (report.precision, report.backend, bool(report)) == ("bf16", "native", True)
    assert (others_report.precision, others_report.backend, bool(others_report)) == ("bf16", "openvino", True)
    for name in ("parity.bf16.json", "parity.bf16.openvino.json"):
        assert json.loads((bundle.path / name).read_text())["passed"]
    assert NativeModel.open(bundle.native_file(Precision.BF16)).dims.precision == "bf16"
    assert bundle.model_file(Precision.BF16) == bundle.model_file(Precision.FP32)
    pairs = list(builtin_pairs(160))
    with (
        CrossEncoder(bundle.path, precision="bf16") as model,
        CrossEncoder(bundle.path, precision="bf16", backend="openvino") as other,
        CrossEncoder(bundle.path) as exact,
    ):
        assert (model.backend, exact.precision) == ("native", Precision.FP32)
        error, others = (np.abs(each.logits(pairs) - exact.logits(pairs)).mean() for each in (model, other))
        assert 0 < error < 1.1 * others
    with CrossEncoder(bundle.path, precision="auto") as model:
        assert model.precision is Precision.FP32
    config = choose_execution(bundle, precision="bf16", device="cpu", tuned=False)
    assert {candidate.backend for candidate in candidates(bundle, config)} == {"openvino", "native"}
    with pytest.raises(BackendError, match="onnxruntime does not compute in bf16"):
        CrossEncoder(bundle.path, precision="bf16", backend="onnxruntime")
    monkeypatch.setattr("sys.argv", ["crossrt", "info", str(bundle.path)])
    with pytest.raises(SystemExit):
        main()
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("  bf16"))
    assert "parity passed" in line
    assert "passed as openvino computes it" in line
    assert line.endswith("; model.bf16.native for native kernels")


@needs_bf16
@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_auto_leaves_bf16_on_amx_to_openvino_where_the_export_judged_it(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    describe_processor: Callable[..., None],
) -> None:
    if not openvino_has_bf16():
        pytest.skip("OpenVINO does not compute in BF16 here")
    avx512 = "flags\t\t: sse4_1 fma avx2 f16c avx512f avx512bw avx512dq avx512vl avx512_vnni avx512_bf16"
    report_of = ParityJudge.report

    def failing(self: ParityJudge, bundle: Bundle, precision: Precision, **options: Any) -> ParityReport:
        report = report_of(self, bundle, precision, **options)
        return replace(report, other_failures=("made up",)) if report.backend == "openvino" else report

    def exported(name: str) -> Bundle:
        return export_bundle(Checkpoint.read(checkpoint), tmp_path / name, precisions=[Precision.BF16])[0]

    passed = exported("passed")
    with monkeypatch.context() as patch:
        patch.setattr(ParityJudge, "report", failing)
        failed = exported("failed")
    with monkeypatch.context() as patch:
        patch.setattr("crossrt.export.steps.bf16.installed_backends", lambda *_: ("onnxruntime", "native"))
        not_judged = exported("not judged")
    monkeypatch.setattr("crossrt.engine.backends.openvino.computes_bf16", lambda: False)
    not_computed = exported("not computed")
    judged = [each.manifest.models["bf16"].backends for each in (passed, failed, not_judged, not_computed)]
    assert judged == [{"openvino": True}, {"openvino": False}, {}, {}]

    def chosen(bundle: Bundle, backend: str = "auto") -> str:
        return choose_cpu(bundle, precision="bf16", backend=backend, tuned=False).backend

    describe_processor(f"{avx512} amx_tile amx_int8 amx_bf16\n")
    assert [chosen(each) for each in (passed, failed, not_judged)] == ["openvino", "native", "native"]
    assert "AMX" in choose_cpu(passed, precision="bf16", tuned=False).reason
    with pytest.raises(BackendError, match=r"the bf16 model of .* failed its check as openvino computes it"):
        chosen(failed, "openvino")
    monkeypatch.setattr(support, "tiles_permitted", lambda: True)
    monkeypatch.setenv("CROSSRT_KERNELS", "amx")
    if native_library("native_amx") is not None:
        assert chosen(passed) == "native", "kernels for AMX were asked for"
    monkeypatch.delenv("CROSSRT_KERNELS")
    for flags in (avx512, f"{avx512} amx_tile amx_int8"):
        describe_processor(f"{flags}\n")
        assert chosen(passed) == "native"


def test_bf16_is_refused_where_it_cannot_be_checked(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossrt.export.steps.native.installed_backends", lambda *_: ("onnxruntime",))
    monkeypatch.setattr("crossrt.export.export.why_not_native", lambda *_: "this processor lacks avx512_bf16")
    with pytest.raises(OptionError, match=r"cannot be checked here: this processor lacks avx512_bf16\. Leave it out"):
        export_bundle(Checkpoint.read(checkpoint), tmp_path / "b", precisions=[Precision.BF16])
    assert not (tmp_path / "b").exists()


def test_weights_are_rounded_to_bf16_as_torch_does() -> None:
    numbers = np.random.default_rng(0).normal(0, 1, 10_000).astype(np.float32) * np.logspace(
        -30, 30, 10_000, dtype=np.float32
    )
    halfway = (np.arange(1000, dtype=np.uint32) << 16 | 0x8000 | 0x3F800000).view(np.float32)
    values = np.concatenate([numbers, halfway, [0.0, -0.0]]).astype(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    np.testing.assert_array_equal(_to_bf16(values), expected)
