"""LoRA adapters are merged by peft, as an independent product of their tensors has it, or refused in words.

peft is not part of the test environment: `scripts/integrations peft` runs what needs it.
"""

import json
import re
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file

from crossrt import CrossEncoder
from crossrt.engine.bundle import resolve
from crossrt.engine.bundle.resolve import bundle_from_source
from crossrt.engine.errors import CheckpointError
from crossrt.export import export
from crossrt.export.checkpoint.adapter import _copy_files
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.checkpoint.reference import Reference
from crossrt.export.export import export_bundle
from tests.export.checkpoint.test_odd_checkpoints import KINDS, PAIRS, _write

needs_peft = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")
RANK, ALPHA = 2, 6
CONFIG = {
    "peft_type": "LORA",
    "task_type": "SEQ_CLS",
    "base_model_name_or_path": "BASE",
    "r": RANK,
    "lora_alpha": ALPHA,
    "target_modules": ["query", "value"],
    "modules_to_save": ["classifier", "score"],
    "bias": "none",
    "inference_mode": True,
}


@pytest.fixture(scope="module", autouse=True)
def few_pairs() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "builtin_pairs", lambda max_length: PAIRS)
        yield


@pytest.fixture
def base(tmp_path: Path) -> Path:
    _write(tmp_path / "base", **KINDS["bert"])
    return tmp_path / "base"


@pytest.fixture
def adapter(base: Path) -> Path:
    """An adapter with a head of its own, in files as peft writes them."""
    return adapter_of(base, labels=1)


def adapter_of(
    base: Path,
    *,
    labels: int,
    targets: tuple[str, ...] = ("query", "value"),
    saved: tuple[str, ...] = (),
    **fields: Any,
) -> Path:
    """Write an adapter of the layers `targets`, whose head has `labels`. It holds the layers `saved` of that head too."""
    path = base.parent / "adapter"
    path.mkdir()
    layers = {"target_modules": list(targets), "modules_to_save": [*saved, "classifier", "score"]}
    (path / "adapter_config.json").write_text(
        json.dumps(CONFIG | layers | {"base_model_name_or_path": str(base)} | fields)
    )
    generator = torch.Generator().manual_seed(3)
    held = {}
    for name, value in load_file(base / "model.safetensors").items():
        layer = name.removesuffix(".weight")
        if layer != name and layer.rpartition(".")[2] in targets:
            stem = f"base_model.model.{layer}"
            held[f"{stem}.lora_A.weight"] = torch.randn((RANK, 16), generator=generator) * 0.5
            held[f"{stem}.lora_B.weight"] = torch.randn((len(value), RANK), generator=generator) * 0.5
    for layer, rows in {**dict.fromkeys(saved, 16), "classifier": labels}.items():
        stem = f"base_model.model.{layer}"
        held[f"{stem}.weight"] = torch.randn((rows, 16), generator=generator)
        held[f"{stem}.bias"] = torch.randn((rows,), generator=generator)
    save_file(held, path / "adapter_model.safetensors")
    return path


def merged_by_hand(base: Path, adapter: Path, scale: float = ALPHA / RANK) -> dict[str, Any]:
    """Return the base model's weights plus scale x B A, with the adapter's head."""
    held = load_file(base / "model.safetensors")
    added = {
        name.removeprefix("base_model.model."): one
        for name, one in load_file(adapter / "adapter_model.safetensors").items()
    }
    for name, low in added.items():
        if name.endswith(".lora_A.weight"):
            stem = name.removesuffix(".lora_A.weight")
            held[f"{stem}.weight"] = held[f"{stem}.weight"] + scale * added[f"{stem}.lora_B.weight"] @ low
        elif "lora" not in name:
            held[name] = low
    return held


def assert_merged(path: Path, expected: dict[str, Any]) -> None:
    found = Checkpoint.read(path).original_tensors()
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-6)


