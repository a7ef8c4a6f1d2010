"""`Checkpoint`: a PyTorch cross-encoder as published, read and checked tensor by tensor."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...engine.errors import CheckpointError, OptionError
from ...engine.labels import label_number, margin, need_label, relevant_by_name
from ...engine.text.encoded_pairs import TruncationSide
from .files import (
    EXPECTED,
    check_no_pointer,
    default_activation,
    first_line,
    label_names,
    longest,
    read_json,
    shown,
    truncation_side,
    whole_number,
)
from .heads import HEAD_LAYERS, Head, Layout, head_of
from .settings import Settings

# Buffers that old versions of transformers saved: they hold 0, 1, 2, ... and no weights.
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")

SAFE_TORCH = "2.10"
"""The first PyTorch whose `torch.load(weights_only=True)` runs no code of a pickle, as far as is known: 2.6 mended
CVE-2025-32434, and 2.10 CVE-2026-24747."""


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
    `layer.3.query`, ... and `head.0`, `head.1`. `leftover` names tensors that no part of the model uses. `wrapped` tells
    that all names in the file begin with what a wrapper of PyTorch put there, which was taken off.
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
    truncation_side: TruncationSide
    pad_token_id: int
    leftover: tuple[str, ...]
    wrapped: bool
    settings: Settings
    token_types: bool
    _names: Mapping[str, str]
    _tensors: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path, *, activation: str | None = None) -> "Checkpoint":
        """Read a directory in the hub's layout. `activation` overrides what the checkpoint asks for.

        Raises CheckpointError, saying what was found and what was expected, for anything but a whole cross-encoder.
        """
        if not path.exists():
            raise CheckpointError(f"there is no directory {path}")
        if not path.is_dir():
            raise CheckpointError(
                f"{path} is a file; give the directory that holds the weights, config.json and the tokenizer"
            )
        config = read_json(path / "config.json")
        stored = _read_tensors(path)
        tensors = _unwrapped(stored)
        _check_not_quantised(path, config, tensors)
        found = head_of(tensors)
        if found is None:
            raise CheckpointError(_not_a_cross_encoder(path, config, tensors))
        layout, head = found
        pad_token_id = _pad_token_id(path, config, layout)
        dimensions = _dimensions(path, config, layout, head, tensors, pad_token_id)
        names = _names(layout, head, dimensions, tensors)
        labels = _check_tensors(path, config, head, dimensions, names, tensors)
        if activation == "softmax" and labels == 1:
            raise OptionError("softmax over one label is 1 for every pair: choose identity, sigmoid or tanh")
        used = set(names.values())
        leftover = tuple(name for name in tensors if name not in used and not name.endswith(_BUFFERS))
        tokenizer_config = read_json(path / "tokenizer_config.json", missing={})
        settings = Settings.read(path)
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
            max_length=min(settings.max_length, dimensions.positions)
            if settings.max_length
            else longest(path / "tokenizer_config.json", tokenizer_config, dimensions.positions),
            truncation_side=truncation_side(path, tokenizer_config),
            pad_token_id=pad_token_id,
            leftover=leftover,
            wrapped=tensors.keys() != stored.keys(),
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

    def check_finite(self) -> None:
        """Read every tensor that the model uses. Raises CheckpointError, naming the first that holds NaN or Inf."""
        for name in self._names:
            self.tensor(name)

    def original_tensors(self) -> dict[str, Any]:
        """Return all tensors under the checkpoint's own names, as stored, without the prefixes of PyTorch's wrappers."""
        return dict(self._tensors)


def _read_tensors(path: Path) -> dict[str, Any]:
    safetensors_file, torch_file = path / "model.safetensors", path / "pytorch_model.bin"
    for index in (path / f"{one.name}.index.json" for one in (safetensors_file, torch_file)):
        if index.is_file() and not safetensors_file.is_file() and not torch_file.is_file():
            raise CheckpointError(
                f"{path} holds sharded weights ({index.name}); save them as one model.safetensors first, with "
                "save_pretrained(DIRECTORY, max_shard_size='100GB')"
            )
    file = safetensors_file if safetensors_file.is_file() else torch_file
    if not file.is_file():
        held = ", ".join(sorted(entry.name for entry in path.iterdir())[:12]) or "nothing"
        raise CheckpointError(f"{path} has neither model.safetensors nor pytorch_model.bin; it holds {held}")
    try:
        with file.open("rb") as opened:
            beginning = opened.read(24)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror})") from error
    check_no_pointer(file, beginning)
    if file is torch_file:
        _check_torch_is_safe(file)
    try:
        if file is safetensors_file:
            from safetensors.torch import load_file

            tensors: Any = load_file(file)
        else:
            import torch

            # weights_only: no code in the pickle is run. mmap: pages are read when a tensor is.
            tensors = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors and torch raise their own kinds, down to UnpicklingError and EOFError
        raise CheckpointError(_unreadable(file, error)) from error
    _check_state_dict(file, tensors)
    # TensorFlow's names of LayerNorm's parameters, in checkpoints from 2019.
    renames = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    for old, new in renames.items():
        tensors = {name.replace(old, new): value for name, value in tensors.items()}
    return dict(tensors)


def _check_torch_is_safe(file: Path) -> None:
    """Raise CheckpointError for a PyTorch in which reading a pickle can run code in it, whatever `weights_only` says."""
    import torch

    if torch.__version__ < SAFE_TORCH:  # as versions: it is a TorchVersion
        raise CheckpointError(
            f"{file} is a pickle, and PyTorch {torch.__version__} can be made to run code by reading one (CVE-2025-32434, "
            f"CVE-2026-24747): install torch {SAFE_TORCH} or later, or convert the weights to "
            "model.safetensors"
        )


def _unreadable(file: Path, error: Exception) -> str:
    # What torch says of a class that `weights_only` does not let in.
    foreign = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
    if foreign is not None:
        return (
            f"{file} is a pickled object of the class {foreign[1]}, not a dictionary of tensors, and reading it would run "
            "its code. Save the weights where the model was trained: model.save_pretrained(DIRECTORY)"
        )
    return (
        f"{file} ({file.stat().st_size:,} bytes) cannot be read as weights ({first_line(error)}); it may be truncated: "
        "fetch it again"
    )


def _check_state_dict(file: Path, tensors: Any) -> None:
    """Raise CheckpointError for anything but tensors by their names."""
    import torch

    if isinstance(tensors, dict) and all(isinstance(name, str) for name in tensors):
        others = [name for name, value in tensors.items() if not isinstance(value, torch.Tensor)]
        if not others:
            return
        found = f"a dictionary in which {_some([shown(name) for name in others])} hold no tensors"
    else:
        found = f"a {type(tensors).__name__}"
    raise CheckpointError(
        f"{file} holds {found}, not a dictionary of tensors; save model.state_dict(), or save_pretrained()"
    )


def _unwrapped(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors without what DataParallel and torch.compile put before every name."""
    for wrapper in ("module.", "_orig_mod.") * 2:
        if tensors and all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    return dict(tensors)


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
    """Whether a weight has 8 bits or is no number with a fraction: FP8 goes with scales that are not looked at here."""
    small = value.is_floating_point() and value.element_size() == 1
    return value.ndim > 1 and (small or not value.is_floating_point()) and not name.endswith(_BUFFERS)


