"""Cross-encoders that sentence-transformers saved as several modules: a bare encoder, Pooling, and a head of Dense modules.

sentence-transformers 6 builds and loads them. The encoder's tokens are pooled to `[CLS]` or the mean of all tokens. Linear layers
follow, of which the last outputs `scores`. There may be LayerNorm between two of them, as in
cross-encoder/ettin-reranker-17m-v1.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...engine.errors import CheckpointError
from .files import SENTENCE_TRANSFORMERS, read_json, shown
from .heads import HEAD_LAYERS, Head, Layout, layout_of
from .weights import read_tensors

MODULE_FOLDER = re.compile(r"[0-9]{1,3}_(Pooling|Dense|LayerNorm)")
"""The allowed folders of modules. Other folders are neither downloaded nor part of the cache key."""
HEAD_MODULES = (["Dense"], ["Dense", "Dense"], ["Dense", "LayerNorm", "Dense"])
"""The sequences of module classes that a head may consist of."""
HEADS: Mapping[tuple[str, ...], Head] = {
    ("Identity",): Head.DENSE,
    ("Tanh", "Identity"): Head.DENSE_TANH,
    ("GELU", "Identity"): Head.DENSE_GELU,
    ("ReLU", "Identity"): Head.DENSE_RELU,
    ("Tanh", "LayerNorm", "Identity"): Head.DENSE_TANH_NORM,
    ("GELU", "LayerNorm", "Identity"): Head.DENSE_GELU_NORM,
    ("ReLU", "LayerNorm", "Identity"): Head.DENSE_RELU_NORM,
}
"""The head for the activations of the Dense modules, with LayerNorm if it is between them."""
SUPPORTED_TRUNKS = (
    "bert, electra, roberta, xlm-roberta, camembert, distilbert, deberta-v2, mpnet, albert and modernbert are known"
)
POOLINGS = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
"""The supported pooling modes, by their names in older versions of sentence-transformers."""
SUPPORTED_MODULES = (
    "crossrt knows one Transformer whose head is part of it, and a Transformer, Pooling (cls or mean) and one or two Dense "
    "modules, the first with Tanh, GELU or ReLU, the last with Identity, and LayerNorm or nothing between"
)


@dataclass(frozen=True, slots=True)
class DenseHead:
    """A checkpoint whose head consists of modules.

    `pooling` says what the head reads: `[CLS]` (`cls`) or the mean of all tokens (`mean`). `tensors` has the tensors of the
    trunk, with its prefix, and those of the head.
    """

    layout: Layout
    head: Head
    pooling: str
    tensors: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Module:
    """One entry of modules.json: the name of the class, without its package, and the folder."""

    kind: str
    folder: str


def modules_of(path: Path) -> list[Module] | None:
    """Return the modules of a checkpoint that sentence-transformers saved as a CrossEncoder; None for any other checkpoint.

    Raises CheckpointError for a malformed list and for classes that are not part of sentence-transformers.
    """
    file = path / "modules.json"
    if not file.is_file() or read_json(path / SENTENCE_TRANSFORMERS, missing={}).get("model_type") != "CrossEncoder":
        return None
    try:
        listed = [
            (str(module["type"]), module.get("path") or "") for module in json.loads(file.read_text(encoding="utf-8"))
        ]
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{file} is not a list of modules ({type(error).__name__}: {error})") from error
    foreign = [kind for kind, _ in listed if not kind.startswith("sentence_transformers.")]
    if foreign:
        raise CheckpointError(
            f"{file} names the class {foreign[0]}, which is code that crossrt does not run; {SUPPORTED_MODULES}"
        )
    return [Module(kind.rpartition(".")[2], folder) for kind, folder in listed]


def check_modules(path: Path, modules: Sequence[Module]) -> None:
    """Raise CheckpointError for modules that are not a cross-encoder that crossrt supports."""
    kinds, first = [module.kind for module in modules], [module.folder for module in modules[:1]]
    folders = [module.folder for module in modules[1:]]
    known = kinds == ["Transformer"] or (kinds[:2] == ["Transformer", "Pooling"] and kinds[2:] in HEAD_MODULES)
    if (
        known
        and first == [""]
        and all(isinstance(folder, str) and MODULE_FOLDER.fullmatch(folder) for folder in folders)
    ):
        return
    words = ", ".join(f"{module.kind} in {module.folder!r}" for module in modules)
    if "LogitScore" in kinds:
        words += " (LogitScore reads one token's logit of a generative model)"
    raise CheckpointError(f"{path / 'modules.json'} has the modules {words or '(none)'}; {SUPPORTED_MODULES}")


def dense_head_of(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> DenseHead | None:
    """Read the head of a checkpoint with several modules; None if the head is part of the model.

    Raises CheckpointError for settings of the modules that crossrt does not support.
    """
    modules = modules_of(path)
    if modules is None:
        return None
    check_modules(path, modules)
    if len(modules) == 1:
        return None
    layout = layout_of(config.get("model_type"))
    if layout is None:
        raise CheckpointError(
            f"{path / 'config.json'}: model_type is {shown(config.get('model_type'))}; under a head of Dense modules, "
            f"{SUPPORTED_TRUNKS}"
        )
    _check_transformer(path)
    pooling = _pooling(path / modules[1].folder / "config.json")
    head = _head_of(path, modules[2:])
    renamed = {
        name if name.startswith(layout.prefix) else f"{layout.prefix}{name}": value for name, value in tensors.items()
    }
    layers = [path / module.folder for module in modules[2:] if module.kind == "Dense"]
    width = None
    for folder, name in zip(layers, HEAD_LAYERS[head].linears, strict=True):
        weight, bias = _linear(folder)
        if width is not None and weight.shape[1] != width:
            raise CheckpointError(
                f"{folder}: the layer reads {weight.shape[1]} values, and the one before writes {width}"
            )
        width = weight.shape[0]
        renamed |= {f"{name}.weight": weight, f"{name}.bias": bias}
    for module in modules[2:]:
        if module.kind == "LayerNorm":
            renamed |= _norm(path / module.folder, f"{HEAD_LAYERS[head].norm}")
    return DenseHead(layout, head, pooling, renamed)


def _check_transformer(path: Path) -> None:
    file = path / "sentence_bert_config.json"
    fields = read_json(file, missing={})
    expected = {
        "transformer_task": "feature-extraction",
        "module_output_name": "token_embeddings",
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    }
    for name, value in expected.items():
        if fields.get(name, value) != value:
            raise CheckpointError(f"{file}: {name} is {shown(fields[name])}; {shown(value)} is supported")


def _pooling(file: Path) -> str:
    """Return the pooling mode, `cls` or `mean`. Without a setting it is `mean`, as in sentence-transformers."""
    fields = read_json(file)
    old = [name for name in fields if name.startswith("pooling_mode_") and fields[name]]
    mode = fields.get("pooling_mode") or " and ".join(POOLINGS.get(name, name) for name in old) or "mean"
    mode = mode[0] if isinstance(mode, list) and len(mode) == 1 else mode
    if mode not in POOLINGS.values():
        raise CheckpointError(
            f"{file}: pooling_mode is {shown(mode)}; under a head of Dense modules, 'cls' and 'mean' are supported"
        )
    if fields.get("include_prompt", True) is not True:
        raise CheckpointError(f"{file}: include_prompt is {shown(fields['include_prompt'])}; true is supported")
    return str(mode)


def _head_of(path: Path, modules: Sequence[Module]) -> Head:
    """Return the head that the Dense and LayerNorm modules form."""
    read, activations = "sentence_embedding", []
    for module in modules:
        file = path / module.folder / "config.json"
        fields = read_json(file)
        if module.kind == "LayerNorm":
            if read != "sentence_embedding":
                raise CheckpointError(
                    f"{file.parent}: LayerNorm reads sentence_embedding, and the module before writes {read!r}"
                )
            activations.append(module.kind)
            continue
        if (name := fields.get("module_input_name", "sentence_embedding")) != read:
            raise CheckpointError(f"{file}: module_input_name is {shown(name)}, and the module before writes {read!r}")
        read = fields.get("module_output_name") or read
        if fields.get("use_residual"):
            raise CheckpointError(f"{file}: use_residual is {shown(fields['use_residual'])}; {SUPPORTED_MODULES}")
        activations.append(_activation(fields))
    if read != "scores":
        raise CheckpointError(
            f"{path / modules[-1].folder / 'config.json'}: module_output_name is {shown(read)}; 'scores' is expected"
        )
    head = HEADS.get(tuple(activations))
    if head is None:
        raise CheckpointError(
            f"{path}: the Dense modules' activations are {', '.join(activations)}; {SUPPORTED_MODULES}"
        )
    return head


def _activation(fields: Mapping[str, Any]) -> str:
    """Return the name of a Dense module's activation in torch. Without a setting it is Tanh, as in sentence-transformers."""
    named = fields.get("activation_function", "torch.nn.modules.activation.Tanh")
    known = isinstance(named, str) and named.startswith("torch.nn.")
    return named.rpartition(".")[2] if known else shown(named)


def _linear(folder: Path) -> tuple[Any, Any]:
    """Return a Dense module's weight [outputs, inputs] and bias [outputs], which is zeros if the module has none."""
    tensors = read_tensors(folder)
    weight = tensors.get("linear.weight")
    if weight is None or weight.ndim != 2:
        raise CheckpointError(
            f"{folder}: the weights hold {', '.join(tensors) or 'nothing'}; a table linear.weight is expected"
        )
    return weight, tensors.get("linear.bias", weight.new_zeros(len(weight)))


def _norm(folder: Path, name: str) -> dict[str, Any]:
    """Return the weight and the bias of a LayerNorm module, named with the prefix `name`."""
    tensors = read_tensors(folder)
    if tensors.keys() != {"norm.weight", "norm.bias"}:
        raise CheckpointError(
            f"{folder}: the weights hold {', '.join(tensors) or 'nothing'}; norm.weight and norm.bias are expected"
        )
    return {f"{name}.weight": tensors["norm.weight"], f"{name}.bias": tensors["norm.bias"]}