@needs_peft
def test_an_adapter_is_merged_and_scores_as_the_merged_weights(base: Path, adapter: Path, tmp_path: Path) -> None:
    expected = merged_by_hand(base, adapter)
    assert_merged(adapter, expected)
    bundle, _ = export_bundle(Checkpoint.read(adapter), tmp_path / "bundle")
    model = transformers.BertForSequenceClassification.from_pretrained(base, state_dict=None).eval()
    model.load_state_dict(expected, strict=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    with torch.inference_mode():
        logits = [
            model(**tokenizer([query], [text], truncation="longest_first", max_length=64, return_tensors="pt")).logits[
                0
            ]
            for query, text in PAIRS
        ]
    with CrossEncoder(bundle.path, device="cpu") as ours:
        np.testing.assert_allclose(ours.logits(PAIRS), torch.stack(logits), rtol=0, atol=1e-4)
    assert bundle.manifest.source["id"] == "adapter"


@needs_peft
def test_a_head_of_other_labels_than_the_base_models_is_taken_from_the_adapter(base: Path) -> None:
    checkpoint = Checkpoint.read(adapter_of(base, labels=3))
    assert checkpoint.labels == 3


@needs_peft
def test_a_part_of_the_base_models_head_that_does_not_fit_is_no_random_numbers(base: Path) -> None:
    path = adapter_of(base, labels=3)
    held = load_file(path / "adapter_model.safetensors")
    del held["base_model.model.classifier.bias"]
    save_file(held, path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"classifier\.bias, which would be left at random"):
        Checkpoint.read(path)


@needs_peft
def test_a_base_model_without_a_head_gets_the_adapters(base: Path, adapter: Path) -> None:
    expected = merged_by_hand(base, adapter)
    transformers.BertModel.from_pretrained(base).save_pretrained(base)
    assert_merged(adapter, expected)


@needs_peft
def test_a_base_model_of_wrapped_names_is_understood(base: Path, adapter: Path) -> None:
    expected = merged_by_hand(base, adapter)
    held = load_file(base / "model.safetensors")
    torch.save({f"module.{name}": value for name, value in held.items()}, base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    assert_merged(adapter, expected)


@needs_peft
def test_rank_stabilized_scales_and_pickles_are_understood(base: Path) -> None:
    path = adapter_of(base, labels=1, use_rslora=True)
    held = load_file(path / "adapter_model.safetensors")
    one, other, *_ = (name for name in held if name.endswith(".lora_A.weight"))
    save_file(held | {other: held[one].clone()}, path / "adapter_model.safetensors")
    expected = merged_by_hand(base, path, ALPHA / RANK**0.5)
    torch.save(held | {other: held[one]}, path / "adapter_model.bin")  # tensors of a pickle may share their memory
    (path / "adapter_model.safetensors").unlink()
    assert_merged(path, expected)


@needs_peft
def test_a_base_model_in_half_precision_is_merged_in_fp32(base: Path, adapter: Path) -> None:
    model = transformers.BertForSequenceClassification.from_pretrained(base, dtype=torch.bfloat16)
    model.save_pretrained(base)
    assert_merged(adapter, {name: value.float() for name, value in merged_by_hand(base, adapter).items()})


@needs_peft
def test_an_adapter_of_an_adapter_is_refused(base: Path, adapter: Path) -> None:
    (base / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"is an adapter of .*base, which holds an adapter itself"):
        Checkpoint.read(adapter)


SPECIAL = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
RELATIVE = {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0}


@needs_peft
@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize(
    ("kind", "fields", "targets", "saved"),
    [
        ("ModernBert", SPECIAL, ("Wqkv",), ()),
        ("DebertaV2", RELATIVE, ("query_proj", "key_proj"), ("pooler.dense",)),
        ("DistilBert", {}, ("q_lin", "v_lin"), ("pre_classifier",)),
    ],
)
def test_adapters_of_other_architectures_are_merged(
    kind: str, fields: dict[str, Any], targets: tuple[str, ...], saved: tuple[str, ...], pickled: bool, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    _write(base, kind, **fields)
    path = adapter_of(base, labels=1, targets=targets, saved=saved)
    expected = merged_by_hand(base, path)
    if pickled:  # in the order of the model's layers, in which pre_classifier comes before classifier
        held = load_file(path / "adapter_model.safetensors")
        torch.save(dict(sorted(held.items(), key=lambda one: ".classifier" in one[0])), path / "adapter_model.bin")
        (path / "adapter_model.safetensors").unlink()
    assert_merged(path, expected)
    model = getattr(transformers, f"{kind}ForSequenceClassification").from_pretrained(base).eval()
    model.load_state_dict(expected, strict=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    checkpoint = Checkpoint.read(path)
    with torch.inference_mode():
        logits = [model(**tokenizer(*pair, return_tensors="pt")).logits[0].numpy() for pair in PAIRS[:2]]
    np.testing.assert_allclose(Reference(checkpoint).logits(PAIRS[:2], max_length=64), logits, rtol=0, atol=1e-4)


@needs_peft
@pytest.mark.parametrize(
    "fields",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"rank_pattern": {"query": 3}, "alpha_pattern": {"value": 11}},
        {"target_modules": ["query", "word_embeddings"]},
        {"target_modules": "all-linear"},
        {"trainable_token_indices": [1, 5]},
    ],
    ids=lambda fields: "-".join(fields),
)
@pytest.mark.parametrize("whole_table", [False, True], ids=["", "with the whole table"])
def test_what_peft_saves_scores_as_in_peft(fields: dict[str, Any], whole_table: bool, tmp_path: Path) -> None:
    """The head is a RoBERTa's, of two layers, and has more labels than the base model's."""
    import peft

    base, path = tmp_path / "base", tmp_path / "adapter"
    _write(base, "Roberta")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=3, ignore_mismatched_sizes=True
    )
    whole = peft.get_peft_model(
        model, peft.LoraConfig(**{"r": 2, "task_type": "SEQ_CLS", "target_modules": ["query", "value"]} | fields)
    ).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for value in whole.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) * 0.3)
    whole.save_pretrained(path, save_embedding_layers=whole_table)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    with torch.inference_mode():
        expected = [whole(**tokenizer(*pair, return_tensors="pt")).logits[0].numpy() for pair in PAIRS[:2]]
    checkpoint = Checkpoint.read(path)
    np.testing.assert_allclose(Reference(checkpoint).logits(PAIRS[:2], max_length=62), expected, rtol=0, atol=1e-4)


