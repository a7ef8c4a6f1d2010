"""DeBERTa-v2 and v3, MPNet and ALBERT, and known encoders of other sizes, score as transformers does at every length."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))  # parameters are needed before fixtures are
import reranker_zoo as zoo

sys.path.pop(0)

from crossrt import CrossEncoder
from crossrt.calibration.calibration_set import CalibrationSet
from crossrt.calibration.recipe import Recipe
from crossrt.engine.batching.batch import Batch
from crossrt.engine.errors import CheckpointError, CrossrtError, OptionError
from crossrt.engine.kernels.support import why_not_native
from crossrt.engine.precision import Precision
from crossrt.engine.text.pair_tokenizer import PairTokenizer
from crossrt.export import export
from crossrt.export.checkpoint import pretrained
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.checkpoint.heads import Head
from crossrt.export.checkpoint.pretrained import tokenizer_of
from crossrt.export.export import export_bundle
from crossrt.export.graph.numerics import FP16, Numerics
from crossrt.export.graph.session import feeds_of, logits_of, session_of
from crossrt.export.graph.writer import graph_of, save
from crossrt.export.parity.pairs import builtin_pairs
from crossrt.export.precision.fp16 import choose_fp16
from crossrt.export.precision.fp16_emulation import rounded_after_operators
from crossrt.export.precision.int8 import quantizations
from crossrt.export.precision.native_weights import can_be_native
from crossrt.export.precision.observation import observed
from crossrt.export.precision.quantization_points import quantization_points
from crossrt.export.precision.sensitivity import sensitivities_of
from tests.engine.backends.emulated_gpu import emulated_logits

WORDS = (
    "the a of to in is what who where how long does it take city people live berlin paris river mountain light weather "
    "climate printing press vitamin passport renew green red blue north south water sun bone eggs salt"
).split()
PAIRS = [
    ("how long does it take", "to renew a passport"),
    ("where is the river", "the river is long and green in the north of paris where people live"),
    ("what is in the water", "salt"),
    ("who", "people live in berlin " * 9),
]
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64, "num_labels": 1}
DEBERTA_V3 = {
    "relative_attention": True,
    "position_buckets": 16,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
    "max_relative_positions": -1,
}


def write_tokenizer(path: Path, special: Sequence[str], kind: str, **model: Any) -> int:
    """Write a tokenizer.json with a template of `special` (beginning, padding, end, unknown), and return its size.

    `kind` is `double` for RoBERTa's template, in which two ends part the texts, or else `single`.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    begin, pad, end, unknown = special
    tokens = [*special, *WORDS]
    if model.get("unigram"):  # SentencePiece, as DeBERTa-v3, XLM-R and ALBERT have it
        pieces = [(token, 0.0) for token in special] + [(f"▁{word}", -5.0) for word in WORDS]
        pieces += [(letter, -9.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
        tokens = [piece for piece, _ in pieces]
        tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        tokenizer = Tokenizer(
            models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token=unknown)
        )
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([begin, pad, end, unknown])
    ids = [(begin, 0), (end, 2)]
    between = f"{end} {end}" if kind == "double" else end
    types = 0 if kind == "double" else 1
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", pair=f"{begin} $A {between} $B:{types} {end}:{types}", special_tokens=ids
    )
    tokenizer.save(str(path / "tokenizer.json"))
    names = {"cls_token": begin, "pad_token": pad, "sep_token": end, "unk_token": unknown}
    inputs = ["input_ids", "attention_mask", *([] if kind == "double" else ["token_type_ids"])]
    settings = {
        **names,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 60,
        "model_input_names": inputs,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(tokens)


BERT_TOKENS, ROBERTA_TOKENS = ("[CLS]", "[PAD]", "[SEP]", "[UNK]"), ("<s>", "<pad>", "</s>", "<unk>")

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "deberta-v3": ("DebertaV2", DEBERTA_V3),
    "deberta-v2-unshared": ("DebertaV2", DEBERTA_V3 | {"share_att_key": False, "norm_rel_ebd": "none"}),
    "deberta-no-buckets": ("DebertaV2", DEBERTA_V3 | {"position_buckets": -1, "max_relative_positions": 20}),
    "deberta-c2p": ("DebertaV2", DEBERTA_V3 | {"pos_att_type": "c2p", "share_att_key": False}),
    "deberta-p2c": ("DebertaV2", DEBERTA_V3 | {"pos_att_type": "p2c"}),
    "deberta-neither": ("DebertaV2", DEBERTA_V3 | {"pos_att_type": None}),
    "deberta-absolute": ("DebertaV2", DEBERTA_V3 | {"position_biased_input": True, "type_vocab_size": 2}),
    "deberta-not-relative": ("DebertaV2", {"pos_att_type": "c2p|p2c", "position_biased_input": True}),
    "deberta-projected": ("DebertaV2", DEBERTA_V3 | {"embedding_size": 16, "type_vocab_size": 2}),
    "deberta-odd-heads": ("DebertaV2", DEBERTA_V3 | {"hidden_size": 36, "position_buckets": 7}),
    "deberta-two-labels": ("DebertaV2", DEBERTA_V3 | {"num_labels": 2, "num_hidden_layers": 1}),
    "mpnet": ("MPNet", {}),
    "mpnet-one-layer": ("MPNet", {"num_hidden_layers": 1, "num_labels": 2}),
    "albert": ("Albert", {"embedding_size": 16}),
    "albert-same-width": ("Albert", {"embedding_size": 32, "hidden_act": "gelu"}),
    "electra-small": ("Electra", {"embedding_size": 16}),
    "mmarco-minilm": ("XLMRoberta", {"layer_norm_eps": 1e-5, "type_vocab_size": 1}),
}
HEADS = {
    "DebertaV2": Head.DEBERTA,
    "MPNet": Head.ROBERTA,
    "Albert": Head.ALBERT,
    "Electra": Head.ELECTRA,
    "XLMRoberta": Head.ROBERTA,
}


