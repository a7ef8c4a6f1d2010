"""`crossrt bench`, from its words to what it prints and keeps."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrt import CrossEncoder
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.bundle.manifest import MANIFEST
from crossrt.engine.errors import BackendError, BundleError, MeasurementError, OptionError
from crossrt.engine.files.digests import sha256_of
from crossrt.engine.hardware.cpus import usable_cpus
from crossrt.measurement.model_config import ModelConfig
from crossrt.speed.bench import bench
from crossrt.speed.bench_configs import Missing, bench_configs
from crossrt.speed.child import first_score_s, peak_mb
from crossrt.speed.figures import latency_of
from crossrt.speed.measure import Plan
from crossrt.speed.operations import flops_of, padding_of
from crossrt.speed.result.speeds import Speeds
from crossrt.speed.result.table import table_of
from crossrt.speed.texts import Texts
from tests.engine.samples import passages

Command = Callable[..., tuple[int, str, str]]
SHORT = Plan(repeats=3, lists=1, list_length=20, counts=(1, 5), starts=0, memory=False, latency_s=0.01)
pytestmark = pytest.mark.usefixtures("quick_machine")


@pytest.fixture
def below_the_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small matrices reach little, and a tiny model's figures nothing like it; keep the one below the other."""
    monkeypatch.setattr("crossrt.speed.ceiling.shares.check_share", lambda *_, **__: None)


def rows(*sources: Path, **options: Any) -> list[ModelConfig | Missing]:
    return bench_configs([str(source) for source in sources], device="cpu", **options)


def benched(rows: list[ModelConfig | Missing], plan: Plan = SHORT) -> Speeds:
    return bench(rows, Texts.typical(), plan, stretch_s=0.005)


@pytest.mark.usefixtures("below_the_ceiling")
def test_what_is_printed_is_what_is_kept(
    command: Command, two_precisions: Path, tmp_path: Path, pairs: list[tuple[str, str]]
) -> None:
    out, file = tmp_path / "speeds.json", tmp_path / "pairs.tsv"
    file.write_text("".join(f"{query}\t{passage}\n" for query, passage in pairs))
    status, printed, said = command(
        two_precisions, "--precision", "fp32,int8", "--backend", "onnxruntime", "--device", "cpu", "--quick",
        "--counts", "1,10", "--pairs", file, "--out", out,
    )  # fmt: skip
    assert status == 0, said
    speeds = Speeds.read(out)
    assert [row.label for row in speeds.rows] == ["small.fp32 onnxruntime", "small.int8 onnxruntime"]
    assert {one.quantity for one in speeds.ceilings} >= {"fp32", "int8", "memory"}
    assert (speeds.workload.source, speeds.workload.pairs) == ("pairs.tsv", 100)
    for row in speeds.rows:
        assert row.failed is None
        assert row.bundle_sha256 == sha256_of(two_precisions / MANIFEST)
        assert row.pairs_per_s is not None
        assert row.tokens_per_s is not None
        tokens = row.tokens_per_s.median / row.pairs_per_s.median
        assert tokens == pytest.approx(speeds.workload.mean_tokens, rel=0.01)
        assert row.start_s is not None
        assert 0.05 < row.start_s.median < 60
        assert row.memory_mb is not None
        assert 30 < row.memory_mb < 3000
        assert [latency.passages for latency in row.latencies] == [1, 10]
        assert all(latency.p50_ms <= latency.p95_ms <= latency.p99_ms for latency in row.latencies)
        # The same file twice.
        assert row.difference is not None
        assert row.difference.max_abs == 0
        assert row.difference.top10_overlap is None, "of so few lists"
        assert row.of_ceiling is not None
        ceiling = next(one for one in speeds.ceilings if one.quantity == row.precision)
        assert row.gflop_per_pair is not None
        assert row.of_ceiling == pytest.approx(row.pairs_per_s.median * row.gflop_per_pair / ceiling.rate, rel=1e-4)
    assert speeds.rows[0].ratio is not None
    assert speeds.rows[0].ratio.median == 1
    assert str(tmp_path) not in out.read_text(), "no paths"
    for part in ("small.fp32 onnxruntime", "to first score, s", "p50 / p95 / p99", "memory", "pairs of"):
        assert part in printed


