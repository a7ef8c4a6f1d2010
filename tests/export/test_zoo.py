"""All fifteen published architectures, and those that people try next, are exported with parity."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from crossrt import Bundle, CrossEncoder
from crossrt.engine.backends.native_cpu import NativeSession
from crossrt.engine.batching.plan import plan_single_batch
from crossrt.engine.kernels.support import why_not_native
from crossrt.engine.precision import Precision
from crossrt.engine.text.pair_tokenizer import PairTokenizer
from crossrt.export import export as steps_of_export
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.checkpoint.heads import Head
from crossrt.export.export import export_bundle
from crossrt.export.parity.pairs import builtin_pairs
from crossrt.export.precision.native_weights import can_be_native, gradient_sites, native_from_checkpoint
from crossrt.export.precision.score_gradients import score_gradients
from tests.conftest import REPOSITORY
from tests.export.zoo_models import is_repeated, zoo

HEADS = {"bert": Head.BERT, "electra": Head.ELECTRA, "electra-plain": Head.ELECTRA_PLAIN, "bert-cat": Head.BERT_CAT}
PAIRS = [
    ("how many people live in berlin", "the population of berlin is 3,520,031"),
    ("how many people live in berlin", "berlin is known for museums"),
    ("what is the capital of france", "paris is the capital of france, on the river seine"),
]


PAIRS_OF_AN_EXPORT = slice(None, None, 8)
"""Which of the built-in pairs are compared here. Every export of a user, and the slow tests below, compare all."""


MAX_ROUNDED = 400
"""The widest hidden states of a model whose INT8 weights are made here: that takes half a minute for 768."""


@pytest.fixture(
    params=[
        pytest.param(model, id=model.folder, marks=pytest.mark.slow if is_repeated(model) else ()) for model in zoo.ZOO
    ]
)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, Path]]:
    yield request.param, zoo.write_model(request.param, tmp_path, layers=2)
    shutil.rmtree(tmp_path)  # the fifteen together are 2 GB


def natively(bundle: Bundle, checkpoint: Checkpoint, precision: Precision) -> np.ndarray[Any, Any] | None:
    """Return what the native kernels make of the pairs; None where the processor lacks the precision."""
    if why_not_native(precision):
        return None
    gradients = None
    if precision is Precision.INT8:
        sites = gradient_sites(checkpoint)
        gradients = score_gradients(checkpoint, sites, PAIRS, max_length=checkpoint.max_length).samples
    native_from_checkpoint(checkpoint, bundle.path / "model.native", precision, gradients=gradients)
    weights = replace(bundle.manifest.models["fp32"], native_file="model.native")
    manifest = replace(bundle.manifest, models={precision.value: weights})
    session = NativeSession(replace(bundle, manifest=manifest), precision=precision, streams=1)
    encoded = PairTokenizer.from_file(bundle.tokenizer_file, max_length=checkpoint.max_length).encode(PAIRS)
    (batch,) = plan_single_batch(encoded.lengths, bucket_up_to=0).batches(encoded, pad_id=checkpoint.pad_token_id)
    logits = np.empty((len(PAIRS), checkpoint.labels))
    logits[batch.rows] = session.run(batch)
    session.close()
    return logits


@pytest.mark.usefixtures("few_steps")
def test_each_of_the_fifteen_is_exported_with_parity_and_scores_differ(
    written: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = written
    monkeypatch.setattr(
        steps_of_export, "builtin_pairs", lambda max_length: builtin_pairs(max_length)[PAIRS_OF_AN_EXPORT]
    )
    checkpoint = Checkpoint.read(folder)
    assert checkpoint.head is HEADS[model.kind]
    assert checkpoint.labels == model.labels
    assert checkpoint.activation == (
        "identity" if model.activation or model.labels == 2 or model.kind == "bert-cat" else "sigmoid"
    )
    bundle, reports = export_bundle(checkpoint, tmp_path / "bundle")
    assert [report.backend for report in reports] == ["onnxruntime", *([] if why_not_native() else ["native"])]
    for report in reports:
        assert report, str(report)
        assert report.max_abs_diff < 3e-5
    inputs = {"input_ids", "attention_mask"} | (set() if model.kind == "bert-cat" else {"token_type_ids"})
    assert set(bundle.manifest.inputs) == inputs
    with CrossEncoder(bundle.path) as scorer:
        logits = scorer.logits(PAIRS)
    assert logits.shape == (3, model.labels)
    assert np.ptp(logits, axis=0).min() > 0.05
    allowed = {Precision.BF16: 0.1} | ({} if model.hidden > MAX_ROUNDED else {Precision.INT8: 0.3})
    for precision, most in allowed.items():
        computed = natively(bundle, checkpoint, precision)
        assert computed is None or 0 < np.abs(computed - logits).max() < most


def test_the_zoo_has_the_files_that_the_hub_has(tmp_path: Path) -> None:
    by_name = {model.name: model for model in zoo.ZOO}
    assert len(by_name) == 15
    new = zoo.write_model(by_name["cross-encoder/ms-marco-TinyBERT-L-2-v2"], tmp_path)
    old = zoo.write_model(by_name["nboost/pt-tinybert-msmarco"], tmp_path, layers=2)
    assert {"model.safetensors", "tokenizer.json"} <= {file.name for file in new.iterdir()}
    assert {file.name for file in old.iterdir()} == {
        "pytorch_model.bin",
        "vocab.txt",
        "config.json",
        "tokenizer_config.json",
    }
    assert Checkpoint.read(old).unused_tensors == ("fit_dense.weight", "fit_dense.bias")
    for model in zoo.ZOO:
        assert len(zoo.vocabulary(model.vocab)) == model.vocab
    vocabulary = zoo.vocabulary(30522)
    assert [vocabulary.index(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")] == [
        0,
        100,
        101,
        102,
        103,
    ]


def test_the_same_seed_writes_the_same_weights(tmp_path: Path) -> None:
    model = zoo.ZOO[0]
    contents = [(zoo.write_model(model, tmp_path, seed=seed) / "model.safetensors").read_bytes() for seed in (3, 3, 4)]
    assert contents[0] == contents[1] != contents[2]


def _roberta_tokenizer(path: Path) -> int:
    """Write a tokenizer with RoBERTa's template, `<s> a </s></s> b </s>`, and return its size."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = "how many people live in berlin the population of is what capital france paris a on river".split()
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *words]
    tokenizer = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(tokens[:4])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.save(str(path / "tokenizer.json"))
    special = {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    (path / "tokenizer_config.json").write_text(
        json.dumps(special | {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 60})
    )
    return len(tokens)


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("roberta", marks=pytest.mark.processor),
        *("xlm-roberta", "distilbert", "electra-small", "bert-gelu-new", "bert-relu"),
    ],
)
def test_what_people_try_next_is_exported_with_parity(kind: str, checkpoint: Path, tmp_path: Path) -> None:
    source = tmp_path / "checkpoint"
    small = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "num_labels": 1,
    }
    if kind.endswith("roberta"):
        source.mkdir()
        size = _roberta_tokenizer(source)
        small |= {"vocab_size": size, "max_position_embeddings": 64, "type_vocab_size": 1, "pad_token_id": 1}
        classes = {
            "roberta": (transformers.RobertaConfig, transformers.RobertaForSequenceClassification),
            "xlm-roberta": (transformers.XLMRobertaConfig, transformers.XLMRobertaForSequenceClassification),
        }
        config_class, model_class = classes[kind]
    else:
        shutil.copytree(checkpoint, source)
        vocab = len((source / "vocab.txt").read_text().splitlines())
        small |= {"vocab_size": vocab, "max_position_embeddings": 64}
        config_class, model_class = transformers.BertConfig, transformers.BertForSequenceClassification
        if kind == "distilbert":
            small = {
                "vocab_size": vocab,
                "dim": 32,
                "n_layers": 2,
                "n_heads": 2,
                "hidden_dim": 64,
                "max_position_embeddings": 64,
                "num_labels": 1,
            }
            config_class, model_class = transformers.DistilBertConfig, transformers.DistilBertForSequenceClassification
        elif kind == "electra-small":  # narrower embeddings, projected
            small |= {"embedding_size": 16}
            config_class, model_class = transformers.ElectraConfig, transformers.ElectraForSequenceClassification
        elif kind == "bert-gelu-new":
            small |= {"hidden_act": "gelu_new"}
        else:
            small |= {"hidden_act": "relu"}
    torch.manual_seed(0)
    model = model_class(config_class(**small))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(source)
    read = Checkpoint.read(source)
    assert read.max_length <= 62 if kind.endswith("roberta") else 64
    bundle, reports = export_bundle(read, tmp_path / "bundle")
    assert all(reports), "\n".join(map(str, reports))
    assert ("token_type_ids" in bundle.manifest.inputs) == (kind not in ("roberta", "xlm-roberta", "distilbert"))
    assert can_be_native(read)
    assert [report.backend for report in reports] == ["onnxruntime", *([] if why_not_native() else ["native"])]
    assert max(report.max_abs_diff for report in reports) < 1e-4
    assert can_be_native(read, for_gpus=True) == (kind != "bert-relu")
    for precision, allowed in ((Precision.INT8, 0.1), (Precision.BF16, 0.03)):
        computed = natively(bundle, read, precision)
        if computed is not None:
            with CrossEncoder(bundle.path) as scorer:
                np.testing.assert_allclose(computed, scorer.logits(PAIRS), atol=allowed)


