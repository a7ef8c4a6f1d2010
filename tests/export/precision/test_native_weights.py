"""FP32 and BF16 for the native kernels: exported with parity where they run, left out or refused in words elsewhere."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file

from crossrt import CrossEncoder
from crossrt.__main__ import main
from crossrt.engine.bundle.native_weights import NativeModel
from crossrt.engine.errors import BackendError, OptionError
from crossrt.engine.kernels.support import why_not_native
from crossrt.engine.precision import Precision
from crossrt.engine.runtime.autotune import candidates
from crossrt.engine.selection.select import choose_execution
from crossrt.engine.text.pair_tokenizer import PairTokenizer
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.checkpoint.reference import Reference
from crossrt.export.export import export_bundle
from crossrt.export.graph.session import batches_of, logits_of
from crossrt.export.graph.writer import graph_of
from crossrt.export.parity.pairs import builtin_pairs
from crossrt.export.precision import native_weights as native
from crossrt.export.precision.fp16_emulation import rounded_where_stored
from crossrt.export.precision.native_weights import _to_bf16
from tests.engine.backends.emulated_gpu import emulated_logits

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


@pytest.mark.processor
@pytest.mark.skipif(bool(why_not_native(Precision.BF16)), reason=why_not_native(Precision.BF16) or "they run")
def test_bf16_is_exported_with_parity_and_taken_before_openvinos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, (*_, report) = export_bundle(
        Checkpoint.read(DEMO / "checkpoint"), tmp_path / "b", precisions=[Precision.BF16]
    )
    assert (report.precision, report.backend, bool(report)) == ("bf16", "native", True)
    assert json.loads((bundle.path / "parity.bf16.json").read_text())["passed"]
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
    assert line.endswith("; model.bf16.native for native kernels")


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