@pytest.mark.usefixtures("below_the_ceiling")
def test_an_exact_ranking_is_a_row_beside_its_precision(rounded: Path) -> None:
    found = rows(rounded, precisions=["fp32", "int8"], backends=["onnxruntime"], exact_top_k=4)
    assert [row.label for row in found] == [
        "rounded.fp32 onnxruntime",
        "rounded.int8 onnxruntime",
        "rounded.int8.exact4 onnxruntime",
    ]
    plan = dataclasses.replace(SHORT, starts=1, memory=True)
    speeds = benched(found, plan)
    _, cheap, exact = speeds.rows
    assert cheap.difference is not None
    assert cheap.difference.max_abs > 1e-3
    assert exact.difference is not None
    assert exact.difference.max_abs < 1e-4, "the scores that it returns are FP32's"
    assert exact.method == "exact top 4"
    assert exact.of_ceiling is exact.model_pairs_per_s is exact.padding is None
    assert [latency.passages for latency in exact.latencies] == [1, 5]
    assert exact.memory_mb is not None
    assert cheap.memory_mb is not None
    assert exact.memory_mb > cheap.memory_mb, "FP32 is opened beside INT8"
    assert "rounded.int8.exact4" in table_of(speeds)


def test_exact_rankings_of_fp32_or_without_known_errors_are_refused(bundle: Path, two_precisions: Path) -> None:
    with pytest.raises(OptionError, match="FP32 is exact; name a cheaper precision"):
        rows(bundle, precisions=["fp32"], exact_top_k=3)
    with pytest.raises(BundleError, match=r"does not say how far the scores of int8 on onnxruntime lie from FP32's"):
        rows(two_precisions, precisions=["int8"], backends=["onnxruntime"], exact_top_k=3)


@pytest.mark.usefixtures("below_the_ceiling")
def test_errors_are_from_the_bundles_own_fp32(make_bundle: Any, two_precisions: Path, tmp_path: Path) -> None:
    other = make_bundle(seed=5)
    broken = tmp_path / "small"
    shutil.copytree(two_precisions, broken)
    manifest = json.loads((broken / "manifest.json").read_text())
    manifest["models"]["int8"] = {**manifest["models"]["fp32"], "file": "other.onnx"}
    shutil.copy(other / "onnx/model.onnx", broken / "other.onnx")
    file = {"name": "other.onnx", "size": (broken / "other.onnx").stat().st_size, "sha256": "0" * 64}
    manifest["files"].append(file)
    (broken / "manifest.json").write_text(json.dumps(manifest))
    (alone,) = benched(rows(broken, precisions=["int8"])).rows
    _, beside = benched(rows(broken, precisions=["fp32", "int8"])).rows
    assert alone.difference == beside.difference, "FP32 is opened for it where it is no row"
    assert alone.difference is not None
    found = alone.difference
    assert found.max_abs > 0.01
    np.testing.assert_allclose(
        np.abs(np.array(found.logits) - np.array(found.reference)).max(), found.max_abs, rtol=1e-5
    )
    pairs = Texts.typical().request(0, 20, _tokenizer(broken))
    with CrossEncoder(broken, device="cpu") as model:
        np.testing.assert_allclose(model.logits(pairs)[:, 0], found.reference, atol=1e-5)


