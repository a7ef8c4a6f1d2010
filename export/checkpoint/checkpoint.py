"""`Checkpoint`: a published PyTorch cross-encoder, read and checked tensor by tensor."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from ...engine.errors import CheckpointError
from ...engine.labels import label_number, margin, need_label, relevant_by_name
from ...engine.text.encoded_pairs import TruncationSide
from .adapter import Merged, is_adapter, merged
from .dimensions import Dimensions, dimensions_of, pad_token_id_of
from .files import (
    check_activation,
    check_name,
    default_activation,
    label_names,
    max_length_of,
    read_json,
    truncation_side,
)
from .heads import DENSE_HEADS, DENSE_NORM_EPSILON, HEAD_LAYERS, Head, Layout, head_of
from .modernbert import ModernBertDimensions, modernbert_dimensions
from .modules import dense_head_of
from .settings import Settings
from .tensor_names import check_tensors, tensor_names
from .unsupported import naming_alternatives, resembles_supported, unsupported_error
from .weights import BUFFERS, check_not_quantized, read_tensors, unwrapped

LABELS = ("num_labels", "id2label", "label2id")
"""Fields of config.json about the labels of the model's own head. They are ignored if Dense modules replace that head."""

CUSTOM_CODE = (
    "config.json names code of the publisher (auto_map), which crossrt never runs: the model is computed as transformers "
    "computes the architecture that the tensors are named like. Compare some scores with the publisher's"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A cross-encoder on disk. Every needed tensor is present and has the right shape.

    `tensor` reads weights on demand, under crossrt's names: `word`, `position`, `type`, `embedding_norm`, `project`, `relative`,
    `layer.3.query`, ... and `head.0`, `head.norm`, `head.1`. It checks that they are finite.

    - `unused_tensors`: names of tensors that no part of the model uses.
    - `wrapped`: whether prefixes and parts of PyTorch's wrappers were removed from the tensor names of the file.
    - `relevant_label`: the label to rank by; None if there are more than two labels and none was chosen.
    - `chosen_activation`: the caller's choice of `activation`; None if the caller chose none.
    - `token_types`: whether the model has several token types and its tokenizer returns them (`export_bundle` checks the
      tokenizer). Otherwise every token has type 0.
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
    unused_tensors: tuple[str, ...]
    wrapped: bool
    settings: Settings
    token_types: bool
    _names: Mapping[str, str]
    _tensors: Mapping[str, Any]
    _merged: Merged | None

    @classmethod
    def read(
        cls, path: Path, *, activation: str | None = None, hub: Mapping[str, Any] = MappingProxyType({})
    ) -> "Checkpoint":
        """Read a directory in the hub's layout. `activation` overrides the activation that the checkpoint's files name.

        A LoRA adapter is merged first, and `path` is then a temporary directory that lives as long as the checkpoint. Its base
        model may be on the hub; `hub` are options of `fetched_checkpoint`, such as `token` and `local_files_only`. Raises
        CheckpointError for anything except a complete cross-encoder. The message says what was found, what was expected, and what
        else may run it.
        """
        check_name(path)
        if not path.exists():
            raise CheckpointError(f"there is no directory {path}")
        if not path.is_dir():
            raise CheckpointError(
                f"{path} is a file; give the directory that holds the weights, config.json and the tokenizer"
            )
        of_adapter = merged(path, hub) if is_adapter(path) else None
        if of_adapter is not None:
            path = of_adapter.directory
        config = read_json(path / "config.json")
        stored = read_tensors(path)
        with naming_alternatives(path, config, stored):
            return cls._of(path, config, stored, activation, of_adapter)

    @classmethod
    def _of(
        cls,
        path: Path,
        config: Mapping[str, Any],
        stored: Mapping[str, Any],
        activation: str | None,
        of_adapter: Merged | None,
    ) -> "Checkpoint":
        """Make a checkpoint from config.json and the tensors as stored."""
        tensors = unwrapped(stored, path)
        check_not_quantized(path, config, tensors)
        wrapped = tensors.keys() != stored.keys()
        dense = dense_head_of(path, config, tensors)
        if dense is not None:
            layout, head, tensors = dense.layout, dense.head, dict(dense.tensors)
            config = {name: value for name, value in config.items() if name not in LABELS}
        elif (found := head_of(tensors)) is not None and not resembles_supported(path, config, tensors):
            layout, head = found
        else:
            raise unsupported_error(path, config, tensors)
        pad_token_id = pad_token_id_of(path, config, layout)
        if layout.encoder == "modernbert":
            dimensions: Dimensions = modernbert_dimensions(path, config, layout, tensors)
        else:
            dimensions = dimensions_of(path, config, layout, head, tensors, pad_token_id)
        if dense is not None:
            dimensions = replace(dimensions, pooling=dense.pooling)
        names = tensor_names(layout, head, dimensions, tensors)
        labels = check_tensors(path, config, layout, head, dimensions, names, tensors)
        check_activation(activation, labels)
        used = set(names.values())
        unused_tensors = tuple(name for name in tensors if name not in used and not name.endswith(BUFFERS))
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
            max_length=max_length_of(
                path / "tokenizer_config.json", tokenizer_config, dimensions.positions, saved=settings.max_length
            ),
            truncation_side=truncation_side(path, tokenizer_config),
            pad_token_id=pad_token_id,
            unused_tensors=unused_tensors,
            wrapped=wrapped,
            settings=settings,
            token_types="type.weight" in names and len(tensors[names["type.weight"]]) > 1,
            _names=names,
            _tensors=tensors,
            _merged=of_adapter,
        )

    @property
    def architecture(self) -> dict[str, Any]:
        """The manifest's `architecture`, with the model's kind and sizes."""
        return {
            "model_type": self.config.get("model_type") or self.layout.model_type,
            "head": self.head.value,
            "layers": self.dimensions.layers,
            "hidden_size": self.dimensions.hidden,
            "attention_heads": self.dimensions.heads,
            "intermediate_size": self.dimensions.intermediate,
            "vocab_size": self.dimensions.vocab,
            "token_types": int(self._tensors[self._names["type.weight"]].shape[0]) if self.token_types else 0,
            **self.dimensions.described,
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        """Tensors and settings of the files that are not used but may matter, in words."""
        unused = (
            (f"tensors that the model does not use: {', '.join(self.unused_tensors)}",) if self.unused_tensors else ()
        )
        code = (CUSTOM_CODE,) if self.config.get("auto_map") else ()
        left = self._merged.warnings if self._merged is not None else ()
        return (*unused, *code, *left, *self.settings.warnings)

    def with_relevant_label(self, choice: int | str | None) -> "Checkpoint":
        """Return the checkpoint with this label, given by index or name, as the relevant one. For None, return it unchanged.

        Raises OptionError for a label that the model does not have.
        """
        if choice is None:
            return self
        return replace(self, relevant_label=label_number(choice, self.label_names, self.labels))

    def relevance(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the scores by which to rank, float32 [n], from logits [n, labels]; see `margin`.

        Raises OptionError for more than two labels if none of them was chosen.
        """
        return margin(logits, need_label(self.relevant_label, self.label_names, self.labels))

    @property
    def positions_pass_over_padding(self) -> bool:
        """Whether positions count only tokens that are not padding, from the padding id + 1, as in RoBERTa. Padding has its id as
        position."""
        return self.layout.positions_pass_over_padding

    @property
    def head_activation(self) -> str | None:
        """The activation between the linear layers of the head; None for a head with one layer."""
        if self.head is Head.MODERNBERT and isinstance(self.dimensions, ModernBertDimensions):
            return self.dimensions.head_act
        return HEAD_LAYERS[self.head].activation

    @property
    def head_norm_eps(self) -> float:
        """The epsilon of the head's LayerNorm, if it has one."""
        return DENSE_NORM_EPSILON if self.dense_modules else self.dimensions.norm_eps

    @property
    def dense_modules(self) -> bool:
        """Whether the head consists of Dense modules of sentence-transformers, stored beside the transformers model."""
        return self.head in DENSE_HEADS

    def has(self, name: str) -> bool:
        """Tell whether the model has the optional part `name`."""
        return f"{name}.weight" in self._names

    def has_bias(self, name: str) -> bool:
        """Tell whether the part `name` has a bias. The model must have the part."""
        return f"{name}.bias" in self._names

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """Return one tensor, such as `layer.0.query.weight`, as float32, whatever its stored dtype is.

        Raises CheckpointError, naming the tensor, when it contains NaN or Inf.
        """
        original = self._names[name]
        values: npt.NDArray[np.float32] = self._tensors[original].float().numpy()
        if not np.isfinite(values).all():
            raise CheckpointError(f"{self.path}: the tensor {original} holds NaN or Inf; the training went wrong")
        place, parts = self.layout.fused_parts.get(name.split(".")[-2], (0, 1))
        shared: npt.NDArray[np.float32] = np.split(values, parts)[place]
        return shared

    def check_finite(self) -> None:
        """Read every tensor that the model uses. Raises CheckpointError, naming the first that contains NaN or Inf."""
        for name in self._names:
            self.tensor(name)

    def module_of(self, part: str, modules: Mapping[str, Any]) -> Any:
        """Return the module of `part`, such as `layer.0.query`, from the named `modules` of the reference's model."""
        name = self._names[f"{part}.weight"].removesuffix(".weight")
        candidates = (f"model.{name}", f"trunk.{name.removeprefix(self.layout.prefix)}")
        return next(modules[candidate] for candidate in candidates if candidate in modules)

    def original_tensors(self) -> dict[str, Any]:
        """Return all tensors as stored, under the checkpoint's names without the prefixes and parts of PyTorch's wrappers."""
        return dict(self._tensors)
