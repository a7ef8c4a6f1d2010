"""Checks the pairs and texts that users pass, and converts them to one form."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import InputError


def is_single(inputs: Any) -> bool:
    """Tell whether `inputs` is a single pair: a list, tuple or 1-D array whose first item is a string."""
    if isinstance(inputs, np.ndarray):
        return inputs.ndim == 1 and inputs.size > 0 and isinstance(inputs[0], str)
    return isinstance(inputs, (list, tuple)) and len(inputs) > 0 and isinstance(inputs[0], str)


def checked_pairs(inputs: Any) -> Iterable[tuple[str, str]]:
    """Yield the pairs of an iterable, checking each one lazily.

    A pair is a tuple, list or 1-D array of two texts. Raises InputError, naming the index, for anything else.
    """
    if not _is_list(inputs):
        raise InputError(f"expected pairs of texts, got {_described(inputs)}; pass [(query, passage), ...]")
    for index, pair in enumerate(inputs):
        yield checked_pair(pair, index)


def checked_pair(pair: Any, index: int) -> tuple[str, str]:
    """Return `pair` as two strings. Raises InputError, naming `index`, for anything else."""
    if isinstance(pair, np.ndarray):
        pair = pair.tolist()
    if not isinstance(pair, (list, tuple)):
        raise InputError(
            f"item {index} is {_described(pair)}, not a pair; each item is (query, passage)" + _arrow_hint(pair)
        )
    if len(pair) != 2:
        raise InputError(f"item {index} has {len(pair)} texts; a pair has two, (query, passage)")
    for text, side in zip(pair, ("query", "passage"), strict=True):
        check_text(text, f"the {side} of item {index}")
    return pair[0], pair[1]


def checked_passages(documents: Any) -> list[str]:
    """Return an iterable of texts as a list. Raises InputError, naming the index, for anything else."""
    if isinstance(documents, (str, bytes)):
        raise InputError("documents is one text; pass a list of passages")
    if not _is_list(documents):
        raise InputError(f"documents is {_described(documents)}; pass a list of passages")
    texts = list(documents)
    for index, text in enumerate(texts):
        check_text(text, f"passage {index}")
    return texts


def check_text(text: Any, what: str) -> None:
    """Raise InputError, naming `what`, unless `text` is a string."""
    if not isinstance(text, str):
        hint = "; decode it first" if isinstance(text, bytes) else _arrow_hint(text)
        raise InputError(f"{what} is {_described(text)}, not a text{hint}")


def _is_list(value: Any) -> bool:
    """Tell whether the items of a value are what it holds. Those of a text are letters, and those of a mapping and of a data
    frame its names; an array without dimensions has none."""
    if isinstance(value, (str, bytes, Mapping)) or hasattr(value, "columns") or getattr(value, "ndim", 1) == 0:
        return False
    return isinstance(value, Iterable)


def _arrow_hint(value: Any) -> str:
    """Return what to do with a scalar of pyarrow, which is what a column of a table yields; empty for any other value."""
    return "; pass Python's values, as column.to_pylist() returns them" if hasattr(value, "as_py") else ""


def _described(value: Any) -> str:
    if value is None:
        return "None"
    shown = " ".join(repr(value).split())
    return f"{type(value).__name__} {shown if len(shown) <= 40 else shown[:37] + '...'}"