@pytest.mark.usefixtures("below_the_ceiling")
def test_a_row_that_cannot_run_stays_with_its_reason(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = ModelConfig.open

    def failing(self: ModelConfig) -> CrossEncoder:
        if self.execution.backend == "openvino":
            raise MemoryError("no memory left")
        return opened(self)

    monkeypatch.setattr(ModelConfig, "open", failing)
    chosen = rows(bundle, precisions=["fp32", "bf16"], backends=["onnxruntime", "openvino"])
    speeds = benched(chosen)
    assert [row.label.partition(".")[2] for row in speeds.rows] == [
        "fp32 onnxruntime",
        "fp32 openvino",
        "bf16 onnxruntime",
        "bf16 openvino",
    ]
    reasons = [row.failed for row in speeds.rows]
    assert reasons[0] is None
    assert reasons[1] == reasons[3] == "MemoryError: no memory left"
    assert "onnxruntime does not compute in bf16 on a CPU" in str(reasons[2])
    assert "bundle.bf16 openvino  failed: MemoryError" in table_of(speeds)

    def none(self: ModelConfig) -> CrossEncoder:
        raise BackendError("no model")

    monkeypatch.setattr(ModelConfig, "open", none)
    with pytest.raises(BackendError, match="no model"):
        benched(rows(bundle))


def test_a_run_above_its_ceiling_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossrt.speed.figures.flops_of", lambda bundle, lengths, native: 1e15)
    with pytest.raises(MeasurementError, match=r"bundle\.fp32 onnxruntime is at .* this run is invalid"):
        benched(rows(bundle, backends=["onnxruntime"]))


@pytest.mark.usefixtures("below_the_ceiling")
def test_rows_take_turns(two_precisions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    logits = CrossEncoder.logits

    def spied(self: CrossEncoder, pairs: Any, **options: Any) -> Any:
        asked.append(self.precision.value)
        return logits(self, pairs, **options)

    monkeypatch.setattr(CrossEncoder, "logits", spied)
    plan = dataclasses.replace(SHORT, counts=(), repeats=4)
    speeds = benched(rows(two_precisions, precisions=["fp32", "int8"]), plan)
    assert asked == ["fp32", "int8", "fp32", "int8", "int8", "fp32", "fp32", "int8", "int8", "fp32"], "first to warm up"
    assert all(row.pairs_per_s is not None and row.pairs_per_s.repeats == 4 for row in speeds.rows)
    assert all(row.warm_up_s is not None and row.warm_up_s > 0 for row in speeds.rows)


@pytest.mark.usefixtures("below_the_ceiling")
@pytest.mark.parametrize("queries", [19, 20])
def test_rankings_are_compared_over_twenty_lists(rounded: Path, tmp_path: Path, queries: int) -> None:
    lists = [(f"where is the river {'city ' * number}", passages(15, seed=number)) for number in range(queries)]
    file = tmp_path / "pairs.tsv"
    file.write_text("".join(f"{query}\t{text}\n" for query, texts in lists for text in texts))
    found = rows(rounded, precisions=["fp32", "int8"], backends=["onnxruntime"], exact_top_k=4)
    plan = dataclasses.replace(SHORT, counts=(), list_length=15)
    reference, cheap, exact = bench(found, Texts.of_pairs(file), plan, stretch_s=0.005).rows
    overlaps = [row.difference and row.difference.top10_overlap for row in (reference, cheap, exact)]
    if queries < 20:
        assert overlaps == [None, None, None]
        return
    bests = []
    for precision in ("fp32", "int8"):
        with CrossEncoder(rounded, precision=precision, backend="onnxruntime", device="cpu") as model:
            bests.append([{each["corpus_id"] for each in model.rank(*each, top_k=10, exact=False)} for each in lists])
    expected = np.mean([len(one & other) / 10 for one, other in zip(*bests, strict=True)])
    assert 0 < expected < 1
    assert overlaps == [1.0, pytest.approx(expected), 1.0]


def test_a_process_that_ends_early_says_why(bundle: Path, tmp_path: Path) -> None:
    (system,) = rows(bundle)
    assert isinstance(system, ModelConfig)
    gone = dataclasses.replace(system, bundle=dataclasses.replace(system.bundle, path=tmp_path / "gone"))
    with pytest.raises(BackendError, match=r"bundle\.fp32 \w+ in a process of its own ended with status 1: .*gone"):
        first_score_s(gone)
    with pytest.raises(BackendError, match="gone"):
        peak_mb(gone, [[("a", "b")]])


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (
            ("--precision", "int8"),
            1,
            "holds no int8 model; it holds fp32. Make one that does with: crossrt export CHECKPOINT OUT --precision fp32,int8",
        ),
        (("--precision", "half"), 2, "unknown precision 'half'"),
        (("--backend", "onnx"), 2, "--backend 'onnx': one or more of auto, onnxruntime, openvino, native, tensorrt"),
        (("--threads", "10000"), 2, f"--threads 10000: this process may use {usable_cpus()} processors"),
        (("--threads", "two"), 2, "--threads 'two': give whole numbers from 1, as 1,2"),
        (("--counts", "0,1"), 2, "--counts '0,1': give whole numbers from 1"),
        (("--repeats", "0"), 2, "--repeats 0: give a whole number from 1"),
        (("--pairs", "EMPTY"), 1, "pairs.tsv is empty"),
        (("--pairs", "BROKEN"), 1, "broken.tsv, line 2: expected `query <tab> passage`"),
        (("--pairs", "EMPTY", "--run", "EMPTY"), 2, "give --pairs, or --queries, --passages and --run, not both"),
        (("--queries", "EMPTY"), 2, "--queries, --passages and --run go together"),
        (("--precision", "fp32,fp32"), 2, "bundle.fp32 onnxruntime is asked for twice"),
        (("--out", "nowhere/speeds.json"), 2, "nowhere/speeds.json is in a directory that does not exist"),
        (("--out", "FOLDER"), 2, "is a directory; give a file to write"),
        (("--pairs", "BROKEN", "--out", "BROKEN"), 2, "broken.tsv is also read by --pairs, and would be replaced"),
        (("--limit", "3"), 2, "--limit: it goes with --compare"),
        (("--precision", "bf16", "--backend", "onnxruntime"), 1, "onnxruntime does not compute in bf16 on a CPU"),
    ],
)
def test_wrong_words_are_explained_before_anything_is_measured(
    command: Command,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    status: int,
    message: str,
) -> None:
    (tmp_path / "pairs.tsv").write_text("")
    (tmp_path / "broken.tsv").write_text("a\tb\nc\n")
    files = {"EMPTY": str(tmp_path / "pairs.tsv"), "BROKEN": str(tmp_path / "broken.tsv"), "FOLDER": str(tmp_path)}
    monkeypatch.setattr("crossrt.speed.bench.bench", lambda *_, **__: pytest.fail("measured"))
    backend = () if "--backend" in words or "bf16" in words else ("--backend", "onnxruntime")
    found, _, said = command(bundle, "--device", "cpu", *backend, *(files.get(word, word) for word in words))
    assert found == status, said
    assert message in said


