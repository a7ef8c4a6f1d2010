"""Candidates for queries without a run: a BM25 run, or the candidates of a data set."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from ..engine.errors import BackendError, DataFileError, OptionError
from ..engine.files.publish import replaced_text
from ..engine.files.trec import write_run
from ..measurement.provenance import Provenance
from .passages import Passages, TextPassages

CANDIDATES = "candidates.run.trec"
DEPTH = 100
"""Default number of BM25 candidates per query."""
SETTINGS = {"k1": 0.9, "b": 0.4, "method": "lucene", "stopwords": "english", "stemmer": None}
"""k1 and b are those of Anserini for MS MARCO and BEIR. Without a stemmer the run finds slightly less than Anserini's."""


def bm25_run(
    queries: Mapping[str, str], passages: Passages, folder: Path, *, depth: int | None = None, progress: bool = False
) -> Path:
    """Write the best passages of each query by BM25 as a TREC run into `folder`, unless the same run exists already.

    Passages that share no word with the query are not candidates. The index is built in memory and takes 3 KB for a passage of 55
    words. Raises OptionError for prepared passages, which have no texts, DataFileError for ids with spaces, for an empty
    collection and if nothing is found, and BackendError if bm25s is missing.
    """
    if not isinstance(passages, TextPassages):
        raise OptionError(
            f"{passages.where} holds no texts to make a BM25 run from: give the candidates with --run, or --passages"
        )
    try:
        import bm25s
    except ImportError:
        raise BackendError(
            'a BM25 run needs bm25s: pip install "crossrt[report]"; or give the candidates with --run'
        ) from None
    wanted = depth or DEPTH
    texts = passages

    def write(file: IO[str]) -> None:
        ids: list[str] = []

        def read() -> Iterable[str]:
            for name, text in tqdm(texts, desc="Reading for BM25", unit="passage", disable=not progress):
                ids.append(_one_word(name, texts.where))
                yield text

        tokenizer = bm25s.tokenization.Tokenizer(stopwords=SETTINGS["stopwords"])
        retriever = bm25s.BM25(k1=SETTINGS["k1"], b=SETTINGS["b"], method=SETTINGS["method"])
        tokens = list(tokenizer.streaming_tokenize(read()))
        if not ids:
            raise DataFileError(f"{texts.where} holds no passages")
        retriever.index((tokens, tokenizer.get_vocab_dict()), show_progress=progress)
        for query, text in tqdm(queries.items(), desc="BM25", unit="query", disable=not progress):
            _one_word(query, "the queries")
            known = tokenizer.tokenize([text], update_vocab="never", allow_empty=False, show_progress=False)
            if known[0]:
                found, scores = retriever.retrieve(
                    known, k=min(wanted, len(ids)), show_progress=False, backend_selection="numpy"
                )
                best = {
                    ids[row]: score for row, score in zip(found[0].tolist(), scores[0].tolist(), strict=True) if score
                }
                write_run(file, query, best, tag="bm25")
        if not file.tell():
            raise DataFileError(
                f"BM25 finds nothing: no query shares a word with {texts.where}, not counting stopwords such as `the`; give "
                "the candidates with --run"
            )

    inputs = {
        "bm25s": bm25s.__version__,
        **SETTINGS,
        "depth": wanted,
        "passages": [texts.where, texts.source.sha256],
        "queries": Provenance.digest(dict(queries)),
    }
    return cached_file(folder / CANDIDATES, inputs, write)


def _one_word(name: str, where: str) -> str:
    """Return the id. Raises DataFileError for an id with spaces, which a line of a run cannot hold."""
    if len(name.split()) != 1:
        raise DataFileError(
            f"{where}: the id {name!r} is not one word, and a BM25 run of it could not be read; give ids without spaces, or the "
            "candidates with --run"
        )
    return name


def cached_file(path: Path, inputs: Mapping[str, Any], write: Callable[[IO[str]], None]) -> Path:
    """Write a file atomically, unless it exists and was made from the same `inputs`. Return its path.

    The inputs are noted in a hidden file beside it.
    """
    note = path.with_name(f".{path.name}.made")
    try:
        if path.exists() and json.loads(note.read_text(encoding="utf-8")) == dict(inputs):
            return path
    except (OSError, ValueError, RecursionError):
        pass  # without the note it is unknown what the file was made from
    note.unlink(missing_ok=True)
    with replaced_text(path) as file:
        write(file)
    with replaced_text(note) as file:
        file.write(json.dumps(inputs, indent=1))
    return path
