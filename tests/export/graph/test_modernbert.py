"""ModernBERT: scores as transformers and sentence-transformers have them, in every precision, or a refusal in words."""

import json
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from crossrt import Bundle, CrossEncoder
from crossrt.__main__ import main
from crossrt.calibration.calibration_set import CalibrationSet
from crossrt.calibration.recipe import Recipe
from crossrt.engine.batching.batch import Batch
from crossrt.engine.errors import CheckpointError, CrossrtError, OptionError
from crossrt.engine.kernels.support import why_not_native
from crossrt.engine.precision import Precision
from crossrt.engine.text.pair_tokenizer import PairTokenizer
from crossrt.export import export
from crossrt.export.bundle.manifest import manifest_of
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.checkpoint.heads import Head
from crossrt.export.checkpoint.modernbert import rotary_tables
from crossrt.export.checkpoint.reference import Reference
from crossrt.export.export import export_bundle
from crossrt.export.graph.numerics import FP16, FP16_MAX, Numerics
from crossrt.export.graph.session import batches_of, logits_of
from crossrt.export.graph.writer import graph_of
from crossrt.export.parity.pairs import MAX_WORDS, builtin_pairs
from crossrt.export.precision.fp16 import choose_fp16
from crossrt.export.precision.fp16_emulation import rounded_after_operators, rounded_where_stored
from crossrt.export.precision.native_weights import can_be_native
from crossrt.export.precision.quantization_points import quantization_points
from tests.conftest import WORDS
from tests.engine.backends.emulated_gpu import emulated_logits

REPOSITORY = Path(__file__).resolve().parents[3]
POSITIONS = 96
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "max_position_embeddings": POSITIONS,
    "local_attention": 16,
    "num_labels": 1,
}
SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")


def write_tokenizer(path: Path, max_length: int) -> int:
    """Write a tokenizer that gives no token types, as ModernBERT's; return its number of tokens."""
    tokens = [*SPECIAL, *WORDS]
    ids = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.save(str(path / "tokenizer.json"))
    settings: dict[str, Any] = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length}
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(tokens)


