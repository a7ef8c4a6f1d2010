"""The settings and tensors of ModernBERT cross-encoders (Warner et al. 2024, arXiv:2412.13663).

Sizes and settings come from config.json, in the form of transformers 4.48 to 4.57 (`global_attn_every_n_layers`,
`global_rope_theta`, `local_rope_theta`) or of transformers 5 (`layer_types`, `rope_parameters`). If both are present, the newer
form takes precedence, as in transformers 5.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...engine.errors import CheckpointError
from .dimensions import ACTIVATIONS, Dimensions, epsilon_of, table_shape
from .files import shown, whole_number
from .heads import Layout

FULL, SLIDING = "full_attention", "sliding_attention"
THETAS = {FULL: ("global_rope_theta", 160_000.0), SLIDING: ("local_rope_theta", 10_000.0)}
"""The key of transformers 4 for the base of the rotary frequencies of each kind of attention, and its default."""
POOLINGS = ("cls", "mean")
HIDDEN_ACTIVATIONS = (*ACTIVATIONS, "silu")
HEAD_ACTIVATIONS = (*HIDDEN_ACTIVATIONS, "tanh")
BIASES = {"norm_bias": False, "attention_bias": False, "mlp_bias": False, "classifier_bias": False}
"""Settings that say which parts have a bias, with their defaults. The last linear layer of the head always has one."""
MAX_POSITIONS = 1 << 16
"""Maximum number of positions. The graph stores sines and cosines of all positions. For 65,536 positions and heads of 64 channels
they take 32 MiB per kind of attention."""
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModernBertDimensions(Dimensions):
    """Sizes and settings of a ModernBERT.

    `layer_types` says for each layer whether it attends to all tokens (`full_attention`) or to tokens at most `window` positions
    away (`sliding_attention`). `thetas` has the base of the rotary frequencies of both kinds. `head_act` is the activation of
    the model's own head. `biased` contains the settings of `BIASES` that are true.
    """

    layer_types: tuple[str, ...]
    window: int
    thetas: Mapping[str, float]
    head_act: str
    biased: frozenset[str]

    @property
    def head_without_bias(self) -> frozenset[str]:
        """The parts of the model's own head that have no bias. Its last linear layer always has one."""
        settings = {"head.0": "classifier_bias", "head.norm": "norm_bias"}
        return frozenset(part for part, setting in settings.items() if setting not in self.biased)

    @property
    def described(self) -> dict[str, Any]:
        """The entries of the manifest's `architecture` in addition to the sizes."""
        return {
            "pooling": self.pooling,
            "full_attention_layers": [number for number, kind in enumerate(self.layer_types) if kind == FULL],
            "sliding_window": self.window,
        }


