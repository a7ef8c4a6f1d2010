"""Reads weights that are stored in several files, with an index that says which file holds which tensor."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ...engine.errors import CheckpointError
from .files import first_five, read_json, shown

SHARDS = {"model.safetensors.index.json": "model*.safetensors", "pytorch_model.bin.index.json": "pytorch_model*.bin"}
"""The index files, and the allowed names of their shards. Other files are neither downloaded nor part of the cache key."""


def read_shards(index: Path, read_file: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Return the tensors of all files that an index names, each read by `read_file`.

    Tensors of these files that the index does not list are returned too, as in transformers. Raises CheckpointError for an index
    that is malformed or names a file elsewhere, and if files or tensors are missing or a tensor is in two files.
    """
    listed = _listed(index)
    missing = [name for name in listed if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{index.parent} lacks {len(missing)} of the {len(listed)} files that {index.name} names: {first_five(missing)}; "
            "fetch the checkpoint again"
        )
    tensors: dict[str, Any] = {}
    places: dict[str, str] = {}
    for name, expected in listed.items():
        held = read_file(index.parent / name)
        twice = [f"{tensor} is in {places[tensor]} and in {name}" for tensor in held if tensor in places]
        absent = [tensor for tensor in expected if tensor not in held]
        if twice:
            raise CheckpointError(f"{index.parent}: {len(twice)} tensor(s) are stored twice: {first_five(twice)}")
        if absent:
            raise CheckpointError(
                f"{index.parent / name} lacks {len(absent)} tensor(s) that {index.name} lists: {first_five(absent)}"
            )
        places |= dict.fromkeys(held, name)
        tensors |= held
    return tensors


def _listed(index: Path) -> dict[str, list[str]]:
    """Return the names of the tensors in each file, by the file's name."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{index}: weight_map is {shown(names)}; an object of file names by tensor is expected")
    listed: dict[str, list[str]] = {}
    for tensor, name in names.items():
        # A name with a folder could lead out of the checkpoint's directory.
        if not isinstance(name, str) or set("/\\\0") & set(name) or not fnmatchcase(name, SHARDS[index.name]):
            raise CheckpointError(
                f"{index} says that {shown(tensor)} is in {shown(name)}; the name of a file in the same directory, "
                f"{SHARDS[index.name]}, is expected"
            )
        listed.setdefault(name, []).append(tensor)
    return listed