@needs_peft
@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("base_model.", "module.base_model."),
        ("base_model.", "_orig_mod.base_model."),
        ("base_model.model.", "base_model.model._orig_mod."),
        ("layer.1.", "layer.1._checkpoint_wrapped_module."),
    ],
)
def test_names_of_pytorchs_wrappers_are_understood(
    old: str, new: str, pickled: bool, base: Path, adapter: Path
) -> None:
    expected = merged_by_hand(base, adapter)
    held = load_file(adapter / "adapter_model.safetensors")
    changed = {name.replace(old, new, 1): value for name, value in held.items()}
    assert changed != held
    if pickled:
        torch.save(changed, adapter / "adapter_model.bin")
        (adapter / "adapter_model.safetensors").unlink()
    else:
        save_file(changed, adapter / "adapter_model.safetensors")
    assert_merged(adapter, expected)


@needs_peft
@pytest.mark.parametrize("more", [0, 8])
@pytest.mark.parametrize("part", ["", "original_module."])
def test_embeddings_in_the_adapter_replace_the_base_models(part: str, more: int, base: Path, adapter: Path) -> None:
    """peft saves them where the vocabulary grew, or where it is told to (save_embedding_layers)."""
    name = "bert.embeddings.word_embeddings.weight"
    old = load_file(base / "model.safetensors")[name]
    new = torch.cat([old * 0.5, torch.full((more, old.shape[1]), 0.25)])
    held = load_file(adapter / "adapter_model.safetensors") | {f"base_model.model.{name}": new}
    expected = merged_by_hand(base, adapter) | {name: new}
    if part:  # as peft saves it with modules_to_save
        change(adapter, modules_to_save=["classifier", "word_embeddings"])
        held[f"base_model.model.{name.replace('.weight', '.original_module.weight')}"] = torch.zeros_like(new)
    save_file(held, adapter / "adapter_model.safetensors")
    assert_merged(adapter, expected)
    assert Checkpoint.read(adapter).dimensions.vocab == len(old) + more