def _not_a_cross_encoder(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> str:
    architectures = config.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else "?"
    found = f"{architecture} (model_type {shown(config.get('model_type', '?'))}, {len(tensors)} tensors)"
    modules = _modules(path)
    if "score.weight" in tensors:
        kind = (
            "has a head named score (score.weight), as decoders that rerank have it, such as those of Qwen, Llama and "
            "Gemma; crossrt exports encoders"
        )
    elif architecture.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        kind = "is a generative model"
    elif "Dense" in modules:
        kind = (
            f"is made of sentence-transformers' modules {', '.join(modules)} (modules.json): a bi-encoder, or a cross-encoder "
            "whose head is a Dense module. crossrt reads a head that is part of the transformers model"
        )
    elif any(name.startswith(("module.", "_orig_mod.")) for name in tensors):
        kind = "has some names that begin with the module. of DataParallel and others that do not; save model.module.state_dict()"
    elif modules or architecture.endswith("Model"):
        kind = "is a bi-encoder or a bare trunk: it has no classification head, and a random one gives plausible scores"
    elif not any("classif" in name for name in tensors):
        kind = "has no classification head, and a random one gives plausible scores"
    else:
        kind = "is of an architecture that crossrt does not know"
    sample = ", ".join(list(tensors)[:3]) or "none at all"
    return f"{path} {kind}\n  found     {found}, such as {sample}\n  {EXPECTED}"


def _modules(path: Path) -> list[str]:
    """The kinds of sentence-transformers' modules that a checkpoint is made of, such as Transformer, Pooling, Dense."""
    try:
        modules = json.loads((path / "modules.json").read_text(encoding="utf-8"))
        return [str(module["type"]).rpartition(".")[2] for module in modules]
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return []


def _pad_token_id(path: Path, config: Mapping[str, Any], layout: Layout) -> int:
    """The padding token. RoBERTa counts positions from it; for others any id will do, since padding is masked."""
    if layout.prefix == "roberta.":
        return whole_number(path / "config.json", config, "pad_token_id", least=0, default=1)
    return max(0, whole_number(path / "config.json", config, "pad_token_id", least=-(2**31), default=0))


def _table(path: Path, tensors: Mapping[str, Any], name: str) -> tuple[int, int]:
    """Return rows and width of an embedding table. Raises CheckpointError where it is missing or no table."""
    if name not in tensors:
        raise CheckpointError(f"{path}: the tensor {name!r} is missing")
    shape = tuple(tensors[name].shape)
    if len(shape) != 2 or 0 in shape:
        raise CheckpointError(f"{path}: {name} is {list(shape)}, expected a table of rows and columns")
    return shape


def _dimensions(
    path: Path,
    config: Mapping[str, Any],
    layout: Layout,
    head: Head,
    tensors: Mapping[str, Any],
    pad_token_id: int,
) -> Dimensions:
    file, embeddings = path / "config.json", f"{layout.prefix}embeddings."
    vocab, embedding = _table(path, tensors, f"{embeddings}word_embeddings.weight")
    positions, _ = _table(path, tensors, f"{embeddings}position_embeddings.weight")
    numbered = re.compile(re.escape(layout.prefix + layout.layers) + r"(\d{1,6})\.")
    layers = max((int(found[1]) + 1 for found in map(numbered.match, tensors) if found), default=0)
    if head is Head.BERT_CAT and "dim" not in config:
        # Its config names distilbert-base-uncased instead of giving dimensions: 12 heads of 64, GELU, eps 1e-12.
        if embedding != 768:
            raise CheckpointError(
                f"{path}: config.json gives no dimensions, and a width of {embedding} is not that of "
                "distilbert-base-uncased (768), so the number of attention heads is unknown; add n_heads, dim, "
                "n_layers and hidden_dim to config.json"
            )
        sizes = {"layers": layers, "hidden": 768, "heads": 12, "intermediate": 3072}
    else:
        missing = [key for key in layout.dimensions.values() if config.get(key) is None]
        if missing:
            raise CheckpointError(f"{file} does not give {', '.join(missing)}; it cannot be guessed from weights")
        sizes = {ours: whole_number(file, config, theirs, least=1) for ours, theirs in layout.dimensions.items()}
    if not 1 <= sizes["layers"] <= layers:
        raise CheckpointError(f"{path}: config.json says {sizes['layers']} layers, and the weights have {layers}")
    if sizes["hidden"] % sizes["heads"]:
        raise CheckpointError(f"{path}: hidden size {sizes['hidden']} is not a multiple of {sizes['heads']} heads")
    activation = config.get("activation" if layout.model_type == "distilbert" else "hidden_act", "gelu")
    if activation not in ("gelu", "relu", "gelu_new", "gelu_pytorch_tanh"):
        raise CheckpointError(
            f"{path}: hidden activation {shown(activation)} is not supported; gelu, gelu_new and relu are"
        )
    if layout.prefix == "roberta.":  # see positions_pass_over_padding
        positions -= pad_token_id + 1
    if positions < 1:
        raise CheckpointError(f"{path}: no position embeddings are left after those up to pad_token_id {pad_token_id}")
    epsilon = config.get("layer_norm_eps", 1e-12)
    if not isinstance(epsilon, (int, float)) or isinstance(epsilon, bool) or not 0 <= epsilon < 1:
        raise CheckpointError(
            f"{file}: layer_norm_eps is {shown(epsilon)}; a number from 0 to 1, such as 1e-12, is expected"
        )
    return Dimensions(
        **sizes,
        vocab=vocab,
        positions=positions,
        embedding=embedding,
        norm_eps=1e-12 if layout.model_type == "distilbert" else float(epsilon),  # DistilBERT has no setting for it
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
    if dimensions.embedding != dimensions.hidden and layout.prefix == "electra.":
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
    unusable = [
        f"{theirs} has no values (device meta)" if tensors[theirs].is_meta else f"{theirs} is {tensors[theirs].dtype}"
        for theirs in names.values()
        if tensors[theirs].is_meta or not tensors[theirs].is_floating_point()
    ]
    if unusable:
        raise CheckpointError(
            f"{path}: {len(unusable)} tensor(s) hold no weights: {_some(unusable)}; save the model again"
        )
    last = len(HEAD_LAYERS[head].linears) - 1
    labels, _ = _table(path, tensors, names[f"head.{last}.weight"])
    hidden, wide = dimensions.hidden, dimensions.intermediate
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        part, kind = name.rsplit(".", 1)
        role = part.rsplit(".", 1)[-1]
        if part in ("word", "position", "type"):
            shapes[name] = (_table(path, tensors, names[name])[0], dimensions.embedding)
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
    declared = declared_labels(path, config)
    if head is not Head.BERT_CAT and declared is not None and declared != labels:
        raise CheckpointError(f"{path}: config.json declares {declared} labels, the head has {labels}")
    return labels


def declared_labels(path: Path, config: Mapping[str, Any]) -> int | None:
    """Return how many labels config.json says that there are; None where it says nothing."""
    names = config.get("id2label")
    if names is not None and not isinstance(names, dict):
        raise CheckpointError(f"{path}/config.json: id2label is {shown(names)}; names by label number are expected")
    number = whole_number(path / "config.json", config, "num_labels", least=0, default=0)
    return number or (len(names) if names else None)


def _some(names: list[str]) -> str:
    return "; ".join(names[:5]) + (f"; and {len(names) - 5} more" if len(names) > 5 else "")
