"""`Disentangled`: settings of DeBERTa's disentangled attention (He et al. 2020, arXiv:2006.03654; v3: 2021, arXiv:2111.09543)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...engine.errors import CheckpointError
from .files import shown, whole_number

TERMS = ("c2p", "p2c")
NO_CONVOLUTION = (
    "the model has a convolution beside its first layer, as deberta-v2-xlarge and deberta-v2-xxlarge have it, which crossrt does "
    "not compute; DeBERTa-v3 and the smaller DeBERTa-v2 are supported"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disentangled:
    """The settings of config.json on positions, for DeBERTa-v2 and v3.

    - `relative`: attention uses relative positions, which have 2 * `span` embeddings.
    - `c2p`, `p2c`: the attention scores have the content-to-position term, or the position-to-content term.
    - `buckets`: if above 0, distances beyond `buckets` / 2 share embeddings, on a logarithmic scale up to `max_distance`.
    - `shared`: the relative embeddings are projected by the layers' own query and key weights.
    - `normed`: the relative embeddings go through LayerNorm first.
    - `absolute`: embeddings of absolute positions are added to the word embeddings.
    - `token_types`: embeddings of token types are added to the word embeddings.
    - `positions`: config.json's `max_position_embeddings`.
    """

    relative: bool
    c2p: bool
    p2c: bool
    buckets: int
    max_distance: int
    shared: bool
    normed: bool
    absolute: bool
    token_types: bool
    positions: int

    @classmethod
    def read(cls, path: Path, config: Mapping[str, Any]) -> "Disentangled":
        """Read the settings, with transformers' defaults. Raises CheckpointError for values that transformers does not accept,
        and for a model that crossrt does not support."""
        file = path / "config.json"
        if whole_number(file, config, "conv_kernel_size", minimum=0, default=0):
            raise CheckpointError(f"{file}: conv_kernel_size is {config['conv_kernel_size']}: {NO_CONVOLUTION}")
        _check_only(file, config, "pooler_hidden_act", "gelu")
        _check_only(file, config, "pooler_hidden_size", config.get("hidden_size"))
        _check_only(file, config, "attention_head_size", _head_size(config))
        terms = _terms(file, config)
        positions = whole_number(file, config, "max_position_embeddings", minimum=1, default=512)
        max_distance = whole_number(file, config, "max_relative_positions", minimum=-(2**31), default=-1)
        buckets = max(0, whole_number(file, config, "position_buckets", minimum=-(2**31), default=-1))
        relative = _flag(file, config, "relative_attention", default=False)
        max_distance = max_distance if max_distance >= 1 else positions
        if relative and buckets and (buckets < 2 or max_distance - 1 <= buckets // 2 < positions - 1):
            raise CheckpointError(
                f"{file}: position_buckets is {buckets}, with distances up to {max_distance}; a number from 2 is expected, less "
                "than twice the largest distance"
            )
        return cls(
            relative=relative,
            c2p="c2p" in terms,
            p2c="p2c" in terms,
            buckets=buckets,
            max_distance=max_distance,
            shared=_flag(file, config, "share_att_key", default=False),
            normed=_is_normed(file, config),
            absolute=_flag(file, config, "position_biased_input", default=True),
            token_types=whole_number(file, config, "type_vocab_size", minimum=0, default=0) > 0,
            positions=positions,
        )

    @property
    def span(self) -> int:
        """Half the number of relative-position embeddings."""
        return self.buckets or self.max_distance

    @property
    def scale(self) -> float:
        """The divisor of the attention scores, as a multiple of the square root of the head size."""
        return float(np.sqrt(1 + self.c2p + self.p2c))

    def rows(self, distances: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the row of the relative embeddings for each distance (query position - key position).

        The computation uses PyTorch in FP32, as in transformers, because NumPy may round a logarithm to the other side of an
        integer.
        """
        import torch

        values = torch.from_numpy(distances)
        if self.buckets:
            middle = self.buckets // 2
            away = torch.where(values.abs() < middle, torch.tensor(middle - 1), values.abs())
            last = torch.log(torch.tensor((self.max_distance - 1) / middle))
            logarithmic = torch.ceil(torch.log(away / middle) / last * (middle - 1)) + middle
            values = torch.where(away <= middle, values.float(), logarithmic * torch.sign(values)).long()
        rows: npt.NDArray[np.int64] = torch.clamp(values + self.span, 0, 2 * self.span - 1).numpy()
        return rows


def _head_size(config: Mapping[str, Any]) -> int | None:
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    return hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads > 0 else None


def _check_only(file: Path, config: Mapping[str, Any], key: str, expected: Any) -> None:
    found = config.get(key)
    if found is not None and expected is not None and found != expected:
        raise CheckpointError(f"{file}: {key} is {shown(found)}; only {expected} is supported")


def _flag(file: Path, config: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise CheckpointError(f"{file}: {key} is {shown(value)}; true or false is expected")
    return value


def _terms(file: Path, config: Mapping[str, Any]) -> list[str]:
    """Return the parts of `pos_att_type`, which is a list or a string such as "p2c|c2p"."""
    value = config.get("pos_att_type")
    terms = [] if value is None else value
    if isinstance(terms, str):
        terms = [term.strip() for term in terms.lower().split("|")]
    if not isinstance(terms, list) or any(term not in TERMS for term in terms):
        raise CheckpointError(f"{file}: pos_att_type is {shown(value)}; c2p and p2c are supported")
    return terms


def _is_normed(file: Path, config: Mapping[str, Any]) -> bool:
    value = config.get("norm_rel_ebd", "none")
    parts = {part.strip() for part in value.lower().split("|")} if isinstance(value, str) else {None}
    if not parts <= {"none", "layer_norm"}:
        raise CheckpointError(f"{file}: norm_rel_ebd is {shown(value)}; none and layer_norm are supported")
    return "layer_norm" in parts