def write_modernbert(path: Path, *, spare_words: int = 3, seed: int = 0, **fields: Any) -> Path:
    """Write a seeded checkpoint. Like the published ones it has more rows of embeddings than its tokenizer has tokens."""
    path.mkdir(parents=True)
    fields = SIZES | fields
    tokens = write_tokenizer(path, fields["max_position_embeddings"])
    ids = {f"{name}_token_id": SPECIAL.index(f"[{name.upper()}]") for name in ("cls", "sep", "pad")}
    config = transformers.ModernBertConfig(vocab_size=tokens + spare_words, **ids, **fields)
    model = transformers.ModernBertForSequenceClassification(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # so large that every part influences the scores
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 2:
                parameter.copy_(noise * (0.5 if "embeddings" in name else 1.5 * parameter.shape[1] ** -0.5))
            else:
                parameter.add_(noise * 0.3)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that reads the mean of all tokens. Not to be changed: copy it first."""
    return write_modernbert(tmp_path_factory.mktemp("modernbert") / "original", classifier_pooling="mean")


def texts(words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def pairs_to(length: int) -> list[tuple[str, str]]:
    """Pairs of 3 tokens, which is an empty one, to `length` tokens and beyond, where they are truncated."""
    words = [0, 1, 2, 5, 13, 20, 33, length // 2, length - 6, length - 5, length - 4, length, 2 * length]
    return [("", ""), *((texts(2, number), texts(count, number + 50)) for number, count in enumerate(words))]


def by_transformers(path: Path, pairs: Sequence[tuple[str, str]]) -> np.ndarray[Any, Any]:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    rows = []
    with torch.inference_mode():
        for query, passage in pairs:
            encoded = tokenizer([query], [passage], truncation="longest_first", return_tensors="pt")
            rows.append(model(**encoded).logits[0].numpy())
    return np.array(rows)


def edit_config(path: Path, **fields: Any) -> None:
    """Change fields of config.json; `...` takes a field out."""
    held = json.loads((path / "config.json").read_text()) | fields
    (path / "config.json").write_text(json.dumps({name: value for name, value in held.items() if value is not ...}))


KINDS: dict[str, dict[str, Any]] = {
    "cls, the last layer attends to all": {},
    "cls, the last layer attends to a window": {"num_hidden_layers": 3},
    "cls, one layer": {"num_hidden_layers": 1},
    "cls, one layer with a window": {"num_hidden_layers": 1, "layer_types": ["sliding_attention"]},
    "mean, the last layer attends to all": {"classifier_pooling": "mean"},
    "mean, the last layer attends to a window": {"classifier_pooling": "mean", "num_hidden_layers": 3},
    "every bias, two labels": {
        "norm_bias": True,
        "attention_bias": True,
        "mlp_bias": True,
        "classifier_bias": True,
        "num_labels": 2,
    },
    "bias of attention alone": {"attention_bias": True},
    "bias of the feed-forward part alone": {"mlp_bias": True, "classifier_pooling": "mean"},
    "no layer with a window": {"global_attn_every_n_layers": 1},
    "layers in no order": {
        "layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
    },
    "no layer attends to all": {"layer_types": ["sliding_attention"] * 4, "classifier_pooling": "mean"},
    "a window wider than the texts": {"local_attention": 4 * POSITIONS},
    "a window wider than any model": {"local_attention": 10**7},
    "a window wider than any number": {"local_attention": 10**30},
    "a window of an odd width": {"local_attention": 7},
    "a window of one token": {"local_attention": 1, "classifier_pooling": "mean"},
    "one base for all frequencies": {"global_rope_theta": 10_000.0},
    "other bases": {"global_rope_theta": 500.0, "local_rope_theta": 40.0},
    "relu and tanh": {"hidden_activation": "relu", "classifier_activation": "tanh"},
    "gelu_new": {"hidden_activation": "gelu_new", "classifier_activation": "gelu_pytorch_tanh"},
    "silu": {"hidden_activation": "silu", "classifier_activation": "silu"},
    "heads of 10 channels": {"hidden_size": 30, "num_attention_heads": 3},
    "another epsilon": {"norm_eps": 0.1},
    "no spare words": {"spare_words": 0},
}
NATIVE = [] if why_not_native() else ["native"]
INT8_NATIVELY = [] if why_not_native(Precision.INT8) else ["native"]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_transformers_alone_and_in_batches(kind: str, tmp_path: Path) -> None:
    path = write_modernbert(tmp_path / "checkpoint", **KINDS[kind])
    pairs = pairs_to(POSITIONS)
    expected = by_transformers(path, pairs)
    checkpoint = Checkpoint.read(path)
    assert checkpoint.head is Head.MODERNBERT
    assert not checkpoint.warnings
    bundle, reports = export_bundle(checkpoint, tmp_path / "bundle")
    assert all(reports), "\n".join(map(str, reports))
    assert can_be_native(checkpoint)
    assert [report.backend for report in reports] == ["onnxruntime", *NATIVE]
    assert set(bundle.manifest.inputs) == {"input_ids", "attention_mask"}
    assert bundle.manifest.max_length == POSITIONS
    for backend in ("onnxruntime", "openvino", *NATIVE):
        with CrossEncoder(bundle.path, backend=backend, device="cpu", precision="fp32") as model:
            np.testing.assert_allclose(model.logits(pairs), expected, rtol=0, atol=1e-4)
            alone = np.concatenate([model.logits([pair]) for pair in pairs])
            np.testing.assert_allclose(alone, expected, rtol=0, atol=1e-4)
    assert len({*expected[:, 0].tolist()}) == len(pairs), "the pairs differ"


def test_what_transformers_4_wrote_scores_the_same(tmp_path: Path) -> None:
    new = write_modernbert(
        tmp_path / "new", global_attn_every_n_layers=2, global_rope_theta=700.0, local_rope_theta=30.0
    )
    held = json.loads((new / "config.json").read_text())
    assert held["layer_types"] == ["full_attention", "sliding_attention"] * 2
    assert held["rope_parameters"]["sliding_attention"]["rope_theta"] == 30.0
    old = shutil.copytree(new, tmp_path / "old")
    edit_config(old, layer_types=..., rope_parameters=..., global_attn_every_n_layers=2)
    edit_config(old, global_rope_theta=700.0, local_rope_theta=30.0, position_embedding_type="absolute")
    edit_config(old, layer_norm_eps=1e-5, reference_compile=False, repad_logits_with_grad=False, torch_dtype="float16")
    checkpoints = [Checkpoint.read(path) for path in (new, old)]
    assert checkpoints[0].dimensions == checkpoints[1].dimensions
    assert checkpoints[1].warnings == ()
    # As in copies of mmBERT, such as HuggingFaceFW/finepdfs_edu_classifier_unknown; transformers does not read it.
    edit_config(old, position_embedding_type="sans_pos", mask_token_id=4)
    assert Checkpoint.read(old).warnings == ()
    pairs = pairs_to(POSITIONS)
    np.testing.assert_array_equal(by_transformers(new, pairs), by_transformers(old, pairs))
    default = shutil.copytree(old, tmp_path / "default")
    edit_config(
        default, global_attn_every_n_layers=..., global_rope_theta=..., local_rope_theta=..., local_attention=...
    )
    defaults, config = Checkpoint.read(default).dimensions, transformers.AutoConfig.from_pretrained(default)
    assert list(defaults.layer_types) == config.layer_types  # type: ignore[attr-defined]
    assert defaults.window == config.sliding_window == 64  # type: ignore[attr-defined]
    assert defaults.thetas == {kind: each["rope_theta"] for kind, each in config.rope_parameters.items()}  # type: ignore[attr-defined]


@pytest.mark.parametrize("recipe", ["fp16", "int8 projections"])
def test_engines_build(recipe: str, original: Path, load_benchmark: Any) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    row = load_benchmark("rtx_builds").built("modernbert", Checkpoint.read(original), recipe)
    assert row["engine_bytes"] > 1e6
    assert row["attention"].startswith("4 of 4")


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_architecture_is_in_the_manifest(pooling: str, tmp_path: Path) -> None:
    path = write_modernbert(tmp_path / "checkpoint", classifier_pooling=pooling, spare_words=5)
    bundle, _ = export_bundle(Checkpoint.read(path), tmp_path / "bundle")
    assert Bundle.open(bundle.path).manifest.architecture == {
        "model_type": "modernbert",
        "head": "modernbert",
        "layers": 4,
        "hidden_size": 32,
        "attention_heads": 2,
        "intermediate_size": 24,
        "vocab_size": len(WORDS) + 10,
        "token_types": 0,
        "pooling": pooling,
        "full_attention_layers": [0, 3],
        "sliding_window": 8,
    }
    assert bundle.manifest.pad_token_id == SPECIAL.index("[PAD]")


def test_a_pair_of_thousands_of_tokens_scores_as_in_transformers(tmp_path: Path) -> None:
    path = write_modernbert(
        tmp_path / "checkpoint", max_position_embeddings=8192, local_attention=128, num_hidden_layers=2
    )
    pairs = [("how long", texts(words, words)) for words in (2100, 4000, 9000)]
    checkpoint = Checkpoint.read(path)
    assert checkpoint.max_length == 8192
    bundle, _ = export_bundle(checkpoint, tmp_path / "bundle")
    expected = by_transformers(path, pairs)
    for backend in ("onnxruntime", "openvino", *NATIVE):
        with CrossEncoder(bundle.path, backend=backend, device="cpu", precision="fp32") as model:
            assert model.encode(pairs).lengths.tolist() == [2105, 4005, 8192]
            np.testing.assert_allclose(model.logits(pairs), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_published_size_scores_as_in_transformers(
    pooling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sizes of ModernBERT-base, of which gte-reranker-modernbert-base was made."""
    sizes = {"hidden_size": 768, "intermediate_size": 1152, "num_hidden_layers": 22, "num_attention_heads": 12}
    path = write_modernbert(
        tmp_path / "checkpoint",
        **sizes,
        spare_words=50368 - len(SPECIAL) - len(WORDS),
        max_position_embeddings=8192,
        local_attention=128,
        classifier_pooling=pooling,
    )
    pairs = [*pairs_to(160), ("how long", texts(2100, 7))]
    monkeypatch.setattr(export, "builtin_pairs", lambda max_length: pairs_to(160))
    checkpoint = Checkpoint.read(path)
    assert checkpoint.dimensions.vocab == 50368
    bundle, reports = export_bundle(checkpoint, tmp_path / "bundle")
    assert all(reports), "\n".join(map(str, reports))
    expected = by_transformers(path, pairs)
    for backend in ("onnxruntime", "openvino", *NATIVE):
        with CrossEncoder(bundle.path, backend=backend, device="cpu", precision="fp32") as model:
            np.testing.assert_allclose(model.logits(pairs), expected, rtol=0, atol=1e-4)
    shutil.rmtree(tmp_path)


def test_the_check_of_an_export_has_no_batch_of_the_longest_pairs() -> None:
    longest = max(len(text.split()) for pair in builtin_pairs(8192) for text in pair)
    assert MAX_WORDS < longest < 1.1 * MAX_WORDS


def test_angles_are_rounded_as_in_transformers() -> None:
    from transformers.models.modernbert.modeling_modernbert import ModernBertRotaryEmbedding

    config = transformers.ModernBertConfig(hidden_size=768, num_attention_heads=12)
    rotary = ModernBertRotaryEmbedding(config)
    positions = torch.arange(8192)[None]
    for kind, theta in (("full_attention", 160_000.0), ("sliding_attention", 10_000.0)):
        cosines, sines = rotary(torch.zeros(1), positions, kind)
        ours = rotary_tables(theta, 64, 8192)
        for mine, theirs in zip(ours, (cosines, sines), strict=True):
            assert np.abs(mine - theirs[0, :, :32].numpy()).max() < 1e-6, "1e-4 at position 8,000 otherwise"


def test_the_window_is_masked_once_and_the_last_layer_has_one_row(tmp_path: Path) -> None:
    path = write_modernbert(tmp_path / "checkpoint", num_hidden_layers=12, seed=1)
    graph = graph_of(Checkpoint.read(path))
    operators = [node.op_type for node in graph.graph.node]
    assert operators.count("Where") == 1
    assert operators.count("Range") == 0
    graph.graph.output.append(
        onnx.helper.make_tensor_value_info("layer.11.output_residual", onnx.TensorProto.FLOAT, None)
    )
    batch = batch_of([7, 60])
    import onnxruntime

    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (row,) = session.run(
        ["layer.11.output_residual"], {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    )
    assert row.shape == (2, 1, 32)


def batch_of(lengths: Sequence[int], seed: int = 0) -> Batch:
    shape = (len(lengths), max(lengths))
    ids = np.random.default_rng(seed).integers(len(SPECIAL), len(WORDS), shape)
    mask = (np.arange(shape[1]) < np.array(lengths)[:, None]).astype(np.int64)
    return Batch(input_ids=ids, attention_mask=mask, token_type_ids=np.zeros_like(ids), rows=np.arange(len(lengths)))


# -- precisions


def scaled(original: Path, tmp_path: Path, factor: float) -> Path:
    """A copy in which the sums between the layers become large, as in published ModernBERTs."""
    path = shutil.copytree(original, tmp_path / "scaled")
    held = load_file(path / "model.safetensors")
    held["model.layers.1.mlp.Wo.weight"] *= factor
    save_file(held, path / "model.safetensors", metadata={"format": "pt"})
    return path


def test_sums_beyond_fp16_stay_in_fp32(original: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.read(scaled(original, tmp_path, 3e4))
    batches = [batch_of([20, 9, 3]), batch_of([64])]
    plain = rounded_after_operators(graph_of(checkpoint, FP16))
    assert not np.isfinite(logits_of(plain, batches)).all(), "without the choice it overflows"
    choice = choose_fp16(checkpoint, batches, max_abs=0.03)
    assert {"layer.1.output_residual", "layer.2.attention_residual"} <= choice.numerics.fp32_tensors
    graph = graph_of(checkpoint, choice.numerics)
    assert choice.error < 0.015
    outputs = {node.output[0]: node for node in graph.graph.node}
    # The products of later layers, whose input is normalised, are in FP16 again.
    halves = {tensor.name for tensor in graph.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
    assert any(name.startswith("layer.3.") and name in halves for name in outputs["layer.3.intermediate"].input)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_heads_that_files_for_gpus_pad_score_as_in_transformers(pooling: str, tmp_path: Path) -> None:
    path = write_modernbert(tmp_path / "checkpoint", hidden_size=42, num_attention_heads=3, classifier_pooling=pooling)
    checkpoint = Checkpoint.read(path)
    encoder = PairTokenizer.from_file(path / "tokenizer.json", max_length=POSITIONS)
    pairs = pairs_to(POSITIONS)
    batches = list(batches_of(encoder, pairs, pad_id=checkpoint.pad_token_id))
    order = np.concatenate([batch.rows for batch in batches])
    logits = logits_of(graph_of(checkpoint, Numerics(head_multiple=8)), batches)
    np.testing.assert_allclose(logits, by_transformers(path, pairs)[order], rtol=0, atol=1e-4)


def test_fp16_is_exported_and_proved(original: Path, tmp_path: Path) -> None:
    path = scaled(original, tmp_path, 3e4)
    bundle, reports = export_bundle(Checkpoint.read(path), tmp_path / "bundle", precisions=[Precision.FP16])
    assert [report.precision for report in reports] == ["fp32", *["fp32" for _ in NATIVE], "fp16", "fp16"]
    assert all(reports), "\n".join(map(str, reports))
    model = bundle.manifest.models["fp16"]
    assert model.numerics is not None
    kept = {each["name"] for each in model.numerics["float32"]}
    assert "layer.1.output_residual" in kept
    assert model.fused_file is None, "ONNX Runtime's fused operators do not know its attention"
    assert float(np.abs(onnx_weights(bundle.path / model.file)["layer.1.output.weight"]).max()) < FP16_MAX


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here, which compiles the kernels for the processor")
@pytest.mark.parametrize(
    "fields",
    [
        {"classifier_pooling": "mean"},
        {"num_hidden_layers": 3, "norm_bias": True, "attention_bias": True, "mlp_bias": True, "num_labels": 2},
    ],
    ids=["large sums", "every bias"],
)
def test_the_kernels_for_gpus_compute_what_transformers_computes_as_it_was_judged(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("cuda.bindings")
    path = write_modernbert(tmp_path / "checkpoint", **fields)
    if "classifier_pooling" in fields:
        path = scaled(path, tmp_path, 3e4)
    read = Checkpoint.read(path)
    bundle, reports = export_bundle(read, tmp_path / "bundle", precisions=[Precision.FP16])
    [judged] = [report for report in reports if "native kernels" in report.backend]
    assert judged
    assert bundle.manifest.models["fp16"].native_file == "model.fp16.native"
    encoder = PairTokenizer.from_file(bundle.tokenizer_file, max_length=POSITIONS)
    pairs = pairs_to(POSITIONS)
    computed = emulated_logits(bundle, encoder.encode(pairs), tmp_path / "kernels")
    batches = list(batches_of(encoder, pairs, pad_id=read.pad_token_id))
    order = np.concatenate([batch.rows for batch in batches])
    simulated, full = (logits_of(graph, batches) for graph in (rounded_where_stored(read), graph_of(read)))
    np.testing.assert_allclose(full, by_transformers(path, pairs)[order], rtol=0, atol=1e-4)
    ours, theirs = (np.abs(each - full) for each in (computed[order], simulated))
    # Their queries carry log2(e), so single roundings fall otherwise. Measured: 0.0117, and 0.0052 from the emulation.
    assert 0 < ours.mean() < 1.5 * theirs.mean()
    assert ours.max() < 0.03
    assert np.abs(computed[order] - simulated).max() < 0.01


def onnx_weights(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(file).graph.initializer}


@pytest.mark.usefixtures("undrawn", "few_steps")
@pytest.mark.parametrize("pooling", ["mean", pytest.param("cls", marks=pytest.mark.slow)])
def test_int8_runs_and_is_judged(pooling: str, calibration: CalibrationSet, tmp_path: Path) -> None:
    path = write_modernbert(tmp_path / "checkpoint", classifier_pooling=pooling, hidden_size=64, intermediate_size=96)
    bundle, reports = export_bundle(
        Checkpoint.read(path),
        tmp_path / "bundle",
        precisions=[Precision.INT8],
        calibration=calibration,
        keep_going=True,
    )
    assert {(report.precision, report.backend.partition(",")[0]) for report in reports} == {
        *(("fp32", backend) for backend in ("onnxruntime", *NATIVE)),
        *(("int8", backend) for backend in ("onnxruntime", "openvino", *INT8_NATIVELY)),
    }
    for report in reports:
        assert report if report.precision == "fp32" else report.ranking is not None, "random weights may fail it"
    numerics = bundle.manifest.models["int8"].numerics
    assert numerics is not None
    assert numerics["eight_bit_share"] > 0.85
    pairs = pairs_to(POSITIONS)
    expected = by_transformers(path, pairs)
    errors = []
    for backend in ("onnxruntime", *INT8_NATIVELY):
        with CrossEncoder(bundle.path, precision="int8", backend=backend, device="cpu", allow_failed=True) as model:
            errors.append(float(np.abs(model.logits(pairs) - expected).mean()))
    assert all(0 < error < 0.3 * np.ptp(expected) for error in errors)
    assert all(error < 0.5 * errors[0] for error in errors[1:]), (
        "one range for each token fits what calibration did not see"
    )


def test_the_recipe_for_sums_in_8_bits_is_refused_and_the_others_are_known(original: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.read(original)
    with pytest.raises(OptionError, match=r"the recipe full is not known for ModernBERT.*projections.*or ffn"):
        quantization_points(checkpoint, Recipe(parts="full"))
    names = [point.name for point in quantization_points(checkpoint, Recipe(parts="ffn"))]
    assert names == [f"layer.{number}.{part}" for number in range(4) for part in ("intermediate", "output")]
    cls = Checkpoint.read(write_modernbert(tmp_path / "cls"))
    assert [point.name for point in quantization_points(cls, Recipe())][-1] == "layer.3.key_value"


# -- for users


def test_scores_are_those_of_sentence_transformers(original: Path, tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    path = shutil.copytree(original, tmp_path / "checkpoint")
    saved = {
        "model_type": "CrossEncoder",
        "prompts": {"search": "what is "},
        "default_prompt_name": "search",
        "activation_fn": "torch.nn.modules.linear.Identity",
    }
    (path / "config_sentence_transformers.json").write_text(json.dumps(saved))
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    (path / "modules.json").write_text(json.dumps([module]))
    (path / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": 40, "transformer_task": "sequence-classification"})
    )
    pairs = pairs_to(POSITIONS)
    theirs = sentence_transformers.CrossEncoder(str(path), device="cpu")
    expected = theirs.predict(pairs, convert_to_numpy=True)
    bundle, _ = export_bundle(Checkpoint.read(path), tmp_path / "bundle")
    assert (bundle.manifest.prompt, bundle.manifest.max_length, bundle.manifest.activation) == (
        "what is ",
        40,
        "identity",
    )
    with CrossEncoder(bundle.path, device="cpu") as model:
        np.testing.assert_allclose(model.predict(pairs), expected, rtol=0, atol=1e-4)
    plain = sentence_transformers.CrossEncoder(str(original), device="cpu").predict(pairs, convert_to_numpy=True)
    bundle, _ = export_bundle(Checkpoint.read(original), tmp_path / "plain")
    with CrossEncoder(bundle.path, device="cpu") as model:
        np.testing.assert_allclose(model.predict(pairs), plain, rtol=0, atol=1e-4)
        assert model.max_length == POSITIONS
    assert 0 < plain.min() < plain.max() < 1, "a sigmoid, as one label has it"


def test_the_command_line_exports_it_and_auto_takes_the_native_kernels(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shutil.copytree(original, tmp_path / "checkpoint")
    edit_config(path, hidden_activation="silu")
    assert not can_be_native(Checkpoint.read(path), for_gpus=True)
    assert can_be_native(Checkpoint.read(original), for_gpus=True)
    monkeypatch.setattr(sys, "argv", ["crossrt", "export", str(path), str(tmp_path / "bundle")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, capsys.readouterr().err
    with CrossEncoder(tmp_path / "bundle", device="cpu") as model:
        assert model.backend in (NATIVE or ("onnxruntime", "openvino"))
        assert model.rank("where is the river", ["the river is long", "eggs and salt"], top_k=1)


# -- refusals


@dataclass(frozen=True, slots=True)
class Refused:
    """A change that is refused in `words`: of config.json, or of the tensors."""

    name: str
    words: str
    config: dict[str, Any] | None = None
    tensors: Callable[[dict[str, Any]], object] | None = None


ROPE = {"rope_type": "default", "rope_theta": 100.0}
REFUSED = [
    Refused("another pooling", "classifier_pooling is 'max'; cls, mean are supported", {"classifier_pooling": "max"}),
    Refused("null for the pooling", "classifier_pooling is None; cls, mean", {"classifier_pooling": None}),
    Refused("tanh", "hidden_activation is 'tanh'; gelu, relu, gelu_new", {"hidden_activation": "tanh"}),
    Refused("mish in the head", "classifier_activation is 'mish'; gelu", {"classifier_activation": "mish"}),
    Refused("a window of nothing", "local_attention is 0; a whole number from 1", {"local_attention": 0}),
    Refused("a window in letters", "local_attention is '128'; a whole number", {"local_attention": "128"}),
    Refused(
        "none attends to all",
        "global_attn_every_n_layers is 0; a whole number from 1",
        {"layer_types": None, "global_attn_every_n_layers": 0},
    ),
    Refused("too few layer types", "layer_types is .*for each of 4 layers", {"layer_types": ["full_attention"]}),
    Refused(
        "other layer types", "layer_types is .*full_attention or sliding", {"layer_types": ["chunked_attention"] * 4}
    ),
    Refused("layer types in a word", "layer_types is 'full_attention'", {"layer_types": "full_attention"}),
    Refused(
        "scaled frequencies",
        "rope_parameters has full_attention = .*yarn.*rope_type default and rope_theta",
        {"rope_parameters": {"full_attention": ROPE | {"rope_type": "yarn", "factor": 4.0}, "sliding_attention": ROPE}},
    ),
    Refused("frequencies of one kind", "rope_parameters is .*full_attention and sliding", {"rope_parameters": ROPE}),
    Refused(
        "old scaled frequencies", "rope_scaling is .*not supported", {"rope_scaling": {"type": "linear", "factor": 2.0}}
    ),
    Refused(
        "no base",
        "global_rope_theta is None; a number above 0, such as 160000",
        {"rope_parameters": {"full_attention": {"rope_theta": None}}},
    ),
    Refused("a negative base", "local_rope_theta is -1", {"rope_parameters": None, "local_rope_theta": -1}),
    Refused("a bias in words", "mlp_bias is 'false'; true or false", {"mlp_bias": "false"}),
    Refused("a bias that is missing", r"missing: model\.layers\.0\.mlp\.Wi\.bias", {"mlp_bias": True}),
    Refused("positions of nothing", "max_position_embeddings is 0", {"max_position_embeddings": 0}),
    Refused("no positions", "does not give max_position_embeddings", {"max_position_embeddings": ...}),
    Refused("too many positions", "is 1000000; at most 65536", {"max_position_embeddings": 1_000_000}),
    Refused("odd heads", "hidden size 32 gives 32 heads no even number of channels", {"num_attention_heads": 32}),
    Refused("more layers than weights", "says 5 layers, and the weights have 4", {"num_hidden_layers": 5}),
    Refused("an epsilon in letters", "norm_eps is '1e-5'; a number", {"norm_eps": "1e-5"}),
    Refused("another width", "do not fit config.json", {"hidden_size": 16}),
    Refused("another wide width", r"mlp\.Wi\.weight is \[48, 32\], expected \[96, 32\]", {"intermediate_size": 48}),
    Refused("other labels", "declares 2 labels, the head has 1", {"id2label": {"0": "a", "1": "b"}}),
    Refused(
        "a classifier of tokens",
        "ForTokenClassification.* no cross-encoder",
        {"architectures": ["ModernBertForTokenClassification"]},
    ),
    Refused(
        "a head without its dense layer",
        r"missing: head\.dense\.weight",
        tensors=lambda held: held.pop("head.dense.weight"),
    ),
    Refused(
        "no final norm", r"missing: model\.final_norm\.weight", tensors=lambda held: held.pop("model.final_norm.weight")
    ),
    Refused(
        "attention of two parts",
        r"attn\.Wqkv\.weight is \[64, 32\], expected \[96, 32\]",
        tensors=lambda held: held.update({"model.layers.2.attn.Wqkv.weight": torch.ones(64, 32)}),
    ),
    Refused(
        "NaN in the values",
        r"model\.layers\.2\.attn\.Wqkv\.weight holds NaN",
        tensors=lambda held: held["model.layers.2.attn.Wqkv.weight"][-1, -1].fill_(float("nan")),
    ),
    Refused(
        "no head",
        "has no classification head",
        tensors=lambda held: [held.pop(f"classifier.{part}") for part in ("weight", "bias")],
    ),
]


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.name)
def test_what_would_be_scored_wrongly_is_refused_in_words(row: Refused, original: Path, tmp_path: Path) -> None:
    path = shutil.copytree(original, tmp_path / "checkpoint")
    edit_config(path, **(row.config or {}))
    if row.tensors is not None:
        held = load_file(path / "model.safetensors")
        row.tensors(held)
        save_file(held, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=row.words):
        export_bundle(Checkpoint.read(path), tmp_path / "bundle")


def test_a_head_of_masked_words_is_left_over_and_named(original: Path, tmp_path: Path) -> None:
    path = shutil.copytree(original, tmp_path / "checkpoint")
    held = load_file(path / "model.safetensors")
    held["decoder.bias"] = torch.zeros(9)
    save_file(held, path / "model.safetensors", metadata={"format": "pt"})
    assert Checkpoint.read(path).unused_tensors == ("decoder.bias",)


ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 7, 64, 2**31, 10**30, 0.0, 0.5, -1.5, 1e30, float("nan"), float("inf"), "", "64", "gelu",
    "cls", "full_attention", [], [1], ["full_attention"] * 4, ["a"] * 4, {}, {"full_attention": None}, {"rope_theta": 3},
    {"full_attention": {"rope_theta": 3, "rope_type": "linear"}}, {"sliding_attention": {"type": "default"}},
)  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_odd_settings_are_refused_in_words_or_score_as_in_transformers(
    seed: int, original: Path, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    path = shutil.copytree(original, tmp_path / "checkpoint")
    known = [*json.loads((path / "config.json").read_text())]
    known += ["global_rope_theta", "local_rope_theta", "global_attn_every_n_layers", "rope_scaling", "rope_theta"]
    edit_config(path, **{key: chance.choice(ODD) for key in chance.sample(known, k=chance.choice([1, 1, 2]))})
    batch = batch_of([POSITIONS // 2])
    try:
        checkpoint = Checkpoint.read(path)
        reference = Reference(checkpoint)
        with torch.inference_mode():
            expected = reference.model({"input_ids": torch.tensor(batch.input_ids)}).numpy()
        manifest_of(checkpoint, {"id": "odd"}).to_json()
        if batch.input_ids.shape[1] <= checkpoint.dimensions.positions:
            np.testing.assert_allclose(logits_of(graph_of(checkpoint), [batch]), expected, rtol=0, atol=1e-4)
    except CrossrtError as error:
        assert str(path) in str(error), "it names the checkpoint"  # noqa: PT017
