"""Reads the weights of a checkpoint directory."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...engine.bundle.resolve import where_models_are
from ...engine.errors import CheckpointError
from .files import check_no_pointer, first_five, first_line, shown
from .shards import SHARDS, read_shards

SAFE_TORCH = "2.10"
"""The first version of PyTorch whose `torch.load(weights_only=True)` is not known to run code of a pickle. 2.6 fixed
CVE-2025-32434, and 2.10 fixed CVE-2026-24747."""
BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
"""Suffixes of the names of buffers that old versions of transformers saved. They are not weights."""


WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Possible files of the weights. The first one that exists is read, as in transformers."""
WRAPPERS = ("module.", "model.")
"""Prefixes of all names, from DataParallel and from classes that hold the model in an attribute `model`."""
WRAPPED_PARTS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""Parts that torch.compile, FSDP and activation checkpointing insert into the names of modules that they wrap. They can occur
anywhere in a name. No module of a model itself has such a name."""


def read_tensors(path: Path) -> dict[str, Any]:
    """Return the tensors of a checkpoint directory, as stored, by their stored names.

    The old names of LayerNorm's parameters, gamma and beta, are replaced. Raises CheckpointError for weights that are missing,
    damaged, unsafe to read, not a dictionary of tensors, or in it under both names.
    """
    file = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if file is None:
        raise CheckpointError(without_weights(path))
    tensors = read_shards(file, read_file) if file.name in SHARDS else read_file(file)
    # Checkpoints from 2019 have TensorFlow's names for LayerNorm's parameters.
    renames = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    for old, new in renames.items():
        twice = [
            f"{name} and {name.replace(old, new)}"
            for name in tensors
            if old in name and name.replace(old, new) in tensors
        ]
        if twice:
            raise CheckpointError(
                f"{path}: the same tensor has its old and its new name: {first_five(twice)}; leave one of them out"
            )
        tensors = {name.replace(old, new): value for name, value in tensors.items()}
    return tensors


def without_weights(path: Path) -> str:
    """Return the error message for a directory without weights: what it holds instead."""
    held = ", ".join(sorted(entry.name for entry in path.iterdir())[:12]) or "nothing"
    return (
        f"{path} has neither model.safetensors nor pytorch_model.bin, whole or in shards; it holds {held}"
        + where_models_are(path)
    )


def read_file(file: Path) -> dict[str, Any]:
    """Return the tensors of one file, .safetensors or a pickle, by name. Raises CheckpointError like `read_tensors`."""
    try:
        with file.open("rb") as opened:
            beginning = opened.read(24)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror})") from error
    check_no_pointer(file, beginning)
    pickled = file.suffix != ".safetensors"
    if pickled:
        _check_torch_is_safe(file)
    try:
        if pickled:
            import torch

            # With weights_only, torch runs no code of the pickle.
            tensors: Any = torch.load(file, map_location="cpu", weights_only=True)
        else:
            from safetensors.torch import load_file

            tensors = load_file(file)
    except Exception as error:  # safetensors and torch raise many types, including UnpicklingError and EOFError
        raise CheckpointError(_unreadable(file, error)) from error
    _check_state_dict(file, tensors)
    # A pickle may hold parameters, and tensors that are to be negated when they are read.
    return {name: value.detach().resolve_neg() for name, value in tensors.items()}


def _check_torch_is_safe(file: Path) -> None:
    """Raise CheckpointError for a version of PyTorch in which a pickle can run code despite `weights_only`."""
    import torch

    if torch.__version__ < SAFE_TORCH:  # a TorchVersion, which is compared as a version
        raise CheckpointError(
            f"{file} is a pickle, and PyTorch {torch.__version__} can be made to run code by reading one (CVE-2025-32434, "
            f"CVE-2026-24747): install torch {SAFE_TORCH} or later, or convert the weights to "
            "model.safetensors"
        )


def _unreadable(file: Path, error: Exception) -> str:
    # torch's messages about a class or function that `weights_only` refuses.
    foreign = re.search(r"GLOBAL (\S+) (?:was not an allowed global|whose module \S+ is blocked)", str(error))
    if foreign is not None:
        return (
            f"{file} is a pickle that holds {foreign[1]}, not tensors alone, and reading it would run code. Save the weights "
            "where the model was trained: model.save_pretrained(DIRECTORY)"
        )
    # The first line of other errors of `weights_only` advises to read the file without that option.
    cause = re.search(r"WeightsUnpickler error:\s+(.+)", str(error))
    why = cause[1] if cause is not None else first_line(error)
    return (
        f"{file} ({file.stat().st_size:,} bytes) cannot be read as weights ({why}); it may be truncated: fetch it again"
    )


def _check_state_dict(file: Path, tensors: Any) -> None:
    """Raise CheckpointError unless the file holds a dictionary of tensors by name."""
    import torch

    if isinstance(tensors, dict) and all(isinstance(name, str) for name in tensors):
        others = [name for name, value in tensors.items() if not isinstance(value, torch.Tensor) or value.is_nested]
        if not others:
            return
        found = f"a dictionary in which {first_five([shown(name) for name in others])} hold no tensors"
    else:
        found = f"a {type(tensors).__name__}"
    raise CheckpointError(
        f"{file} holds {found}, not a dictionary of tensors; save model.state_dict(), or save_pretrained()"
    )


def unwrapped(tensors: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the tensors of the checkpoint `path` by their names without the prefixes and parts of PyTorch's wrappers.

    `WRAPPED_PARTS` are removed everywhere. The prefixes in `WRAPPERS`, in any order, are removed only if every name has them.
    Raises CheckpointError if two tensors then have the same name.
    """
    names: dict[str, str] = {}
    for name in tensors:
        short = _without_wrapped_parts(name)
        if short in names:
            raise CheckpointError(
                f"{path}: {names[short]} and {name} are the same tensor of the model, once wrapped by PyTorch and once not; "
                "leave one of them out"
            )
        names[short] = name
    tensors = {short: tensors[name] for short, name in names.items()}
    while prefix := next((one for one in WRAPPERS if tensors and all(name.startswith(one) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return dict(tensors)


def _without_wrapped_parts(name: str) -> str:
    for part in WRAPPED_PARTS:
        name = name.replace(part, "")
    return name


def check_not_quantized(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """Raise CheckpointError for weights that are already quantized, because the lost precision cannot be restored."""
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
        f"{path}: {found}, so the model is quantized already; give the original FP32 or FP16 checkpoint"
    )


def _is_integer(name: str, value: Any) -> bool:
    """Tell whether a weight has an integer type or FP8. The scales of such weights are not read."""
    small = value.is_floating_point() and value.element_size() == 1
    return value.ndim > 1 and (small or not value.is_floating_point()) and not name.endswith(BUFFERS)
