"""Spark: `reranker` returns the function and the schema for `DataFrame.mapInArrow`. Needs pyspark and pyarrow."""

import functools
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark import cloudpickle
from pyspark.sql.types import FloatType, StringType, StructType

from .. import __version__
from ..engine.bundle.bundle import Bundle
from ..engine.bundle.manifest import MANIFEST
from ..engine.cross_encoder import CrossEncoder
from ..engine.errors import BackendError, BundleError, InputError, OptionError
from ..engine.files.digests import sha256_of
from .model import relevance

Batches = Iterable[pa.RecordBatch]


def reranker(
    bundle: str | PathLike[str],
    schema: StructType,
    *,
    query: str = "query",
    text: str = "text",
    score: str = "score",
    **model_kwargs: Any,
) -> tuple[Callable[[Batches], Iterator[pa.RecordBatch]], StructType]:
    """Return the function and the schema with which `mapInArrow` scores the rows of a frame: `frame.mapInArrow(*found)`.

    `schema` is the frame's. The result has the frame's columns without `query` and `text`, and the column `score`, float32, which
    is what `CrossEncoder.rank` sorts by. Rows keep their order. Each Python worker opens the bundle once, with `model_kwargs`,
    options of `CrossEncoder`; `threads` is 1 by default. Every node must have the driver's crossrt, and the bundle at this path.

    Raises OptionError if the frame lacks the columns of texts or has a column `score` already, and BundleError for a path that is
    no bundle. A job fails with InputError, naming the row, if a query or a text is null, with BundleError if a node has another
    bundle, and with BackendError if it has another crossrt.
    """
    names = schema.fieldNames()
    texts = [name for name in names if isinstance(schema[name].dataType, StringType)]
    if query not in texts or text not in texts:
        raise OptionError(f"query={query!r}, text={text!r}: the frame's columns of texts are {', '.join(texts)}")
    if score.lower() in (name.lower() for name in names):  # Spark compares names without case
        raise OptionError(f"score={score!r}: the frame has such a column; give another name")
    kept = [name for name in names if name not in (query, text)]
    scored = StructType([schema[name] for name in kept]).add(score, FloatType(), nullable=False)
    path, options = str(Path(bundle).absolute()), cloudpickle.dumps({"threads": 1, **model_kwargs})
    model = functools.partial(_opened, __version__, path, _digest(path), options)
    return functools.partial(_scored, model, kept, query, text, score), scored


def _scored(
    model: Callable[[], CrossEncoder], kept: list[str], query: str, text: str, score: str, batches: Batches
) -> Iterator[pa.RecordBatch]:
    opened = model()
    for batch in batches:
        pairs = list(zip(batch.column(query).to_pylist(), batch.column(text).to_pylist(), strict=True))
        for place in (place for place, pair in enumerate(pairs) if None in pair):
            row = {name: batch.column(name)[place].as_py() for name in kept}
            raise InputError(f"{query!r} or {text!r} is null in the row {row}; leave such rows out with dropna")
        scores = pa.array(relevance(opened, pairs), pa.float32())
        yield pa.RecordBatch.from_arrays([*batch.select(kept).columns, scores], names=[*kept, score])


@functools.lru_cache(maxsize=1)
def _opened(version: str, path: str, digest: str, options: bytes) -> CrossEncoder:
    """Return the model of this process, which many tasks share. Raises an error if the node differs from the driver."""
    if version != __version__:
        raise BackendError(f"a node has crossrt {__version__}, and the driver {version}; install one on all")
    if _digest(path) != digest:  # that of the manifest, which has the hashes of the other files
        raise BundleError(f"{path} on this node is not the bundle that the driver has; copy it to every node again")
    return CrossEncoder(path, **cloudpickle.loads(options))


def _digest(bundle: str) -> str:
    return sha256_of(Bundle.open(bundle).path / MANIFEST)
