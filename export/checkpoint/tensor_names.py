"""The names of the tensors that a cross-encoder needs, and the check that a checkpoint has them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...engine.bundle.manifest import MAX_LABELS
from ...engine.errors import CheckpointError
from .dimensions import MPNET_BUCKETS, Dimensions, table_shape
from .files import first_five, shown, whole_number
from .heads import DENSE_HEADS, HEAD_LAYERS, Head, Layout
from .modernbert import ModernBertDimensions, modernbert_tensor_names


def tensor_names(layout: Layout, head: Head, dimensions: Dimensions, tensors: Mapping[str, Any]) -> dict[str, str]:
    """Return a mapping from crossrt's tensor names to those of the checkpoint."""
    unbiased: frozenset[str] = frozenset()
    if isinstance(dimensions, ModernBertDimensions):
        names = modernbert_tensor_names(layout, dimensions)
        unbiased = dimensions.head_without_bias if head is Head.MODERNBERT else unbiased
    else:
        names = _trunk_names(layout, dimensions)
    layers = HEAD_LAYERS[head]
    parts = {f"head.{number}": linear for number, linear in enumerate(layers.linears)}
    if layers.norm is not None:
        parts["head.norm"] = layers.norm
    for ours, theirs in parts.items():
        names[f"{ours}.weight"] = f"{theirs}.weight"
        if ours not in unbiased:
            names[f"{ours}.bias"] = f"{theirs}.bias"
    return names


def _trunk_names(layout: Layout, dimensions: Dimensions) -> dict[str, str]:
    embeddings = f"{layout.prefix}embeddings."
    names = {"word.weight": f"{embeddings}word_embeddings.weight"}
    disentangled = dimensions.disentangled
    if disentangled is None or disentangled.absolute:
        names["position.weight"] = f"{embeddings}position_embeddings.weight"
    if layout.token_types and (disentangled is None or disentangled.token_types):
        names["type.weight"] = f"{embeddings}token_type_embeddings.weight"
    if layout.encoder == "mpnet":
        names["relative.weight"] = f"{layout.prefix}encoder.relative_attention_bias.weight"
    parts = {"embedding_norm": f"{embeddings}LayerNorm"}
    projection = f"{layout.prefix}{layout.projection}"
    if layout.projection and (dimensions.embedding != dimensions.hidden or layout.model_type == "albert"):
        if disentangled is None:
            parts["project"] = projection
        else:  # DeBERTa's projection precedes LayerNorm and has no bias
            names["embeddings.project.weight"] = f"{projection}.weight"
    layer = dict(layout.layer_parts)
    if disentangled is not None and disentangled.relative:
        names["relative.weight"] = f"{layout.prefix}encoder.rel_embeddings.weight"
        if disentangled.normed:
            parts["relative_norm"] = f"{layout.prefix}encoder.LayerNorm"
        if disentangled.c2p and not disentangled.shared:
            layer["position_key"] = "attention.self.pos_key_proj"
        if disentangled.p2c and not disentangled.shared:
            layer["position_query"] = "attention.self.pos_query_proj"
    for number in range(dimensions.layers):
        stored = 0 if layout.shared_layers else number
        for ours, theirs in layer.items():
            parts[f"layer.{number}.{ours}"] = f"{layout.prefix}{layout.layer_prefix}{stored}.{theirs}"
    for ours, theirs in parts.items():
        names |= {f"{ours}.weight": f"{theirs}.weight", f"{ours}.bias": f"{theirs}.bias"}
    return names