ELECTRA_SMALL = zoo.Reranker(
    name="electra-small",  # the shape of google/electra-small-discriminator, which transformers has as its default
    kind="Electra",
    shape=(12, 256, 4, 1024),
    vocab=30_522,
    max_length=512,
    config={"max_position_embeddings": 512, "embedding_size": 128},
    source="transformers.ElectraConfig",
)
PUBLISHED = [*zoo.RERANKERS, ELECTRA_SMALL]
UNTRIED = ("cross-encoder/ettin-reranker-1b-v1", "BAAI/bge-reranker-large", "BAAI/bge-reranker-v2-m3")
"""Their export was not tried: the machines of the tests have too little memory for several copies of 2 and 4 GB."""


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes a seeded checkpoint of one of `CASES`, with further settings of its configuration."""

    def written(case: str, **fields: Any) -> Path:
        name, settings = CASES[case]
        path = tmp_path_factory.mktemp(case)
        roberta = name in ("MPNet", "XLMRoberta")
        tokens = ROBERTA_TOKENS if roberta else BERT_TOKENS
        vocab = write_tokenizer(
            path, tokens, "double" if roberta else "single", unigram=name not in ("MPNet", "Electra")
        )
        limit = {"max_position_embeddings": 66 if roberta else 64}
        config = getattr(transformers, f"{name}Config")(
            **{"pad_token_id": 1, **SMALL, **limit, "vocab_size": vocab, **settings, **fields}
        )
        assert config.vocab_size >= vocab
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForSequenceClassification")(config)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
                else:
                    parameter.copy_(
                        torch.randn_like(parameter) * (0.7 if "embeddings" in key else parameter.shape[1] ** -0.5)
                    )
        model.to(config.dtype or torch.float32).save_pretrained(path)
        return path

    return written


def expected(checkpoint: Checkpoint, batch: Batch) -> Any:
    """Return transformers' logits for a batch with its padding."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint.path, dtype=torch.float32).eval()
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if checkpoint.token_types else [])]
    with torch.inference_mode():
        return model(**{name: torch.tensor(getattr(batch, name)) for name in names}).logits.numpy()