@needs_peft
def test_pissa_is_merged_into_what_it_left_of_the_base_model(base: Path) -> None:
    path = adapter_of(base, labels=1, init_lora_weights="pissa")
    expected = merged_by_hand(base, path)
    for name, value in load_file(base / "model.safetensors").items():
        if name.endswith(("query.weight", "value.weight")):
            left, sizes, right = np.linalg.svd(value.numpy().astype(np.float64))
            largest = (left[:, :RANK] * sizes[:RANK]) @ right[:RANK]
            expected[name] = expected[name] - torch.from_numpy(largest).float()
    found = Checkpoint.read(path).original_tensors()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5)


@needs_peft
@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda held: held["classifier.weight"].to(torch.int8), "classifier.weight is int8, so the model is quantized"),
        (lambda held: held["classifier.weight"].to(torch.float8_e4m3fn), "is float8_e4m3fn, so the model is quantized"),
        (None, r"config\.json has a quantization_config \(bitsandbytes\), so the model is quantized already"),
    ],
    ids=["int8", "float8", "bitsandbytes"],
)
def test_a_quantized_base_model_is_refused(edit: Any, said: str, base: Path, adapter: Path) -> None:
    if edit is None:
        fields = json.loads((base / "config.json").read_text())
        fields["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
        (base / "config.json").write_text(json.dumps(fields))
    else:
        held = load_file(base / "model.safetensors")
        save_file(held | {"classifier.weight": edit(held)}, base / "model.safetensors")
    with pytest.raises(CheckpointError, match=said):
        Checkpoint.read(adapter)


@needs_peft
def test_what_is_left_out_is_a_warning(base: Path, adapter: Path) -> None:
    assert Checkpoint.read(adapter).warnings == ()
    change(adapter, fancy_scaling=3, other=None, more=False)
    [warning] = Checkpoint.read(adapter).warnings
    assert re.search(r"adapter_config.json: peft [0-9.]+ does not know fancy_scaling = 3; see whether scores", warning)
    change(adapter, fancy_scaling=None)
    held = load_file(base / "model.safetensors")
    extra = {name.replace("layer.1.", "layer.2."): value.clone() for name, value in held.items() if "layer.1." in name}
    extra["cls.predictions.bias"] = torch.ones(3)  # of a head that no classifier has
    save_file(held | extra, base / "model.safetensors")
    [warning] = Checkpoint.read(adapter).warnings
    assert "base: tensors that the model does not use: bert.encoder.layer.2.attention.output.LayerNorm.bias" in warning
    assert "predictions" not in warning


@needs_peft
@pytest.mark.parametrize(
    "fields", [{"task_type": None}, {"init_lora_weights": "Gaussian"}, {"init_lora_weights": "eva"}]
)
def test_settings_that_change_no_score_are_accepted(fields: dict[str, Any], base: Path) -> None:
    path = adapter_of(base, labels=1, **fields)
    assert_merged(path, merged_by_hand(base, path))


@needs_peft
def test_a_base_models_tokenizer_of_sentencepiece_alone_is_found(base: Path, adapter: Path) -> None:
    (base / "tokenizer.json").rename(base / "spm.model")
    assert (Checkpoint.read(adapter).path / "spm.model").read_bytes() == (base / "spm.model").read_bytes()


@pytest.mark.parametrize(
    "name",
    "Bert Roberta XLMRoberta Camembert DebertaV2 MPNet Albert Phobert Bertweet BertJapanese Herbert Llama".split(),
)
def test_every_file_of_a_vocabulary_goes_with_the_merged_weights(
    name: str, base: Path, adapter: Path, tmp_path: Path
) -> None:
    files = getattr(transformers, f"{name}Tokenizer").vocab_files_names.values()
    for place in (base, adapter):  # the adapter's come before the base model's
        for file in files:
            (place / file).write_text(place.name)
        (tmp_path / place.name / "merged").mkdir()
        _copy_files(adapter, base, tmp_path / place.name / "merged")
        assert {file: (place / "merged" / file).read_text() for file in files} == dict.fromkeys(files, place.name)


@needs_peft
@pytest.mark.parametrize("place", ["../base", "base"])
def test_a_relative_base_model_is_found(place: str, base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base.parent if place == "base" else "/")
    change(adapter, base_model_name_or_path=place)
    assert_merged(adapter, merged_by_hand(base, adapter))


@needs_peft
def test_a_base_model_of_the_hub_is_fetched_with_its_revision(
    base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossrt.export.checkpoint import adapter as module

    asked = []

    def fetched(name: str, **options: Any) -> tuple[Path, str]:
        asked.append((name, options))
        return base, "main"

    monkeypatch.setattr(module, "fetched_checkpoint", fetched)
    change(adapter, base_model_name_or_path="bert-base-uncased", revision="abc")
    Checkpoint.read(adapter, hub={"token": "secret", "local_files_only": True})
    asked_for = {"revision": "abc", "owner": None, "token": "secret", "local_files_only": True}
    assert asked == [("bert-base-uncased", asked_for)]


@needs_peft
def test_the_tokenizer_and_the_activation_of_the_adapter_come_first(base: Path, adapter: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        if (base / name).is_file():
            shutil.copyfile(base / name, adapter / name)
    fields = json.loads((adapter / "tokenizer_config.json").read_text())
    (adapter / "tokenizer_config.json").write_text(json.dumps(fields | {"model_max_length": 24}))
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    ]
    (adapter / "modules.json").write_text(json.dumps(modules))
    (adapter / "config_sentence_transformers.json").write_text(
        json.dumps({"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.activation.Tanh"})
    )
    checkpoint = Checkpoint.read(adapter)
    assert (checkpoint.max_length, checkpoint.activation) == (24, "tanh")


@needs_peft
def test_the_merged_files_are_deleted_with_the_checkpoint(adapter: Path) -> None:
    checkpoint = Checkpoint.read(adapter)
    path = checkpoint.path
    assert path.is_dir()
    del checkpoint
    assert not path.exists()


@needs_peft
@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda held: held.pop("base_model.model.classifier.bias"), r"classifier\.bias, which would be left at random"),
        (lambda held: held.pop(next(iter(held))), r"lora_[AB]\.weight is missing"),
        (lambda held: held.update({"base_model.model.more.lora_A.weight": torch.ones(2, 2)}), "more.lora_A.weight is not used"),
        (lambda held: held.update({"base_model.model.x": held.pop(next(iter(held)))}), "is missing; .*x is not used"),
        (lambda held: held.update({next(iter(held)): torch.ones(9, 9)}), r"size mismatch for .*\[9, 9\]"),
        (lambda held: held.update({"classifier.weight": held.pop("base_model.model.classifier.weight")}),
         r"adapter_model.safetensors holds classifier\.weight, and peft's names begin with base_model\.model\."),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(
    edit: Callable[[dict[str, Any]], Any], said: str, base: Path, adapter: Path
) -> None:
    transformers.BertModel.from_pretrained(base).save_pretrained(base)
    held = load_file(adapter / "adapter_model.safetensors")
    edit(held)
    save_file(held, adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=said):
        Checkpoint.read(adapter)


@needs_peft
def test_a_tensor_that_peft_misses_is_named(adapter: Path) -> None:
    held = load_file(adapter / "adapter_model.safetensors")
    del held["base_model.model.classifier.weight"]
    save_file(held, adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"it lacks the tensor 'base_model\.model\.classifier\.weight'"):
        Checkpoint.read(adapter)


@needs_peft
def test_an_adapter_of_a_decoder_is_refused_before_the_base_model_is_loaded(base: Path, adapter: Path) -> None:
    shutil.rmtree(base)
    transformers.LlamaConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    ).save_pretrained(base)
    with pytest.raises(CheckpointError, match=r"head named score[\s\S]*LlamaForSequenceClassification"):
        Checkpoint.read(adapter)


