"""Spark: `reranker` returns the function and the schema for `DataFrame.mapInPandas`. Needs pyspark, pandas and pyarrow."""

import functools
from collections.abc import Callable, Iterable, Iterator
from os import PathLike, fspath
from typing import Any

import pandas as pd
from pyspark.sql.types import FloatType, StringType, StructType

from ..engine.bundle.bundle import Bundle
from ..engine.bundle.manifest import MANIFEST
from ..engine.cross_encoder import CrossEncoder
from ..engine.errors import BundleError, InputError, OptionError
from ..engine.files.digests import sha256_of
from .model import relevance

Frames = Iterable[pd.DataFrame]


def reranker(
    bundle: str | PathLike[str],
    schema: StructType,
    *,
    query: str = "query",
    text: str = "text",
    score: str = "score",
    threads: int = 1,
    **model_kwargs: Any,
) -> tuple[Callable[[Frames], Iterator[pd.DataFrame]], StructType]:
    """Return the function and the schema with which `mapInPandas` scores the rows of a frame: `frame.mapInPandas(*found)`.

    `schema` is the frame's. The result has the frame's columns without `query` and `text`, and the column `score`, float32, which
    is what `CrossEncoder.rank` sorts by. Rows keep their order. Each Python worker of Spark opens the bundle once, with `threads`
    and with `model_kwargs`, options of `CrossEncoder`. The bundle must be at this path on the driver and on every node, and
    crossrt must be installed on all of them.

    Raises OptionError if the frame lacks the columns of texts or has a column `score` already, and BundleError for a path that is
    no bundle. A job fails with InputError, naming the row, if a query or a text is null, and with BundleError if a node has
    another bundle.
    """
    names = schema.fieldNames()
    texts = [name for name in names if schema[name].dataType == StringType()]
    if query not in texts or text not in texts:
        raise OptionError(f"query={query!r}, text={text!r}: the frame's columns of texts are {', '.join(texts)}")
    if score in names:
        raise OptionError(f"score={score!r}: the frame has such a column; give another name")
    kept = [name for name in names if name not in (query, text)]
    scored = StructType([schema[name] for name in kept]).add(score, FloatType(), nullable=False)
    hashable = {name: tuple(value) if isinstance(value, list) else value for name, value in model_kwargs.items()}
    model = functools.partial(_opened, fspath(bundle), _manifest_sha256(fspath(bundle)), threads=threads, **hashable)
    return functools.partial(_scored, model, kept, query, text, score), scored


def _scored(
    model: Callable[[], CrossEncoder], kept: list[str], query: str, text: str, score: str, frames: Frames
) -> Iterator[pd.DataFrame]:
    opened = model()
    for frame in frames:
        absent = frame[[query, text]].isna().to_numpy().any(axis=1)
        if absent.any():
            row = frame[kept].iloc[int(absent.argmax())].to_dict()
            raise InputError(f"{query!r} or {text!r} is null in the row {row}; leave such rows out with dropna")
        scores = relevance(opened, zip(frame[query], frame[text], strict=True))
        yield frame[kept].assign(**{score: pd.Series(scores, index=frame.index, dtype="float32")})


@functools.lru_cache(maxsize=1)
def _opened(path: str, digest: str, **options: Any) -> CrossEncoder:
    """Return the model of this process, which many tasks of Spark share.

    Raises BundleError if the bundle's manifest, which has the hashes of its files, is not the one that the driver saw.
    """
    if _manifest_sha256(path) != digest:
        raise BundleError(f"{path} on this node is not the bundle that the driver has; copy it to every node again")
    return CrossEncoder(path, **options)


def _manifest_sha256(bundle: str) -> str:
    return sha256_of(Bundle.open(bundle).path / MANIFEST)