def ragged(checkpoint: Checkpoint, longest: int) -> Batch:
    """Return a padded batch of one row of each length from 3 to `longest`, of random tokens."""
    generator = np.random.default_rng(longest)
    lengths = np.arange(3, longest + 1)
    shape = (len(lengths), longest)
    mask = (np.arange(longest) < lengths[:, None]).astype(np.int64)
    ids = np.where(mask == 1, generator.integers(2, checkpoint.dimensions.vocab, shape), checkpoint.pad_token_id)
    types = np.where(mask == 1, np.arange(longest) >= lengths[:, None] // 2, 0).astype(np.int64)
    return Batch(rows=np.arange(len(lengths)), input_ids=ids, attention_mask=mask, token_type_ids=types)


@pytest.mark.parametrize("case", CASES)
def test_every_length_alone_and_in_a_padded_batch_scores_as_in_transformers(
    case: str, write: Callable[..., Path]
) -> None:
    checkpoint = Checkpoint.read(write(case))
    assert checkpoint.head is HEADS[CASES[case][0]]
    assert checkpoint.dimensions.positions == 64
    session = session_of(graph_of(checkpoint))
    batch = ragged(checkpoint, 64)
    reference = expected(checkpoint, batch)
    together = session.run(["logits"], feeds_of(session, batch))[0]
    np.testing.assert_allclose(together, reference, atol=1e-5)
    np.testing.assert_allclose(
        logits_of(graph_of(checkpoint, Numerics(head_multiple=8)), [batch]), reference, atol=1e-5
    )
    assert np.ptp(reference, axis=0).min() > 0.1
    for row, length in enumerate(batch.attention_mask.sum(axis=1)):
        alone = {
            name: getattr(batch, name)[row : row + 1, :length] for name in (each.name for each in session.get_inputs())
        }
        np.testing.assert_allclose(session.run(["logits"], alone)[0], reference[row : row + 1], atol=1e-5)


@pytest.mark.parametrize(
    "case", ["deberta-v3", "mpnet", "albert", "albert-same-width", "electra-small", "mmarco-minilm"]
)
def test_every_file_of_a_bundle_holds_and_runtimes_agree(case: str, write: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = Checkpoint.read(write(case))
    assert not checkpoint.warnings
    bundle, reports = export_bundle(checkpoint, tmp_path / "bundle", precisions=[Precision.FP16])
    assert all(reports), "\n".join(map(str, reports))
    assert {report.precision for report in reports} == {"fp32", "fp16"}
    assert max(report.max_abs_diff for report in reports if report.precision == "fp32") < 1e-5
    assert ("token_type_ids" in bundle.manifest.inputs) == (case in ("albert", "albert-same-width", "electra-small"))
    assert can_be_native(checkpoint) == (case not in ("deberta-v3", "mpnet"))
    assert can_be_native(checkpoint, for_gpus=True) == can_be_native(checkpoint)
    natively = can_be_native(checkpoint) and not why_not_native()
    assert (bundle.manifest.models["fp32"].native_file is not None) == natively
    scores = []
    for backend in ("onnxruntime", "openvino", "auto", *(["native"] if natively else [])):
        with CrossEncoder(bundle.path, backend=backend, device="cpu") as model:
            scores.append(model.logits(PAIRS))
            if not can_be_native(checkpoint):
                assert model.backend != "native"
    if not natively:
        with pytest.raises(CrossrtError, match="native"):
            CrossEncoder(bundle.path, backend="native", device="cpu")
    for each in scores[1:]:
        np.testing.assert_allclose(each, scores[0], atol=1e-5)


def test_bf16_is_refused_for_a_model_that_the_kernels_do_not_know(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossrt.export.steps.native.installed_backends", lambda *_: ("onnxruntime", "native"))
    monkeypatch.setattr("crossrt.export.export.why_not_native", lambda *_: "")
    with pytest.raises(OptionError, match="they do not know such a model"):
        export_bundle(Checkpoint.read(write("mpnet")), tmp_path / "bundle", precisions=[Precision.BF16])


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here, which compiles the kernels for the processor")
@pytest.mark.parametrize("case", ["electra-small", "albert"])
def test_the_kernels_for_gpus_project_embeddings(case: str, write: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("cuda.bindings")
    checkpoint = Checkpoint.read(write(case))
    bundle, _ = export_bundle(checkpoint, tmp_path / "bundle", precisions=[Precision.FP16])
    encoded = PairTokenizer.from_file(bundle.tokenizer_file, max_length=64).encode(PAIRS)
    computed = emulated_logits(bundle, encoded, tmp_path / "kernels")
    with CrossEncoder(bundle.path, backend="onnxruntime", device="cpu", precision="fp32") as model:
        np.testing.assert_allclose(computed, model.logits(PAIRS), rtol=0, atol=0.01)


@pytest.mark.usefixtures("undrawn", "few_steps")
@pytest.mark.parametrize("case", ["deberta-v3", "mpnet", "albert"])
def test_int8_goes_through_the_gate(
    case: str, write: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path
) -> None:
    """With random weights scores lie so close that the gate may refuse the rankings, as it should; nothing else may fail."""
    checkpoint = Checkpoint.read(write(case))
    _, reports = export_bundle(
        checkpoint, tmp_path / "bundle", precisions=[Precision.INT8], calibration=calibration, keep_going=True
    )
    judged = [report for report in reports if report.precision == "int8"]
    assert judged
    for report in judged:
        assert report.max_abs_diff < 0.5
        assert all("top ten overlap" in failure for failure in report.failures)


@pytest.mark.parametrize("case", ["deberta-v3", "mpnet", "albert", "electra-small"])
def test_the_error_of_a_group_is_that_of_the_whole_graph(case: str, write: Callable[..., Path]) -> None:
    """It is computed from the group on, from exact tensors before it."""
    checkpoint = Checkpoint.read(write(case))
    recipe = Recipe(parts="full")
    points = quantization_points(checkpoint, recipe)
    encoded = PairTokenizer.from_file(checkpoint.path / "tokenizer.json", max_length=60).encode(PAIRS)
    quantized = quantizations(checkpoint, observed(checkpoint, points, encoded), recipe)
    batches = [ragged(checkpoint, longest) for longest in (20, 13)]
    exact = logits_of(graph_of(checkpoint), batches)
    found = sensitivities_of(checkpoint, points, quantized, batches)
    assert {one.group for one in found} == {point.group for point in points}
    for one in found:
        alone = Numerics(quantized={point.name: quantized[point.name] for point in points if point.group == one.group})
        errors = np.abs(logits_of(graph_of(checkpoint, alone), batches) - exact)
        assert errors.max() > 0
        assert one.mean_abs_diff == pytest.approx(errors.mean(), rel=1e-3, abs=1e-6)
        assert one.max_abs_diff == pytest.approx(errors.max(), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("case", ["albert", "electra-small"])
def test_openvino_computes_int8_of_projected_embeddings_as_onnxruntime_does(
    case: str, write: Callable[..., Path], calibration: CalibrationSet, tmp_path: Path
) -> None:
    """Measured: 4e-7. A number that another order of summation puts on the other side of a half may move a logit by more."""
    openvino = pytest.importorskip("openvino")
    checkpoint = Checkpoint.read(write(case))
    points = quantization_points(checkpoint, Recipe())
    tokenizer = PairTokenizer.from_file(checkpoint.path / "tokenizer.json", max_length=60)
    stats = observed(checkpoint, points, tokenizer.encode(calibration.pairs[:200]))
    graph = graph_of(checkpoint, Numerics(quantized=quantizations(checkpoint, stats, Recipe())))
    batch = ragged(checkpoint, 40)
    save(graph, tmp_path / "model.onnx")
    compiled = openvino.Core().compile_model(str(tmp_path / "model.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    other = compiled({node.any_name: getattr(batch, node.any_name) for node in compiled.inputs})[0]
    np.testing.assert_allclose(other, logits_of(graph, [batch]), atol=0.01)


def test_fp16_keeps_in_fp32_what_overflows_in_a_deberta(write: Callable[..., Path]) -> None:
    path = write("deberta-v3")
    tensors = _safe(path)
    layer = "deberta.encoder.layer.1"
    tensors[f"{layer}.output.dense.weight"] *= 30_000  # the residual path overflows; LayerNorm brings it back
    # So do the attention scores, of content and of positions, by what is the same for all keys and changes no weight.
    for part in ("query", "key"):
        tensors[f"{layer}.attention.self.{part}_proj.bias"][::8] = 383
    _save(path, tensors)
    checkpoint = Checkpoint.read(path)
    batches = [ragged(checkpoint, 40)]
    exact = logits_of(graph_of(checkpoint), batches)
    careless = logits_of(rounded_after_operators(graph_of(checkpoint, FP16)), batches)
    assert not np.abs(careless - exact).max() < 0.03
    choice = choose_fp16(checkpoint, batches, max_abs=0.03)
    kept = {tensor.name for tensor in choice.fp32_tensors}
    assert {"layer.1.output_residual", "layer.1.attention_scores", "layer.1.attention_masked"} <= kept
    assert any(name.startswith("layer.1.attention_c2p") for name in kept)
    assert any(name.startswith("layer.1.attention_p2c") for name in kept)
    graph = graph_of(checkpoint, choice.numerics)
    rounded = logits_of(rounded_after_operators(graph), batches)
    np.testing.assert_allclose(rounded, exact, atol=0.03)
    np.testing.assert_allclose(logits_of(graph, batches), exact, atol=0.03)


def _safe(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(path / "model.safetensors")


def _save(path: Path, tensors: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def test_the_layers_of_an_albert_are_stored_once(write: Callable[..., Path]) -> None:
    sizes = []
    for layers in (3, 9):
        graph = graph_of(Checkpoint.read(write("albert", num_hidden_layers=layers)))
        sizes.append(sum(len(tensor.raw_data) for tensor in graph.graph.initializer))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("case", "fields", "message"),
    [
        (
            "deberta-v3",
            {"conv_kernel_size": 3},
            "conv_kernel_size is 3: the model has a convolution beside its first layer",
        ),
        ("deberta-v3", {"pos_att_type": ["c2p", "p2p"]}, "pos_att_type is ['c2p', 'p2p']; c2p and p2c are supported"),
        ("deberta-v3", {"pos_att_type": 3}, "pos_att_type is 3; c2p and p2c are supported"),
        (
            "deberta-v3",
            {"norm_rel_ebd": "batch_norm"},
            "norm_rel_ebd is 'batch_norm'; none and layer_norm are supported",
        ),
        ("deberta-v3", {"share_att_key": "yes"}, "share_att_key is 'yes'; true or false is expected"),
        ("deberta-v3", {"pooler_hidden_act": "tanh"}, "pooler_hidden_act is 'tanh'; only gelu is supported"),
        ("deberta-v3", {"attention_head_size": 16}, "attention_head_size is 16; only 8 is supported"),
        ("deberta-v3", {"position_buckets": 32}, "rel_embeddings.weight is [32, 32], expected [64, 32]"),
        ("deberta-v3", {"position_buckets": 1}, "position_buckets is 1, with distances up to 64"),
        ("deberta-v3", {"max_relative_positions": 9}, "position_buckets is 16, with distances up to 9"),
        ("deberta-v3", {"share_att_key": False}, "deberta.encoder.layer.0.attention.self.pos_key_proj.weight"),
        ("deberta-v3", {"position_biased_input": True}, "'deberta.embeddings.position_embeddings.weight' is missing"),
        # What is not given has transformers' defaults.
        ("deberta-v3", {"share_att_key": None}, "deberta.encoder.layer.0.attention.self.pos_key_proj.weight"),
        ("deberta-v3", {"position_biased_input": None}, "'deberta.embeddings.position_embeddings.weight' is missing"),
        ("deberta-v3", {"hidden_act": "mish"}, "hidden activation 'mish' is not supported"),
        ("deberta-v3", {"max_position_embeddings": 10**9}, "the model has 1000000000 positions; at most 1048576"),
        ("mpnet", {"relative_attention_num_buckets": 64}, "relative_attention_num_buckets is 64; only 32 is supported"),
        ("albert", {"num_hidden_groups": 2}, "num_hidden_groups is 2; crossrt knows ALBERT with one layer for all"),
        ("albert", {"inner_group_num": 2}, "inner_group_num is 2; crossrt knows ALBERT with one layer for all"),
    ],
)
def test_what_is_computed_otherwise_is_refused_in_words(
    case: str, fields: dict[str, Any], message: str, write: Callable[..., Path]
) -> None:
    path = write(case)
    config = json.loads((path / "config.json").read_text()) | fields
    given = {key: value for key, value in config.items() if value is not None}
    (path / "config.json").write_text(json.dumps(given))
    with pytest.raises(CheckpointError, match=re.escape(message)):
        Checkpoint.read(path)


@pytest.mark.parametrize(
    ("case", "gone"),
    [
        ("deberta-v3", "deberta.encoder.rel_embeddings.weight"),
        ("deberta-v3", "pooler.dense.weight"),
        ("mpnet", "mpnet.encoder.relative_attention_bias.weight"),
        ("albert", "albert.encoder.embedding_hidden_mapping_in.weight"),
        ("albert", "albert.pooler.bias"),
    ],
)
def test_a_tensor_that_is_missing_is_named(case: str, gone: str, write: Callable[..., Path]) -> None:
    path = write(case)
    tensors = _safe(path)
    del tensors[gone]
    _save(path, tensors)
    with pytest.raises(CheckpointError, match=f"missing: {re.escape(gone)}"):
        Checkpoint.read(path)


def test_the_first_deberta_is_refused_by_its_name(write: Callable[..., Path]) -> None:
    path = write("deberta-v3")
    config = transformers.DebertaConfig(**SMALL, vocab_size=70, max_position_embeddings=64, relative_attention=True)
    transformers.DebertaForSequenceClassification(config).save_pretrained(path)
    with pytest.raises(CheckpointError, match="is a DeBERTa of the first version"):
        Checkpoint.read(path)


@pytest.mark.parametrize("case", ["deberta-v3", "mpnet", "albert", "mmarco-minilm"])
def test_tokenizers_of_transformers_own_classes_are_used(case: str, write: Callable[..., Path], tmp_path: Path) -> None:
    special = {
        "deberta-v3": ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"],
        "mpnet": ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"],
        "albert": ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"],
        "mmarco-minilm": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    }[case]
    letters = "abcdefghijklmnopqrstuvwxyz.,?'0123456789"
    padding = next(number for number, token in enumerate(special) if "pad" in token.lower())
    path = write(case, vocab_size=200, pad_token_id=padding)
    kind = getattr(transformers, f"{CASES[case][0]}Tokenizer")
    if case == "mpnet":
        pieces = [*special, *letters, *(f"##{letter}" for letter in letters), *WORDS]
        tokenizer = kind(vocab={piece: number for number, piece in enumerate(dict.fromkeys(pieces))})
    else:
        scored = [(token, 0.0) for token in special] + [(f"▁{word}", -5.0) for word in WORDS]
        tokenizer = kind(vocab=[*scored, *((letter, -9.0) for letter in f"▁{letters}")])
    tokenizer.model_max_length = 60
    tokenizer.save_pretrained(path)
    assert json.loads((path / "tokenizer_config.json").read_text())["tokenizer_class"] == kind.__name__
    checkpoint = Checkpoint.read(path)
    assert not checkpoint.warnings
    bundle, reports = export_bundle(checkpoint, tmp_path / "bundle")
    assert all(reports), "\n".join(map(str, reports))
    assert len(set(bundle.pair_tokenizer().encode(PAIRS).ids.tolist())) > 20


@pytest.mark.parametrize(("case", "file"), [("deberta-v3", "spm.model"), ("albert", "spiece.model")])
def test_a_sentencepiece_model_that_cannot_be_converted_is_refused_in_words(
    case: str, file: str, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(case)
    (path / "tokenizer.json").rename(path / file)
    monkeypatch.setattr(pretrained, "find_spec", lambda _: None)
    with pytest.raises(CheckpointError, match=f"the tokenizer is {file} alone.*pip install sentencepiece protobuf"):
        tokenizer_of(Checkpoint.read(path))


@pytest.mark.parametrize("case", ["deberta-v3", "mpnet", "albert", "electra-small", "mmarco-minilm"])
def test_engines_build(case: str, write: Callable[..., Path], load_benchmark: Any) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    checkpoint = Checkpoint.read(write(case))
    builds = load_benchmark("rtx_builds")
    for recipe in ("fp16", "int8 projections"):
        row = builds.built(case, checkpoint, recipe)
        assert row["engine_bytes"] > 1e6
        assert row["attention"].startswith("0 of 3" if case == "deberta-v3" else "3 of 3")


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", [each for each in PUBLISHED if each.name not in UNTRIED], ids=lambda model: model.folder
)
def test_published_sizes_are_exported(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A quarter of the pairs: all of them take eleven minutes for mxbai-rerank-large-v1, on two shared processors.
    monkeypatch.setattr(export, "builtin_pairs", lambda max_length: builtin_pairs(min(max_length, 512))[::4])
    path = zoo.write_reranker(model, tmp_path)
    checkpoint = Checkpoint.read(path)
    assert not checkpoint.warnings
    assert checkpoint.max_length == model.max_length
    assert checkpoint.labels == model.labels
    assert checkpoint.activation == ("identity" if model.activation else "sigmoid")
    bundle, reports = export_bundle(checkpoint, tmp_path / "bundle")
    for report in reports:
        assert report, str(report)
        assert report.max_abs_diff < 1e-4
    with (
        CrossEncoder(bundle.path, backend="onnxruntime", device="cpu") as ours,
        CrossEncoder(bundle.path, backend="openvino", device="cpu") as other,
    ):
        logits = ours.logits(PAIRS)
        np.testing.assert_allclose(other.logits(PAIRS), logits, atol=1e-4)
    if model.modules:
        sentence_transformers = pytest.importorskip("sentence_transformers", minversion="6")
        theirs = sentence_transformers.CrossEncoder(str(path), device="cpu")
        assert theirs.max_seq_length == model.max_length
        np.testing.assert_allclose(logits[:, 0], theirs.predict(PAIRS), atol=1e-4)
    shutil.rmtree(tmp_path)


def test_facts_of_published_rerankers_have_sources() -> None:
    for model in zoo.RERANKERS:
        assert len(model.source) > 40
        assert model.shape[1] % model.shape[2] == 0
        assert model.config["max_position_embeddings"] in (model.max_length, model.max_length + 2)