def check_tensors(
    path: Path,
    config: Mapping[str, Any],
    layout: Layout,
    head: Head,
    dimensions: Dimensions,
    names: Mapping[str, str],
    tensors: Mapping[str, Any],
) -> int:
    """Return the number of labels.

    Raises CheckpointError unless every needed tensor is present, has floating-point values and has the expected shape, and when
    config.json declares another number of labels.
    """
    missing = [theirs for theirs in names.values() if theirs not in tensors]
    if missing:
        raise CheckpointError(f"{path}: {len(missing)} needed tensor(s) missing: {first_five(missing)}")
    unusable = [f"{theirs} {why}" for theirs in names.values() if (why := _why_no_weights(tensors[theirs]))]
    if unusable:
        raise CheckpointError(
            f"{path}: {len(unusable)} tensor(s) hold no weights: {first_five(unusable)}; save the model again"
        )
    last = len(HEAD_LAYERS[head].linears) - 1
    labels, _ = table_shape(path, tensors, names[f"head.{last}.weight"])
    if labels > MAX_LABELS:
        raise CheckpointError(f"{path}: the head has {labels} labels; at most {MAX_LABELS} are supported")
    shapes = _expected_shapes(path, layout, head, dimensions, names, tensors, labels)
    misshapen = [
        f"{names[name]} is {list(tensors[names[name]].shape)}, expected {list(shape)}"
        for name, shape in shapes.items()
        if tuple(tensors[names[name]].shape) != shape
    ]
    if misshapen:
        raise CheckpointError(f"{path}: {len(misshapen)} tensor(s) do not fit config.json: {first_five(misshapen)}")
    declared = declared_labels(path, config)
    if head is not Head.BERT_CAT and declared is not None and declared != labels:
        raise CheckpointError(f"{path}: config.json declares {declared} labels, the head has {labels}")
    return labels


def _expected_shapes(
    path: Path,
    layout: Layout,
    head: Head,
    dimensions: Dimensions,
    names: Mapping[str, str],
    tensors: Mapping[str, Any],
    labels: int,
) -> dict[str, tuple[int, ...]]:
    """Return the shape that each tensor must have, by crossrt's name."""
    last = len(HEAD_LAYERS[head].linears) - 1
    hidden = dimensions.hidden
    # A Dense module may have a width different from the model's.
    inner = table_shape(path, tensors, names["head.0.weight"])[0] if last and head in DENSE_HEADS else hidden
    wide = dimensions.intermediate
    between = 2 * wide if layout.encoder == "modernbert" else wide
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        part, kind = name.rsplit(".", 1)
        role = part.rsplit(".", 1)[-1]
        if part in ("word", "position", "type"):
            shapes[name] = (table_shape(path, tensors, names[name])[0], dimensions.embedding)
        elif part == "relative" and dimensions.disentangled is not None:
            shapes[name] = (2 * dimensions.disentangled.span, hidden)
        elif part == "relative":
            shapes[name] = (MPNET_BUCKETS, dimensions.heads)
        elif part == "embedding_norm":
            shapes[name] = (dimensions.embedding if dimensions.disentangled is None else hidden,)
        elif role == "project":
            shapes[name] = (hidden, dimensions.embedding) if kind == "weight" else (hidden,)
        elif part == "head.norm":
            shapes[name] = (inner,)
        elif role.endswith("norm"):
            shapes[name] = (hidden,)
        elif part.startswith("head."):
            rows, columns = labels if part == f"head.{last}" else inner, hidden if part == "head.0" else inner
            shapes[name] = (rows, columns) if kind == "weight" else (rows,)
        elif role == "intermediate":
            shapes[name] = (between, hidden) if kind == "weight" else (between,)
        elif role == "output":
            shapes[name] = (hidden, wide) if kind == "weight" else (hidden,)
        else:
            rows = hidden * layout.fused_parts[role][1] if role in layout.fused_parts else hidden
            shapes[name] = (rows, hidden) if kind == "weight" else (rows,)
    return shapes


def _why_no_weights(tensor: Any) -> str:
    """Say why a tensor holds no numbers that can be read as weights; empty for one that does."""
    if tensor.is_meta:
        return "has no values (device meta)"
    if not tensor.is_floating_point():
        return f"is {tensor.dtype}"
    layout = str(tensor.layout)
    return "" if layout == "torch.strided" else f"is of the layout {layout}"


def declared_labels(path: Path, config: Mapping[str, Any]) -> int | None:
    """Return the number of labels that config.json declares; None if it declares none."""
    names = config.get("id2label")
    if names is not None and not isinstance(names, dict):
        raise CheckpointError(f"{path}/config.json: id2label is {shown(names)}; names by label number are expected")
    number = whole_number(path / "config.json", config, "num_labels", minimum=0, default=0)
    return number or (len(names) if names else None)