def change(adapter: Path, **fields: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_without_peft_the_message_says_what_to_do(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        CheckpointError, match=r"holds a LoRA adapter.*pip install peft; or merge it where it was trained"
    ):
        Checkpoint.read(adapter)


def test_an_adapter_beside_whole_weights_is_refused(base: Path) -> None:
    (base / "adapter_config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(
        CheckpointError, match=r"an adapter .* and whole weights \(model\.safetensors\).*delete adapter_config"
    ):
        Checkpoint.read(base)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "peft_type is 'PREFIX_TUNING'; LORA is merged .* virtual tokens cannot be merged"),
        ({"peft_type": "IA3"}, r"peft_type is 'IA3'; LORA is merged .* Or merge it where it was trained, with .*merge_and"),
        ({"peft_type": None}, "peft_type is None"),
        ({"task_type": "TOKEN_CLS"}, r"task_type is 'TOKEN_CLS', so .* something else than scoring pairs; .* SEQ_CLS"),
        ({"task_type": "FEATURE_EXTRACTION"}, "task_type is 'FEATURE_EXTRACTION'"),
        ({"task_type": ["SEQ_CLS"]}, "task_type is "),
        ({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, "megatron_config is set"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication is set, which crossrt does not support"),
        ({"init_lora_weights": "pissa_niter_4"}, "is 'pissa_niter_4', which changes the base model before the training"),
        ({"init_lora_weights": "lora_ga"}, "is 'lora_ga', which changes the base model .* path_initial_model_for_weight"),
        ({"init_lora_weights": ["pissa"]}, "init_lora_weights is "),
        ({"peft_type": []}, r"peft_type is \[\]"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path is None; the base model is expected"),
        ({"base_model_name_or_path": 3}, "base_model_name_or_path is 3"),
        ({"base_model_name_or_path": "/not/there"}, "an adapter of /not/there, which is needed to merge it and was not found"),
    ],
)  # fmt: skip
def test_an_adapter_that_cannot_be_merged_is_refused(
    fields: dict[str, Any], said: str, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec("peft") is None:
        monkeypatch.setitem(sys.modules, "peft", object())  # type: ignore[arg-type]
    change(adapter, **fields)
    with pytest.raises(CheckpointError, match=said):
        Checkpoint.read(adapter)


def test_an_adapter_without_weights_is_refused(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="neither adapter_model"):
        Checkpoint.read(adapter)


def test_a_bundle_in_the_cache_is_of_one_adapter_and_of_one_base_model(
    base: Path, adapter: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports = []

    def exported(checkpoint: Path, target: Path, *_: Any) -> None:
        exports.append(checkpoint)
        shutil.copytree(bundle, target)

    monkeypatch.setattr(resolve, "_export", exported)
    for edited in (None, base / "config.json", None, adapter / "adapter_model.safetensors", None):
        if edited is not None:
            edited.write_bytes(edited.read_bytes() + b" ")
        bundle_from_source(str(adapter), cache_folder=tmp_path / "cache")
    assert len(exports) == 3


def test_the_export_fetches_a_base_model_with_the_callers_options(
    adapter: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[dict[str, str]] = []

    def exported(
        checkpoint: Path, target: Path, source: str, revision: str | None, lock: int, environment: Any
    ) -> None:
        found.append(environment)
        shutil.copytree(bundle, target)

    monkeypatch.setattr(resolve, "_export", exported)
    bundle_from_source(str(adapter), cache_folder=tmp_path / "cache", token="secret", local_files_only=True)
    assert found == [{"HF_TOKEN": "secret", "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}]
