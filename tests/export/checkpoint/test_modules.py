"""Cross-encoders of several modules score as in sentence-transformers, or are refused in words."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers", minversion="6")
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder as TheirCrossEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

from crossrt import CrossEncoder
from crossrt.calibration.recipe import Recipe
from crossrt.engine.batching.plan import plan_single_batch
from crossrt.engine.bundle.resolve import CHECKPOINT_FILES
from crossrt.engine.errors import CheckpointError, CrossrtError
from crossrt.engine.precision import Precision
from crossrt.engine.text.pair_tokenizer import PairTokenizer
from crossrt.export import export
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.checkpoint.heads import Head
from crossrt.export.checkpoint.reference import Reference
from crossrt.export.existing.existing import bundle_from_onnx
from crossrt.export.export import export_bundle
from crossrt.export.graph.optimum import onnx_by_optimum
from crossrt.export.graph.session import feeds_of, session_of
from crossrt.export.graph.writer import graph_of
from crossrt.export.precision.native_weights import can_be_native, gradient_sites
from crossrt.export.precision.quantization_points import quantization_points
from crossrt.export.precision.score_gradients import score_gradients
from tests.export.checkpoint.test_odd_checkpoints import KINDS, PAIRS, _odd_place, _write, both

TANH, GELU, RELU, IDENTITY = torch.nn.Tanh, torch.nn.GELU, torch.nn.ReLU, torch.nn.Identity


def saved(
    path: Path,
    kind: str | dict[str, Any],
    layers: list[Any],
    longest: int = 48,
    pooling_mode: str = "cls",
    **fields: Any,
) -> Path:
    """Save a CrossEncoder of an encoder, pooling and these layers; return its directory."""
    _write(path / "encoder", **(KINDS[kind] if isinstance(kind, str) else kind))
    transformer = Transformer(str(path / "encoder"), transformer_task="feature-extraction")
    transformer.max_seq_length = longest
    pooling = Pooling(layers[0].in_features, pooling_mode=pooling_mode)
    model = TheirCrossEncoder(modules=[transformer, pooling, *layers], device="cpu", **fields)
    model.save_pretrained(str(path / "saved"), create_model_card=False)
    return path / "saved"


def dense(inputs: int, outputs: int, activation: Any, *, last: bool = False, **fields: Any) -> Dense:
    torch.manual_seed(inputs + outputs)
    layer = Dense(
        inputs, outputs, activation_function=activation(), module_output_name="scores" if last else None, **fields
    )
    with torch.no_grad():
        layer.linear.weight.mul_(2)
    return layer


def norm(size: int) -> LayerNorm:
    layer = LayerNorm(size)
    torch.manual_seed(size)
    with torch.no_grad():
        layer.norm.weight.add_(torch.randn(size) * 0.3)
        layer.norm.bias.add_(torch.randn(size) * 0.3)
    return layer


@pytest.fixture(scope="module", autouse=True)
def few_pairs() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "builtin_pairs", lambda max_length: PAIRS)
        yield


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("modules")
    return saved(path, "bert", [dense(16, 16, GELU), dense(16, 1, IDENTITY, last=True)])


@pytest.fixture
def copied(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "checkpoint"))


@pytest.mark.parametrize(
    ("kind", "activations", "labels", "head"),
    [
        ("bert", [], 1, Head.DENSE),
        ("bert", [TANH], 1, Head.DENSE_TANH),
        ("bert", [GELU], 2, Head.DENSE_GELU),
        ("electra", [RELU], 1, Head.DENSE_RELU),
        ("roberta", [GELU], 1, Head.DENSE_GELU),
        ("xlm-roberta", [TANH], 3, Head.DENSE_TANH),
        ("distilbert", [], 1, Head.DENSE),
    ],
)
def test_a_head_of_dense_modules_scores_as_in_sentence_transformers(
    kind: str, activations: list[Any], labels: int, head: Head, tmp_path: Path
) -> None:
    layers = [*(dense(16, 16, one) for one in activations), dense(16, labels, IDENTITY, last=True)]
    path = saved(tmp_path, kind, layers, prompts={"q": "the river "}, default_prompt_name="q")
    expected = TheirCrossEncoder(str(path), device="cpu").predict(PAIRS)
    checkpoint = Checkpoint.read(path)
    assert (checkpoint.head, checkpoint.labels) == (head, labels)
    bundle, _ = export_bundle(checkpoint, tmp_path / "bundle")
    for backend in ("auto", "onnxruntime", "openvino"):
        with CrossEncoder(bundle.path, backend=backend, device="cpu") as model:
            np.testing.assert_allclose(model.predict(PAIRS), expected, rtol=0, atol=1e-4)
    assert len({*np.ravel(expected).tolist()}) == expected.size, "the pairs differ"
    assert [one["path"] for one in json.loads((bundle.path / "modules.json").read_text())] == [""]


DEBERTA = {"relative_attention": True, "position_buckets": 16, "share_att_key": True, "pos_att_type": ["p2c", "c2p"]}
MODERN = {"num_hidden_layers": 4, "local_attention": 8, "bos_token_id": None, "eos_token_id": None}
TRUNKS: dict[str, dict[str, Any]] = {
    "bert": KINDS["bert"],
    "distilbert": KINDS["distilbert"],
    "roberta": KINDS["roberta"],
    "electra": KINDS["electra"],
    "deberta-v2": {"kind": "DebertaV2", "norm_rel_ebd": "layer_norm", "position_biased_input": False} | DEBERTA,
    "mpnet": {"kind": "MPNet"},
    "albert": {"kind": "Albert", "embedding_size": 8},
    "modernbert": {"kind": "ModernBert", "pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3} | MODERN,
}


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_dense_and_layernorm_on_every_trunk_score_as_in_sentence_transformers(
    trunk: str, pooling: str, tmp_path: Path
) -> None:
    layers = [dense(16, 16, GELU, bias=False), norm(16), dense(16, 1, IDENTITY, last=True)]
    path = saved(tmp_path, TRUNKS[trunk], layers, pooling_mode=pooling, activation_fn=IDENTITY())
    expected = TheirCrossEncoder(str(path), device="cpu").predict(PAIRS)
    checkpoint = Checkpoint.read(path)
    assert checkpoint.head is Head.DENSE_GELU_NORM
    assert checkpoint.dimensions.pooling == pooling
    assert checkpoint.activation == "identity"
    assert can_be_native(checkpoint) == (trunk == "modernbert")
    assert can_be_native(checkpoint, for_gpus=True) == (trunk == "modernbert")
    last = quantization_points(checkpoint, Recipe())[-1].name
    assert last.endswith(".key_value" if pooling == "cls" else ".output"), "[CLS] alone stays in floating point"
    reference = Reference(checkpoint).logits(PAIRS, max_length=48)
    np.testing.assert_allclose(reference[:, 0], expected, rtol=0, atol=1e-5)
    session = session_of(graph_of(checkpoint))
    tokenizer = PairTokenizer.from_file(path / "tokenizer.json", max_length=48)
    for pairs in (PAIRS, *([pair] for pair in PAIRS)):
        encoded = tokenizer.encode(pairs)
        (batch,) = plan_single_batch(encoded.lengths, bucket_up_to=0).batches(encoded, pad_id=checkpoint.pad_token_id)
        rows = [PAIRS.index(pairs[row]) for row in batch.rows]
        computed = session.run(["logits"], feeds_of(session, batch))[0][:, 0]
        np.testing.assert_allclose(computed, expected[rows], rtol=0, atol=1e-5)
    assert np.ptp(expected) > 0.1, "the pairs differ"


@pytest.mark.parametrize("width", [8, 24])
@pytest.mark.parametrize(("trunk", "pooling"), [("bert", "cls"), ("modernbert", "mean")])
@pytest.mark.parametrize("normed", [False, True])
def test_a_first_dense_module_of_another_width_scores_as_in_sentence_transformers(
    normed: bool, trunk: str, pooling: str, width: int, tmp_path: Path
) -> None:
    layers = [dense(16, width, GELU), *([norm(width)] if normed else []), dense(width, 1, IDENTITY, last=True)]
    path = saved(tmp_path, TRUNKS[trunk], layers, pooling_mode=pooling)
    expected = TheirCrossEncoder(str(path), device="cpu").predict(PAIRS)
    checkpoint = Checkpoint.read(path)
    assert not can_be_native(checkpoint), "their head is as wide as the model"
    assert not can_be_native(checkpoint, for_gpus=True)
    bundle, reports = export_bundle(checkpoint, tmp_path / "bundle", precisions=[Precision.FP16])
    assert all(reports), "\n".join(map(str, reports))
    for backend in ("onnxruntime", "openvino"):
        with CrossEncoder(bundle.path, backend=backend, device="cpu", precision="fp32") as model:
            np.testing.assert_allclose(model.predict(PAIRS), expected, rtol=0, atol=1e-4)
    assert len({*np.ravel(expected).tolist()}) == expected.size, "the pairs differ"


def test_a_model_of_the_kind_of_the_ettin_rerankers_is_exported_with_fp16(tmp_path: Path) -> None:
    layers = [dense(16, 16, GELU, bias=False), norm(16), dense(16, 1, IDENTITY, last=True)]
    path = saved(tmp_path, TRUNKS["modernbert"], layers, activation_fn=IDENTITY())
    expected = TheirCrossEncoder(str(path), device="cpu").predict(PAIRS)
    bundle, reports = export_bundle(Checkpoint.read(path), tmp_path / "bundle", precisions=[Precision.FP16])
    assert all(reports), "\n".join(map(str, reports))
    assert {report.precision for report in reports} == {"fp32", "fp16"}
    assert bundle.manifest.architecture["head"] == "dense-gelu-norm"
    assert bundle.manifest.architecture["pooling"] == "cls"
    for backend in ("native", "onnxruntime", "openvino"):
        with CrossEncoder(bundle.path, backend=backend, device="cpu", precision="fp32") as model:
            np.testing.assert_allclose(model.predict(PAIRS), expected, rtol=0, atol=1e-4)


def test_native_kernels_compute_the_activation_and_the_mean_of_dense_modules_on_a_modernbert(tmp_path: Path) -> None:
    path = saved(
        tmp_path, TRUNKS["modernbert"], [dense(16, 16, TANH), dense(16, 2, IDENTITY, last=True)], pooling_mode="mean"
    )
    expected = TheirCrossEncoder(str(path), device="cpu").predict(PAIRS)
    bundle, _ = export_bundle(Checkpoint.read(path), tmp_path / "bundle")
    with CrossEncoder(bundle.path, backend="native", device="cpu") as model:
        np.testing.assert_allclose(model.predict(PAIRS), expected, rtol=0, atol=1e-4)


def test_a_layernorm_of_another_epsilon_is_not_computed_natively(tmp_path: Path) -> None:
    layers = [dense(16, 16, GELU), norm(16), dense(16, 1, IDENTITY, last=True)]
    path = saved(tmp_path, TRUNKS["modernbert"] | {"norm_eps": 1e-3}, layers)
    assert not can_be_native(Checkpoint.read(path))


def test_a_dense_module_without_a_bias_has_one_of_zeros(tmp_path: Path) -> None:
    path = saved(tmp_path, "bert", [dense(16, 16, TANH, bias=False), dense(16, 1, IDENTITY, last=True)])
    bundle, _ = export_bundle(Checkpoint.read(path), tmp_path / "bundle")
    with CrossEncoder(bundle.path, device="cpu") as model:
        expected = TheirCrossEncoder(str(path), device="cpu").predict(PAIRS)
        np.testing.assert_allclose(model.predict(PAIRS), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_model_of_the_size_of_minilm_scores_as_in_sentence_transformers_at_every_length(tmp_path: Path) -> None:
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    layers = [dense(384, 384, GELU), dense(384, 1, IDENTITY, last=True)]
    path = saved(tmp_path, {"kind": "Bert", "max_position_embeddings": 512} | sizes, layers, longest=512)
    pairs = [("the river " * n, "Berlin is a long city " * m) for n in (0, 1, 9, 40) for m in (0, 1, 5, 30, 110)]
    expected = TheirCrossEncoder(str(path), device="cpu").predict(pairs)
    bundle, _ = export_bundle(Checkpoint.read(path), tmp_path / "bundle")
    for backend in ("auto", "onnxruntime", "openvino"):
        with CrossEncoder(bundle.path, backend=backend, device="cpu") as model:
            alone = [model.predict([pair])[0] for pair in pairs]
            np.testing.assert_allclose(model.predict(pairs), expected, rtol=0, atol=1e-4)
            np.testing.assert_allclose(alone, expected, rtol=0, atol=1e-4)


def test_the_score_has_a_gradient_at_all_that_is_quantized(original: Path) -> None:
    checkpoint = Checkpoint.read(original)
    pairs = [PAIRS[1]] * 2
    expected = Reference(checkpoint).logits(pairs, max_length=24)
    found = score_gradients(checkpoint, gradient_sites(checkpoint), pairs, max_length=24)
    np.testing.assert_allclose(found.logits, expected, rtol=1e-4, atol=1e-5)
    assert all(torch.isfinite(sample.gradients).all() for sample in found.samples.values())
    assert len(found.samples) == len(gradient_sites(checkpoint))


def test_optimum_would_leave_out_the_head(original: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="would leave out the head, which lies in Dense modules"):
        onnx_by_optimum(Checkpoint.read(original), tmp_path / "model.onnx")


def test_labels_of_the_encoders_own_config_do_not_matter(copied: Path) -> None:
    edited(copied / "config.json", id2label={"0": "a", "1": "b", "2": "c"})
    assert Checkpoint.read(copied).labels == 1


def test_weights_of_wrapped_names_are_understood(copied: Path, tmp_path: Path) -> None:
    held = load_file(copied / "model.safetensors")
    expected = TheirCrossEncoder(str(copied), device="cpu").predict(PAIRS)
    save_file({f"module.{name}": value for name, value in held.items()}, copied / "model.safetensors")
    bundle, _ = export_bundle(Checkpoint.read(copied), tmp_path / "bundle")
    with CrossEncoder(bundle.path, device="cpu") as model:
        np.testing.assert_allclose(model.predict(PAIRS), expected, rtol=0, atol=1e-4)


def test_the_files_of_modules_are_downloaded_and_are_part_of_the_caches_key(original: Path) -> None:
    held = {file for pattern in CHECKPOINT_FILES for file in original.glob(pattern)}
    assert {file for file in original.rglob("*") if file.is_file() and file.name != "README.md"} == held


def edited(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | fields), encoding="utf-8")


def edit(name: str, **fields: Any) -> Callable[[Path], None]:
    return lambda path: edited(path / name, **fields)


def listed(*modules: tuple[str, str]) -> Callable[[Path], object]:
    entries = [{"idx": n, "name": str(n), "type": kind, "path": place} for n, (kind, place) in enumerate(modules)]
    return lambda path: (path / "modules.json").write_text(json.dumps(entries))


def layer(place: str, weight: tuple[int, ...], name: str = "linear.weight") -> Callable[[Path], None]:
    return lambda path: save_file({name: torch.ones(weight)}, path / place / "model.safetensors")


TRANSFORMER = ("sentence_transformers.base.modules.transformer.Transformer", "")
POOLING = ("sentence_transformers.sentence_transformer.modules.pooling.Pooling", "1_Pooling")
FIRST = ("sentence_transformers.base.modules.dense.Dense", "2_Dense")
LAST = ("sentence_transformers.base.modules.dense.Dense", "3_Dense")
NORM = ("sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm", "2_LayerNorm")
LOGIT_SCORE = ("sentence_transformers.cross_encoder.modules.logit_score.LogitScore", "1_LogitScore")


def normed(**sizes: int) -> Callable[[Path], None]:
    """Put a LayerNorm module between the Dense modules."""

    def change(path: Path) -> None:
        listed(TRANSFORMER, POOLING, FIRST, NORM, LAST)(path)
        (path / NORM[1]).mkdir()
        (path / NORM[1] / "config.json").write_text('{"dimension": 16}')
        tensors = {f"norm.{name}": torch.ones(size) for name, size in sizes.items()}
        save_file(tensors, path / NORM[1] / "model.safetensors")

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edit("1_Pooling/config.json", pooling_mode="max"), "pooling_mode is 'max'; .*'cls' and 'mean' are supported"),
        (edit("1_Pooling/config.json", pooling_mode=["cls", "max"]), "pooling_mode is"),
        (edit("1_Pooling/config.json", include_prompt=False), "include_prompt is False; true is supported"),
        (edit("2_Dense/config.json", activation_function="torch.nn.modules.activation.SiLU"), "are SiLU, Identity; "),
        (edit("2_Dense/config.json", activation_function="my_code.Gelu"), "are 'my_code.Gelu', Identity"),
        (edit("3_Dense/config.json", activation_function="torch.nn.modules.activation.Tanh"), "are GELU, Tanh"),
        (edit("2_Dense/config.json", use_residual=True), "use_residual is True"),
        (edit("2_Dense/config.json", module_input_name="token_embeddings"), "module_input_name is 'token_embeddings'"),
        (edit("3_Dense/config.json", module_output_name="sentence_embedding"), "'scores' is expected"),
        (edit("sentence_bert_config.json", transformer_task="fill-mask"), "transformer_task is 'fill-mask'"),
        (edit("sentence_bert_config.json", module_output_name="sentence_embedding"), "module_output_name"),
        (edit("config.json", model_type="t5"), "model_type is 't5'; under a head of Dense modules, bert, electra"),
        (layer("2_Dense", (8, 16)), "3_Dense: the layer reads 16 values, and the one before writes 8"),
        (both(layer("2_Dense", (8, 8)), layer("3_Dense", (1, 8))), r"dense.0.weight is \[8, 8\], expected \[8, 16\]"),
        (layer("3_Dense", (1, 8)), "3_Dense: the layer reads 8 values, and the one before writes 16"),
        (layer("2_Dense", (16,)), "a table linear.weight is expected"),
        (layer("2_Dense", (16, 16), "weight"), "hold weight; a table linear.weight is expected"),
        (lambda path: (path / "2_Dense/model.safetensors").unlink(), "2_Dense has neither"),
        (lambda path: (path / "2_Dense/config.json").unlink(), "2_Dense has no config.json"),
        (listed(TRANSFORMER, POOLING), "Dense modules, the first with Tanh"),
        (listed(TRANSFORMER, FIRST, LAST), "has the modules Transformer in '', Dense in '2_Dense', Dense"),
        (listed(TRANSFORMER, LOGIT_SCORE), "LogitScore reads one token's logit of a generative model"),
        (
            listed(TRANSFORMER, POOLING, FIRST, FIRST, LAST),
            "Dense in '2_Dense', Dense in '2_Dense', Dense in '3_Dense'; ",
        ),
        (listed(TRANSFORMER, POOLING, FIRST, NORM), "LayerNorm in '2_LayerNorm'; crossrt knows"),
        (listed(TRANSFORMER, POOLING, NORM, LAST), "LayerNorm in '2_LayerNorm', Dense in '3_Dense'; crossrt knows"),
        (listed(TRANSFORMER, POOLING, FIRST, NORM, LAST), "2_LayerNorm/config.json|2_LayerNorm has no config.json"),
        (normed(weight=16), "2_LayerNorm: the weights hold norm.weight; norm.weight and norm.bias are expected"),
        (normed(weight=16, bias=8), r"dense.norm.bias is \[8\], expected \[16\]"),
        (listed(TRANSFORMER, POOLING, (FIRST[0], "../2_Dense"), LAST), r"Dense in '\.\./2_Dense'"),
        (listed(TRANSFORMER, POOLING, ("my_code.Dense", "2_Dense"), LAST), "my_code.Dense, which is code"),
        (listed((TRANSFORMER[0], "0_Transformer"), POOLING, FIRST, LAST), "Transformer in '0_Transformer'"),
        (lambda path: (path / "modules.json").write_text("{}"), r"has the modules \(none\)"),
        (lambda path: (path / "modules.json").write_text("[3]"), "is not a list of modules"),
    ],
)
def test_modules_that_crossrt_does_not_compute_are_refused(
    change: Callable[[Path], object], said: str, copied: Path
) -> None:
    change(copied)
    with pytest.raises(CheckpointError, match=said) as caught:
        Checkpoint.read(copied)
    assert str(copied) in str(caught.value)


@pytest.mark.parametrize("seed", range(60))
def test_odd_fields_of_modules_are_refused_in_words_or_do_no_harm(seed: int, copied: Path) -> None:
    chance = random.Random(seed)
    places = ("modules.json", "1_Pooling/config.json", "2_Dense/config.json", "3_Dense/config.json")
    file = copied / chance.choice([*places, "sentence_bert_config.json", "config_sentence_transformers.json"])
    fields = json.loads(file.read_text())
    _odd_place(fields, chance)
    file.write_text(json.dumps(fields))
    try:
        expected = Reference(Checkpoint.read(copied)).logits(PAIRS[:2], max_length=24)
    except CrossrtError as error:
        assert str(copied) in str(error), "it names the checkpoint"  # noqa: PT017
    else:
        assert np.isfinite(expected).all()


def test_an_onnx_file_beside_dense_modules_lacks_the_head(copied: Path, bundle: Path, tmp_path: Path) -> None:
    shutil.copyfile(bundle / "onnx/model.onnx", copied / "model.onnx")
    with pytest.raises(CheckpointError, match="a head of Dense modules, which is not in the ONNX file"):
        bundle_from_onnx(copied, tmp_path / "bundle")