@pytest.mark.slow
@pytest.mark.parametrize("model", zoo.ZOO, ids=lambda model: model.folder)
def test_each_of_the_fifteen_is_exported_at_full_size(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes time, peak memory and parity of each to benchmarks/results/export.json."""
    folder = zoo.write_model(model, tmp_path)
    log = tmp_path / "log"
    start = time.monotonic()
    with log.open("w") as output:
        command = [sys.executable, "-m", "crossrt", "export", str(folder), str(tmp_path / "bundle")]
        child = subprocess.Popen(command, stdout=output, stderr=output)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - start
    assert child.returncode == 0, log.read_text()
    peak = usage.ru_maxrss / 1e6
    parity = json.loads((tmp_path / "bundle" / "parity.fp32.json").read_text())
    results = REPOSITORY / "benchmarks/results/export.json"
    rows = json.loads(results.read_text())["models"] if results.exists() else {}
    rows[model.name] = {
        "seconds": round(seconds, 1),
        "peak_gb": round(peak, 2),
        "bundle_mb": round(sum(file.stat().st_size for file in (tmp_path / "bundle").rglob("*")) / 1e6, 1),
        "max_abs_diff": parity["max_abs_diff"],
        "mean_abs_diff": parity["mean_abs_diff"],
    }
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    from result import write_result

    write_result(results, {"models": rows})
    shutil.rmtree(tmp_path)
    assert peak < 12
    if model.name.endswith("MiniLM-L-6-v2"):
        assert seconds < 30
