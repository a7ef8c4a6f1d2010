"""The parity check passes for what is right, and fails for each thing that can be wrong."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
import onnx
from onnx import numpy_helper

from crossrt import Bundle, CrossEncoder
from crossrt.engine.bundle.manifest import Manifest
from crossrt.engine.errors import InputError, ParityError
from crossrt.engine.files.trec import read_collection
from crossrt.export.bundle.manifest import write_manifest
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.export import export_bundle
from crossrt.export.parity.pairs import builtin_pairs, groups_of
from crossrt.export.parity.parity import parity
from crossrt.export.parity.report import ParityReport
from crossrt.export.steps import fp32

pytestmark = pytest.mark.usefixtures("portable")


@pytest.fixture
def altered(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def edit_model(path: Path, edit: Callable[[onnx.ModelProto], None]) -> None:
    file = path / "onnx/model.onnx"
    model = onnx.load(file)
    edit(model)
    onnx.save(model, file)
    write_manifest(path, _manifest(path))


def _manifest(path: Path) -> Manifest:
    return Manifest.from_json((path / "manifest.json").read_text(), where=path)


def edit_weight(path: Path, name: str, edit: Callable[[Any], Any]) -> None:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(edit(numpy_helper.to_array(tensor).copy()), name))

    edit_model(path, change)


def checked(path: Path, checkpoint: Path) -> ParityReport:
    with CrossEncoder(path) as model:
        return parity(model, Checkpoint.read(checkpoint), builtin_pairs(64))


def test_an_untouched_bundle_passes_and_says_by_how_much(bundle: Path, checkpoint: Path) -> None:
    report = checked(bundle, checkpoint)
    assert report
    assert report.failures == []
    assert 0 < report.max_abs_diff < 1e-5
    assert report.mean_abs_diff <= report.max_abs_diff
    assert report.kendall_tau == pytest.approx(1)
    assert report.top10_overlap == 1
    assert len(report.worst) == 5
    assert json.loads(report.to_json())["passed"] is True
    assert "parity passed" in str(report)


def test_the_report_is_kept_in_the_bundle(bundle: Path) -> None:
    kept = json.loads((bundle / "parity.fp32.json").read_text())
    assert kept["passed"] is True
    assert Bundle.open(bundle).manifest.models["fp32"].parity == {
        name: kept[name]
        for name in (
            "passed",
            "pairs",
            "max_abs_diff",
            "mean_abs_diff",
            "kendall_tau",
            "list_kendall_tau",
            "top10_overlap",
            "ranking",
        )
    }


def test_one_corrupted_weight_is_caught(altered: Path, checkpoint: Path) -> None:
    def corrupt(weight: Any) -> Any:
        weight[3, 5] += 0.5
        return weight

    edit_weight(altered, "layer.0.intermediate.weight", corrupt)
    report = checked(altered, checkpoint)
    assert not report
    assert "logits differ by up to" in report.failures[0]
    assert "FAILED" in str(report)


def test_swapped_token_types_are_caught(altered: Path, checkpoint: Path) -> None:
    edit_weight(altered, "type.weight", lambda weight: weight[::-1].copy())
    assert not checked(altered, checkpoint)


def test_a_wrong_head_is_caught(altered: Path, checkpoint: Path) -> None:
    def without_tanh(model: onnx.ModelProto) -> None:
        next(node for node in model.graph.node if node.op_type == "Tanh").op_type = "Relu"

    edit_model(altered, without_tanh)
    assert not checked(altered, checkpoint)


def test_a_wrong_activation_is_caught_though_the_logits_agree(altered: Path, checkpoint: Path) -> None:
    write_manifest(altered, dataclasses.replace(_manifest(altered), activation="sigmoid"))
    report = checked(altered, checkpoint)
    assert report.max_abs_diff < 1e-5
    assert len(report.failures) == 1
    assert "after the activation" in report.failures[0]


def test_a_tokenizer_that_keeps_case_is_caught(altered: Path, checkpoint: Path) -> None:
    tokenizer = json.loads((altered / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (altered / "tokenizer.json").write_text(json.dumps(tokenizer))
    write_manifest(altered, _manifest(altered))
    report = checked(altered, checkpoint)
    assert not report
    assert report.token_mismatches > 0


def test_nan_logits_are_counted_and_cannot_pass_as_no_difference(altered: Path, checkpoint: Path) -> None:
    edit_weight(altered, "head.1.bias", lambda bias: np.full_like(bias, np.nan))
    report = checked(altered, checkpoint)
    assert not report
    assert report.not_finite == 2 * report.pairs
    assert report.max_abs_diff > 1e300
    assert report.kendall_tau is None


def test_padding_that_leaks_into_scores_is_caught_by_the_mixed_batches_alone(altered: Path, checkpoint: Path) -> None:
    edit_weight(altered, "lowest", lambda _: np.float32(0))  # a mask that masks nothing
    report = checked(altered, checkpoint)
    assert not report
    assert {pair.scored for pair in report.worst} == {"batched"}


def test_another_number_of_labels_is_refused_in_words(two_label_bundle: Path, checkpoint: Path) -> None:
    with pytest.raises(InputError, match="2 labels and the checkpoint 1"):
        checked(two_label_bundle, checkpoint)


def test_no_pairs_is_an_error(bundle: Path, checkpoint: Path) -> None:
    with CrossEncoder(bundle) as model, pytest.raises(InputError, match="at least one pair"):
        parity(model, Checkpoint.read(checkpoint), [])


def test_a_failed_parity_publishes_nothing(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = fp32.onnx_from_checkpoint

    def corrupted(checkpoint: Checkpoint, path: Path) -> None:
        original(checkpoint, path)
        model = onnx.load(path)
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "layer.1.output.weight")
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.01, tensor.name))
        onnx.save(model, path)

    monkeypatch.setattr(fp32, "onnx_from_checkpoint", corrupted)
    with pytest.raises(ParityError, match="was not published: logits differ") as caught:
        export_bundle(Checkpoint.read(checkpoint), tmp_path / "bundle")
    assert caught.value.report.worst
    assert list(tmp_path.iterdir()) == []


def test_pairs_that_are_cut_elsewhere_publish_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a model has so many positions that no such pair is scored."""
    read = Checkpoint.read(checkpoint)
    right = Bundle.pair_tokenizer
    monkeypatch.setattr(Bundle, "pair_tokenizer", lambda self: right(self, max_length=read.max_length - 1))
    with pytest.raises(ParityError, match="are not cut as transformers cuts them"):
        export_bundle(read, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_the_built_in_pairs_cover_one_token_to_beyond_the_limit_and_every_kind_of_text(bundle: Path) -> None:
    pairs = builtin_pairs(64)
    with CrossEncoder(bundle, max_length=64) as model:
        lengths = model.encode(pairs).lengths
    assert lengths.min() == 3  # [CLS] [SEP] [SEP]: both texts empty
    assert lengths.max() == 64
    assert {4, 5} & set(lengths.tolist())
    text = " ".join(query + passage for query, passage in pairs)
    for sample in ("\u0301", "\u4e2d", "\u05de", "\U0001f600", "\x00", "https://", "[SEP] [SEP]", "3.14"):
        assert sample in text
    assert ("", "") in pairs
    assert len(groups_of(pairs)) >= 5


@pytest.mark.parametrize("two_labels", [False, True])
def test_parity_holds_on_real_passages(
    shared: Path, make_checkpoint: Callable[..., Path], tmp_path: Path, two_labels: bool
) -> None:
    data = shared / "data/msmarco-dl19"
    queries, passages, run = read_collection(data / "queries.tsv", data / "passages.tsv", data / "bm25.run.trec")
    query = next(iter(run))
    pairs = [(queries[query], passages[passage]) for passage in run[query]]
    source = make_checkpoint(labels=2 if two_labels else 1, seed=5)
    _, (report,) = export_bundle(Checkpoint.read(source), tmp_path / "bundle", pairs=pairs)
    assert report
    assert report.pairs == len(pairs) + len(builtin_pairs(64))
