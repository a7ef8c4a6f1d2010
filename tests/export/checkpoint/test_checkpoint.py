"""What is no whole cross-encoder is refused, by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file

from crossrt.engine.errors import CheckpointError
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.checkpoint.heads import Head


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))


def edit_tensors(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    tensors = load_file(path / "model.safetensors")
    edit(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path / "model.safetensors")


def edit_config(path: Path, **fields: Any) -> None:
    config = json.loads((path / "config.json").read_text()) | fields
    (path / "config.json").write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def test_dimensions_head_and_activation_are_read_from_config_and_tensors(checkpoint: Path) -> None:
    read = Checkpoint.read(checkpoint)
    assert (read.head, read.labels, read.activation, read.max_length) == (Head.BERT, 1, "identity", 64)
    assert (read.dimensions.layers, read.dimensions.hidden, read.dimensions.heads) == (2, 32, 2)
    assert read.unused_tensors == ()


def test_weights_are_the_same_from_safetensors_and_from_a_pytorch_file(copied: Path) -> None:
    before = Checkpoint.read(copied).tensor("layer.1.output.weight")
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    assert (Checkpoint.read(copied).tensor("layer.1.output.weight") == before).all()


@pytest.mark.parametrize("version", ["2.5.1", "2.6.0", "2.9.1+cpu"])
def test_a_pickle_is_not_read_by_a_pytorch_that_runs_code_in_it(
    version: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Checkpoint.read(copied)
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion(version))
    Checkpoint.read(copied)  # safetensors are data alone
    (copied / "model.safetensors").unlink()
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(CheckpointError, match=r"CVE-2025-32434.*install torch 2\.10 or later, or convert"):
        Checkpoint.read(copied)


def test_half_precision_weights_are_read_as_float32(copied: Path) -> None:
    edit_tensors(copied, lambda tensors: tensors.update({name: value.half() for name, value in tensors.items()}))
    assert Checkpoint.read(copied).tensor("head.1.weight").dtype == "float32"


def test_layer_norms_named_gamma_and_beta_are_understood(copied: Path) -> None:
    def rename(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if "LayerNorm" in name]:
            new = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[new] = tensors.pop(name)

    edit_tensors(copied, rename)
    assert Checkpoint.read(copied).unused_tensors == ()


def test_a_missing_tensor_is_named(copied: Path) -> None:
    edit_tensors(copied, lambda tensors: tensors.pop("bert.encoder.layer.1.output.dense.bias"))
    with pytest.raises(CheckpointError, match=r"missing: bert\.encoder\.layer\.1\.output\.dense\.bias"):
        Checkpoint.read(copied)


def test_a_missing_pooler_is_an_error_because_random_weights_give_plausible_scores(copied: Path) -> None:
    def drop(tensors: dict[str, Any]) -> None:
        del tensors["bert.pooler.dense.weight"], tensors["bert.pooler.dense.bias"]

    edit_tensors(copied, drop)
    with pytest.raises(CheckpointError, match=r"missing: bert\.pooler\.dense\.weight; bert\.pooler\.dense\.bias"):
        Checkpoint.read(copied)


def test_a_missing_head_is_an_error(copied: Path) -> None:
    def drop(tensors: dict[str, Any]) -> None:
        del tensors["classifier.weight"], tensors["classifier.bias"]

    edit_tensors(copied, drop)
    with pytest.raises(CheckpointError, match="no classification head"):
        Checkpoint.read(copied)


def test_a_misshapen_tensor_is_named_with_both_shapes(copied: Path) -> None:
    edit_tensors(copied, lambda tensors: tensors.update({"bert.pooler.dense.weight": torch.zeros(32, 31)}))
    with pytest.raises(CheckpointError, match=r"bert\.pooler\.dense\.weight is \[32, 31\], expected \[32, 32\]"):
        Checkpoint.read(copied)


def test_a_leftover_tensor_is_named_and_a_saved_buffer_is_not(copied: Path) -> None:
    spare = {"fit_dense.weight": torch.zeros(3), "bert.embeddings.position_ids": torch.arange(64)[None]}
    edit_tensors(copied, lambda tensors: tensors.update(spare))
    assert Checkpoint.read(copied).unused_tensors == ("fit_dense.weight",)


def test_nan_weights_do_not_reach_an_exporter_that_does_not_look_at_them(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossrt.export.export import export_bundle
    from crossrt.export.graph import optimum

    monkeypatch.setattr(optimum, "onnx_by_optimum", lambda *_: pytest.fail("it was exported"))
    # Of a word that no pair has: the parity check would not see it.
    edit_tensors(copied, lambda tensors: tensors["bert.embeddings.word_embeddings.weight"][4].fill_(float("inf")))
    with pytest.raises(CheckpointError, match=r"word_embeddings\.weight holds NaN or Inf"):
        export_bundle(Checkpoint.read(copied), tmp_path / "bundle", exporter="optimum")


def test_nan_weights_are_named_when_they_are_read(copied: Path) -> None:
    edit_tensors(copied, lambda tensors: tensors["bert.encoder.layer.0.intermediate.dense.weight"].fill_(float("nan")))
    with pytest.raises(CheckpointError, match=r"bert\.encoder\.layer\.0\.intermediate\.dense\.weight holds NaN or Inf"):
        Checkpoint.read(copied).tensor("layer.0.intermediate.weight")


def test_a_label_count_that_differs_from_the_head_is_an_error(copied: Path) -> None:
    edit_config(copied, id2label={"0": "A", "1": "B"})
    with pytest.raises(CheckpointError, match="declares 2 labels, the head has 1"):
        Checkpoint.read(copied)


def test_a_config_without_dimensions_is_an_error(copied: Path) -> None:
    edit_config(copied, num_attention_heads=None)
    with pytest.raises(CheckpointError, match="does not give num_attention_heads"):
        Checkpoint.read(copied)


def test_relative_positions_and_unknown_activations_are_refused(copied: Path) -> None:
    edit_config(copied, position_embedding_type="relative_key")
    with pytest.raises(CheckpointError, match="relative_key"):
        Checkpoint.read(copied)
    edit_config(copied, position_embedding_type=None, hidden_act="swish")
    with pytest.raises(CheckpointError, match="swish"):
        Checkpoint.read(copied)


def test_a_bi_encoder_is_recognised(copied: Path) -> None:
    edit_config(copied, architectures=["BertModel"])
    tensors = load_file(copied / "model.safetensors")
    bare = {name.removeprefix("bert."): value for name, value in tensors.items() if name.startswith("bert.")}
    save_file(bare, copied / "model.safetensors")
    with pytest.raises(CheckpointError, match="bi-encoder") as caught:
        Checkpoint.read(copied)
    assert "BertModel" in str(caught.value)
    assert "expected a cross-encoder" in str(caught.value)


def test_a_generative_model_is_recognised(copied: Path) -> None:
    edit_config(copied, architectures=["LlamaForCausalLM"], model_type="llama")
    save_file({"model.embed_tokens.weight": torch.zeros(4, 4)}, copied / "model.safetensors")
    with pytest.raises(CheckpointError, match="generative"):
        Checkpoint.read(copied)


def test_a_git_lfs_pointer_is_recognised(copied: Path) -> None:
    pointer = f"version https://git-lfs.example/spec/v1\noid sha256:{'0' * 64}\nsize 90870598\n"
    (copied / "model.safetensors").write_text(pointer)
    with pytest.raises(CheckpointError, match=r"Git LFS pointer of 1[0-9][0-9] bytes"):
        Checkpoint.read(copied)


def test_truncated_weights_are_an_error(copied: Path) -> None:
    whole = (copied / "model.safetensors").read_bytes()
    for size in (0, 5, 200, len(whole) - 1):
        (copied / "model.safetensors").write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="truncated"):
            Checkpoint.read(copied)


def test_code_in_a_pickle_is_not_run(copied: Path, tmp_path: Path) -> None:
    import pickle

    witness = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> Any:
            return (Path.touch, (witness,))

    (copied / "model.safetensors").unlink()
    (copied / "pytorch_model.bin").write_bytes(pickle.dumps({"classifier.weight": Payload()}))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        Checkpoint.read(copied)
    assert not witness.exists()


def test_an_empty_directory_and_broken_json_are_errors(tmp_path: Path, copied: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        Checkpoint.read(tmp_path)
    (copied / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        Checkpoint.read(copied)


@pytest.mark.parametrize(
    ("config", "sentence_transformers", "labels", "expected"),
    [
        ({}, {}, 1, "sigmoid"),
        ({}, {}, 2, "identity"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, {}, 1, "identity"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}}, {}, 1, "tanh"),
        (
            {
                "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity",
                "sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"},
            },
            {},
            1,
            "sigmoid",
        ),
        (
            {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}},
            {"activation_fn": "torch.nn.modules.linear.Identity"},
            1,
            "identity",
        ),
        ({"sbert_ce_default_activation_function": "my_code.Activation"}, {}, 1, "sigmoid"),
    ],
)
def test_the_activation_is_looked_for_in_the_published_order(
    copied: Path, config: dict[str, Any], sentence_transformers: dict[str, Any], labels: int, expected: str
) -> None:
    from crossrt.engine.activation import name_from_config

    default = "sigmoid" if labels == 1 else "identity"
    assert name_from_config(config, sentence_transformers, default) == expected
