"""`Checkpoint`: a PyTorch cross-encoder as published, read and checked tensor by tensor."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..engine.errors import CheckpointError, OptionError
from ..engine.labels import label_number, margin, need_label, relevant_by_name
from .files import EXPECTED, default_activation, label_names, read_json
from .heads import HEAD_LAYERS, Head, Layout, head_of
from .settings import Settings

# Buffers that old versions of transformers saved: they hold 0, 1, 2, ... and no weights.
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """The trunk's sizes. `positions` is the longest sequence in tokens; `norm_eps` is LayerNorm's epsilon."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocab: int
    positions: int
    embedding: int
    norm_eps: float
    hidden_act: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A cross-encoder on disk whose every needed tensor is there, of the right shape and finite.

    Weights are read on demand by `tensor`, under our names: `word`, `position`, `type`, `embedding_norm`, `project`,
    `layer.3.query`, ... and `head.0`, `head.1`. `leftover` names tensors that no part of the model uses.
    `relevant_label` is None for more than two labels of which none was chosen, `chosen_activation` None unless the caller
    chose `activation`. `token_types` says whether the model has token types that differ and its tokenizer gives them,
    which `export_bundle` asks the tokenizer; without, every token is of type 0.
    """

    path: Path
    config: Mapping[str, Any]
    layout: Layout
    head: Head
    dimensions: Dimensions
    labels: int
    label_names: tuple[str, ...]
    relevant_label: int | None
    activation: str
    chosen_activation: str | None
    max_length: int
    pad_token_id: int
    leftover: tuple[str, ...]
    settings: Settings
    token_types: bool
    _names: Mapping[str, str]
    _tensors: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path, *, activation: str | None = None) -> "Checkpoint":
        """Read a directory in the hub's layout. `activation` overrides what the checkpoint asks for.

        Raises CheckpointError, saying what was found and what was expected, for anything but a whole cross-encoder.
        """
        config = read_json(path / "config.json")
        tensors = _read_tensors(path)
        _check_not_quantised(path, config, tensors)
        found = head_of(tensors)
        if found is None:
            raise CheckpointError(_not_a_cross_encoder(path, config, tensors))
        layout, head = found
        dimensions = _dimensions(path, config, layout, head, tensors)
        names = _names(layout, head, dimensions, tensors)
        labels = _check_tensors(path, config, head, dimensions, names, tensors)
        if activation == "softmax" and labels == 1:
            raise OptionError("softmax over one label is 1 for every pair: choose identity, sigmoid or tanh")
        used = set(names.values())
        leftover = tuple(name for name in tensors if name not in used and not name.endswith(_BUFFERS))
        tokenizer_config = read_json(path / "tokenizer_config.json", missing={})
        settings = Settings.read(path)
        longest = settings.max_length or int(tokenizer_config.get("model_max_length") or dimensions.positions)
        named = label_names(config, labels)
        return cls(
            path=path,
            config=config,
            layout=layout,
            head=head,
            dimensions=dimensions,
            labels=labels,
            label_names=named,
            relevant_label=relevant_by_name(named, labels),
            chosen_activation=activation,
            activation=activation or default_activation(path, config, labels, own_class=head is Head.BERT_CAT),
            max_length=min(longest, dimensions.positions),
            pad_token_id=int(config.get("pad_token_id") or 0),
            leftover=leftover,
            settings=settings,
            token_types="type.weight" in names and len(tensors[names["type.weight"]]) > 1,
            _names=names,
            _tensors=tensors,
        )

    @property
    def architecture(self) -> dict[str, Any]:
        """What a manifest says of the model's shape."""
        return {
            "model_type": self.config.get("model_type") or self.layout.model_type,
            "head": self.head.value,
            "layers": self.dimensions.layers,
            "hidden_size": self.dimensions.hidden,
            "attention_heads": self.dimensions.heads,
            "intermediate_size": self.dimensions.intermediate,
            "vocab_size": self.dimensions.vocab,
            "token_types": int(self._tensors[self._names["type.weight"]].shape[0]) if self.token_types else 0,
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the files hold that may matter and is not used, in words."""
        unused = (f"tensors that the model does not use: {', '.join(self.leftover)}",) if self.leftover else ()
        return (*unused, *self.settings.warnings)

    def with_relevant_label(self, choice: int | str | None) -> "Checkpoint":
        """Return the checkpoint with that label, by its index or name, as the relevant one; itself for None.

        Raises OptionError for a label that it does not have.
        """
        if choice is None:
            return self
        return replace(self, relevant_label=label_number(choice, self.label_names, self.labels))

    def relevance(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the score that ranks, float32 [n], of logits [n, labels]; see `margin`.

        Raises OptionError for more than two labels of which none was chosen.
        """
        return margin(logits, need_label(self.relevant_label, self.label_names, self.labels))

    @property
    def positions_pass_over_padding(self) -> bool:
        """Whether positions count the tokens that are not padding, from the padding id + 1, and padding has that of its id."""
        return self.layout.prefix == "roberta."

    def has(self, name: str) -> bool:
        """Tell whether the optional part `name` is there."""
        return f"{name}.weight" in self._names

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """Return one tensor, such as `layer.0.query.weight`, as float32, whatever dtype it was stored in.

        Raises CheckpointError, naming the tensor, when it holds NaN or Inf.
        """
        original = self._names[name]
        values: npt.NDArray[np.float32] = self._tensors[original].float().numpy()
        if not np.isfinite(values).all():
            raise CheckpointError(f"{self.path}: the tensor {original} holds NaN or Inf; the training went wrong")
        return values

    def original_tensors(self) -> dict[str, Any]:
        """Return all tensors under the checkpoint's own names, as stored."""
        return dict(self._tensors)


def _read_tensors(path: Path) -> dict[str, Any]:
    safetensors_file, torch_file = path / "model.safetensors", path / "pytorch_model.bin"
    if (path / "model.safetensors.index.json").is_file() and not safetensors_file.is_file():
        raise CheckpointError(f"{path} holds sharded weights; save them as one model.safetensors first")
    file = safetensors_file if safetensors_file.is_file() else torch_file
    if not file.is_file():
        held = ", ".join(sorted(entry.name for entry in path.iterdir())[:12]) or "nothing"
        raise CheckpointError(f"{path} has neither model.safetensors nor pytorch_model.bin; it holds {held}")
    with file.open("rb") as opened:
        if opened.read(24).startswith(b"version https://git-lfs"):
            raise CheckpointError(
                f"{file} is a Git LFS pointer of {file.stat().st_size} bytes, not the weights; fetch them with: git lfs pull"
            )
    try:
        if file is safetensors_file:
            from safetensors.torch import load_file

            tensors: dict[str, Any] = load_file(file)
        else:
            import torch

            # weights_only: no code in the pickle is run. mmap: pages are read when a tensor is.
            tensors = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors and torch raise their own kinds, down to UnpicklingError and EOFError
        raise CheckpointError(
            f"{file} ({file.stat().st_size:,} bytes) cannot be read as weights ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}); it may be truncated: fetch it again"
        ) from error
    if not isinstance(tensors, dict) or not all(hasattr(value, "shape") for value in tensors.values()):
        raise CheckpointError(f"{file} does not hold a plain dictionary of tensors; save model.state_dict()")
    # TensorFlow's names of LayerNorm's parameters, in checkpoints from 2019.
    renames = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    for old, new in renames.items():
        tensors = {name.replace(old, new): value for name, value in tensors.items()}
    return tensors


def _check_not_quantised(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """Raise CheckpointError for weights that were quantised before: what was lost cannot be found again."""
    quantization = config.get("quantization_config")
    integers = [
        f"{name} is {str(value.dtype).removeprefix('torch.')}"
        for name, value in tensors.items()
        if _is_integer(name, value)
    ]
    if quantization:
        method = quantization.get("quant_method", "?") if isinstance(quantization, dict) else "?"
        found = f"config.json has a quantization_config ({method})"
    elif integers:
        found = integers[0]
    else:
        return
    raise CheckpointError(
        f"{path}: {found}, so the model is quantised already; give the original FP32 or FP16 checkpoint"
    )


def _is_integer(name: str, value: Any) -> bool:
    return value.ndim > 1 and not value.is_floating_point() and not name.endswith(_BUFFERS)


def _not_a_cross_encoder(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> str:
    architectures = config.get("architectures") or ["?"]
    found = f"{architectures[0]} (model_type {config.get('model_type', '?')}, {len(tensors)} tensors)"
    if str(architectures[0]).endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        kind = "is a generative model"
    elif (path / "modules.json").is_file() or str(architectures[0]).endswith("Model"):
        kind = "is a bi-encoder or a bare trunk: it has no classification head, and a random one gives plausible scores"
    elif not any("classif" in name for name in tensors):
        kind = "has no classification head, and a random one gives plausible scores"
    else:
        kind = "is of an architecture that crossrt does not know"
    sample = ", ".join(list(tensors)[:3])
    return f"{path} {kind}\n  found     {found}, such as {sample}\n  {EXPECTED}"


def _dimensions(
    path: Path, config: Mapping[str, Any], layout: Layout, head: Head, tensors: Mapping[str, Any]
) -> Dimensions:
    embeddings = f"{layout.prefix}embeddings."
    try:
        vocab, embedding = tensors[f"{embeddings}word_embeddings.weight"].shape
        positions = tensors[f"{embeddings}position_embeddings.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"{path}: the tensor {error} is missing") from error
    if head is Head.BERT_CAT and "dim" not in config:
        # Its config names distilbert-base-uncased instead of giving dimensions: 12 heads of 64, GELU, eps 1e-12.
        if embedding != 768:
            raise CheckpointError(
                f"{path}: config.json gives no dimensions, and a width of {embedding} is not that of "
                "distilbert-base-uncased (768), so the number of attention heads is unknown; add n_heads, dim, "
                "n_layers and hidden_dim to config.json"
            )
        layers = 1 + max(
            int(name.removeprefix(layout.prefix + layout.layers).split(".")[0])
            for name in tensors
            if name.startswith(layout.prefix + layout.layers)
        )
        sizes = {"layers": layers, "hidden": 768, "heads": 12, "intermediate": 3072}
    else:
        missing = [key for key in layout.dimensions.values() if not isinstance(config.get(key), int)]
        if missing:
            raise CheckpointError(
                f"{path}/config.json does not give {', '.join(missing)}; it cannot be guessed from weights"
            )
        sizes = {ours: config[theirs] for ours, theirs in layout.dimensions.items()}
    if sizes["hidden"] % sizes["heads"]:
        raise CheckpointError(f"{path}: hidden size {sizes['hidden']} is not a multiple of {sizes['heads']} heads")
    activation = config.get("activation" if layout.model_type == "distilbert" else "hidden_act", "gelu")
    if activation not in ("gelu", "relu", "gelu_new", "gelu_pytorch_tanh"):
        raise CheckpointError(f"{path}: hidden activation {activation!r} is not supported; gelu, gelu_new and relu are")
    if layout.prefix == "roberta.":  # see positions_pass_over_padding
        positions -= int(config.get("pad_token_id", 1)) + 1
    return Dimensions(
        **sizes,
        vocab=vocab,
        positions=positions,
        embedding=embedding,
        norm_eps=1e-12 if layout.model_type == "distilbert" else float(config.get("layer_norm_eps", 1e-12)),
        hidden_act=activation,
    )


def _names(layout: Layout, head: Head, dimensions: Dimensions, tensors: Mapping[str, Any]) -> dict[str, str]:
    """Map our tensor names to the checkpoint's."""
    embeddings = f"{layout.prefix}embeddings."
    names = {
        "word.weight": f"{embeddings}word_embeddings.weight",
        "position.weight": f"{embeddings}position_embeddings.weight",
    }
    if layout.token_types:
        names["type.weight"] = f"{embeddings}token_type_embeddings.weight"
    parts = {"embedding_norm": f"{embeddings}LayerNorm"}
    if dimensions.embedding != dimensions.hidden:
        parts["project"] = f"{layout.prefix}embeddings_project"
    for number in range(dimensions.layers):
        for ours, theirs in layout.layer.items():
            parts[f"layer.{number}.{ours}"] = f"{layout.prefix}{layout.layers}{number}.{theirs}"
    for number, linear in enumerate(HEAD_LAYERS[head].linears):
        parts[f"head.{number}"] = linear
    for ours, theirs in parts.items():
        names |= {f"{ours}.weight": f"{theirs}.weight", f"{ours}.bias": f"{theirs}.bias"}
    return names


def _check_tensors(
    path: Path,
    config: Mapping[str, Any],
    head: Head,
    dimensions: Dimensions,
    names: Mapping[str, str],
    tensors: Mapping[str, Any],
) -> int:
    """Raise CheckpointError unless every needed tensor is there in its shape; return the number of labels."""
    missing = [theirs for theirs in names.values() if theirs not in tensors]
    if missing:
        raise CheckpointError(f"{path}: {len(missing)} needed tensor(s) missing: {_some(missing)}")
    last = len(HEAD_LAYERS[head].linears) - 1
    labels = int(tensors[names[f"head.{last}.weight"]].shape[0])
    hidden, wide = dimensions.hidden, dimensions.intermediate
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        part, kind = name.rsplit(".", 1)
        role = part.rsplit(".", 1)[-1]
        if part in ("word", "position"):
            continue  # these gave the dimensions
        if part == "type":
            shapes[name] = (tensors[names[name]].shape[0], dimensions.embedding)
        elif part == "embedding_norm":
            shapes[name] = (dimensions.embedding,)
        elif part == "project":
            shapes[name] = (hidden, dimensions.embedding) if kind == "weight" else (hidden,)
        elif role.endswith("norm"):
            shapes[name] = (hidden,)
        elif part == f"head.{last}":
            shapes[name] = (labels, hidden) if kind == "weight" else (labels,)
        elif role == "intermediate":
            shapes[name] = (wide, hidden) if kind == "weight" else (wide,)
        elif role == "output":
            shapes[name] = (hidden, wide) if kind == "weight" else (hidden,)
        else:
            shapes[name] = (hidden, hidden) if kind == "weight" else (hidden,)
    misshapen = [
        f"{names[name]} is {list(tensors[names[name]].shape)}, expected {list(shape)}"
        for name, shape in shapes.items()
        if tuple(tensors[names[name]].shape) != shape
    ]
    if misshapen:
        raise CheckpointError(f"{path}: {len(misshapen)} tensor(s) do not fit config.json: {_some(misshapen)}")
    declared = config.get("num_labels") or (len(config["id2label"]) if config.get("id2label") else None)
    if head is not Head.BERT_CAT and declared is not None and declared != labels:
        raise CheckpointError(f"{path}: config.json declares {declared} labels, the head has {labels}")
    return labels


def _some(names: list[str]) -> str:
    return "; ".join(names[:5]) + (f"; and {len(names) - 5} more" if len(names) > 5 else "")