def test_labels_say_the_backend_and_the_threads_where_there_are_several(bundle: Path) -> None:
    assert [row.label for row in rows(bundle, backends=["onnxruntime", "openvino"])] == [
        "bundle.fp32 onnxruntime",
        "bundle.fp32 openvino",
    ]
    if usable_cpus() > 1:
        labels = [row.label for row in rows(bundle, backends=["onnxruntime"], threads=[1, 2])]
        assert labels == ["bundle.fp32 onnxruntime 1t", "bundle.fp32 onnxruntime 2t"]


def test_operations_are_those_of_the_graph(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    # Two layers of 32 and 64; of the last one keys and values alone.
    n = 10
    first = 2 * n * (4 * 32**2 + 2 * 32 * 64) + 4 * n**2 * 32
    assert flops_of(opened, np.array([n])) == first + 2 * n * 2 * 32**2
    assert (
        flops_of(opened, np.array([n]), native=True)
        == first + 2 * n * 2 * 32 * opened.manifest.architecture["attention_heads"]
    )
    assert flops_of(opened, np.array([n, n])) == 2 * flops_of(opened, np.array([n]))
    source = {**opened.manifest.source, "exporter": "optimum"}
    whole = dataclasses.replace(opened, manifest=dataclasses.replace(opened.manifest, source=source))
    assert flops_of(whole, np.array([n])) == 2 * first


def test_padding_is_that_of_the_batches_that_run(bundle: Path) -> None:
    (system,) = rows(bundle)
    assert isinstance(system, ModelConfig)
    assert padding_of(system.execution, 64, np.full(32, 64), batch_size=32) == 0
    lengths = np.arange(3, 64)
    assert 0 < padding_of(system.execution, 64, lengths, batch_size=32) < 0.2
    assert padding_of(dataclasses.replace(system.execution, backend="native"), 64, lengths, batch_size=32) == 0


def test_percentiles_are_of_the_requests() -> None:
    found = latency_of(10, np.arange(1, 102) / 1e3)
    assert (found.p50_ms, found.p95_ms, found.p99_ms) == pytest.approx((51, 96, 100))
    assert found.requests == 101
    assert found.p50_interval is not None
    low, high = found.p50_interval
    assert 40 <= low <= 42, "95 % of the binomial with 101 draws lie within 41 and 61"
    assert 60 <= high <= 62
    few = latency_of(10, [0.3, 0.1, 0.2])
    assert few.p50_interval == pytest.approx([100, 300])


def _tokenizer(bundle: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(Bundle.open(bundle).tokenizer_file))