def modernbert_dimensions(
    path: Path, config: Mapping[str, Any], layout: Layout, tensors: Mapping[str, Any]
) -> ModernBertDimensions:
    """Read sizes and settings. Raises CheckpointError, naming the setting and the allowed values, if one is not supported."""
    file = path / "config.json"
    vocab, _ = table_shape(path, tensors, f"{layout.prefix}embeddings.tok_embeddings.weight")
    sizes = {ours: whole_number(file, config, theirs, minimum=1) for ours, theirs in layout.dimension_keys.items()}
    numbered = re.compile(re.escape(layout.prefix + layout.layer_prefix) + r"(\d{1,6})\.")
    layers = max((int(found[1]) + 1 for found in map(numbered.match, tensors) if found), default=0)
    if sizes["layers"] > layers:
        raise CheckpointError(f"{path}: config.json says {sizes['layers']} layers, and the weights have {layers}")
    if sizes["hidden"] % (2 * sizes["heads"]):
        raise CheckpointError(
            f"{path}: hidden size {sizes['hidden']} gives {sizes['heads']} heads no even number of channels, and rotary "
            "positions turn channels in pairs"
        )
    positions = whole_number(file, config, "max_position_embeddings", minimum=1)
    if positions > MAX_POSITIONS:
        raise CheckpointError(f"{file}: max_position_embeddings is {positions}; at most {MAX_POSITIONS} are supported")
    return ModernBertDimensions(
        **sizes,
        disentangled=None,
        vocab=vocab,
        embedding=sizes["hidden"],
        positions=positions,
        norm_eps=epsilon_of(file, config, "norm_eps", default=1e-5),
        hidden_act=_choice(file, config, "hidden_activation", HIDDEN_ACTIVATIONS, default="gelu"),
        head_act=_choice(file, config, "classifier_activation", HEAD_ACTIVATIONS, default="gelu"),
        pooling=_choice(file, config, "classifier_pooling", POOLINGS, default="cls"),
        layer_types=_layer_types(file, config, sizes["layers"]),
        # No two tokens are further apart than that.
        window=min(whole_number(file, config, "local_attention", minimum=1, default=128) // 2, positions),
        thetas=_thetas(file, config),
        biased=frozenset(name for name, default in BIASES.items() if _flag(file, config, name, default=default)),
    )


def modernbert_tensor_names(layout: Layout, dimensions: ModernBertDimensions) -> dict[str, str]:
    """Return a mapping from crossrt's tensor names of the trunk to the checkpoint's. A bias that does not exist has no entry."""
    parts = {"embedding_norm": f"{layout.prefix}embeddings.norm", "final_norm": f"{layout.prefix}final_norm"}
    for number in range(dimensions.layers):
        for ours, theirs in layout.layer_parts.items():
            if (number, ours) != (0, "attention_norm"):  # the embeddings are already normalized
                parts[f"layer.{number}.{ours}"] = f"{layout.prefix}{layout.layer_prefix}{number}.{theirs}"
    names = {"word.weight": f"{layout.prefix}embeddings.tok_embeddings.weight"}
    for ours, theirs in parts.items():
        names[f"{ours}.weight"] = f"{theirs}.weight"
        if _bias_setting(ours) in dimensions.biased:
            names[f"{ours}.bias"] = f"{theirs}.bias"
    return names


def rotary_tables(theta: float, channels: int, positions: int) -> tuple[Floats, Floats]:
    """Return cosines and sines of all positions, float32 [positions, channels / 2].

    Angles are rounded to FP32 as in transformers. At position 8,000 the error of an angle is up to 2.4e-4. Models were trained
    with this error.
    """
    import torch

    frequencies = 1.0 / (theta ** (torch.arange(0, channels, 2, dtype=torch.float) / channels))
    angles = (torch.arange(positions, dtype=torch.float)[:, None] * frequencies).double().numpy()
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _bias_setting(part: str) -> str:
    """Return the setting that says whether a part of the trunk has a bias."""
    role = part.rpartition(".")[2]
    if role.endswith("norm"):
        return "norm_bias"
    return "mlp_bias" if role in ("intermediate", "output") else "attention_bias"


def _layer_types(file: Path, config: Mapping[str, Any], layers: int) -> tuple[str, ...]:
    listed = config.get("layer_types")
    if listed is None:
        every = whole_number(file, config, "global_attn_every_n_layers", minimum=1, default=3)
        return tuple(SLIDING if number % every else FULL for number in range(layers))
    if not isinstance(listed, list) or len(listed) != layers or any(kind not in (FULL, SLIDING) for kind in listed):
        raise CheckpointError(
            f"{file}: layer_types is {shown(listed)}; {FULL} or {SLIDING} is expected for each of {layers} layers"
        )
    return tuple(listed)


def _thetas(file: Path, config: Mapping[str, Any]) -> dict[str, float]:
    """Return the base of the rotary frequencies by the kind of attention. Raises CheckpointError for scaled frequencies."""
    if config.get("rope_scaling") is not None:
        raise CheckpointError(f"{file}: rope_scaling is {shown(config['rope_scaling'])}; it is not supported")
    parameters = config.get("rope_parameters")
    parameters = {} if parameters is None else parameters
    if not isinstance(parameters, dict) or not parameters.keys() <= THETAS.keys():
        raise CheckpointError(
            f"{file}: rope_parameters is {shown(parameters)}; {' and '.join(THETAS)} are expected in it"
        )
    thetas = {}
    for kind, (name, default) in THETAS.items():
        given = parameters.get(kind)
        given = {} if given is None else given
        known = {"rope_type": "default", "type": "default"}
        if not isinstance(given, dict) or any(
            value != known.get(key) for key, value in given.items() if key != "rope_theta"
        ):
            raise CheckpointError(
                f"{file}: rope_parameters has {kind} = {shown(given)}; rope_type default and rope_theta are supported"
            )
        theta = given.get("rope_theta", config.get(name, default))
        if not isinstance(theta, (int, float)) or isinstance(theta, bool) or not 0 < theta < float("inf"):
            raise CheckpointError(
                f"{file}: {name} is {shown(theta)}; a number above 0, such as {default:g}, is expected"
            )
        thetas[kind] = float(theta)
    return thetas


def _choice(file: Path, config: Mapping[str, Any], key: str, allowed: tuple[str, ...], *, default: str) -> str:
    value = config.get(key, default)
    if value not in allowed:
        raise CheckpointError(f"{file}: {key} is {shown(value)}; {', '.join(allowed)} are supported")
    return str(value)


def _flag(file: Path, config: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise CheckpointError(f"{file}: {key} is {shown(value)}; true or false is expected")
    return value
