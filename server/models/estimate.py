"""`estimated_tokens` estimates the tokens of a job before it is tokenized. The queue admits jobs by this estimate."""

import numpy as np

from ...engine.text.pair_source import TOKEN_CHARACTERS
from ..dialects.job import Job

SPECIAL_TOKENS = 4
"""Approximate number of special tokens in a pair."""
SMALL_CHARACTERS = 8192
"""Most characters of a small job, for which looking at each text takes too long. Ten passages of MS MARCO have 6,000.

Such a job is tokenized, and therefore counted exactly, as soon as it is admitted.
"""


def estimated_tokens(job: Job, max_length: int) -> int:
    """Return the approximate number of tokens that are scored for a job with a model that takes pairs of `max_length` tokens.

    A token has about four bytes of UTF-8: four letters of English, or a little more than one character of Chinese. Pairs count as
    they are truncated, and windows count with the tokens that they repeat.
    """
    limits, windows = job.limits, job.windows
    if job.characters <= SMALL_CHARACTERS and windows is None:
        return SPECIAL_TOKENS * len(job.pairs) + job.characters // TOKEN_CHARACTERS
    longest = max_length if limits.pair is None else min(limits.pair, max_length)
    max_characters = None if windows is not None else TOKEN_CHARACTERS * longest
    queries, passages = [], []
    last, query_tokens = None, 0
    for query, text in job.pairs:
        if query is not last:
            last, query_tokens = query, _text_tokens(query, max_characters)
        queries.append(query_tokens)
        passages.append(_text_tokens(text, max_characters))
    query_counts, counts = np.array(queries, dtype=np.int64), np.array(passages, dtype=np.int64)
    if limits.query is not None:
        query_counts = np.minimum(query_counts, limits.query)
    if limits.passage is not None:
        counts = np.minimum(counts, limits.passage)
    if windows is None:
        return int(np.minimum(query_counts + counts + SPECIAL_TOKENS, longest).sum())
    special = min(SPECIAL_TOKENS, windows.length - 1)
    query_counts = np.minimum(
        query_counts, windows.length - special - 1
    )  # tokenization tells whether the query leaves room for text
    return int(windows.tokens(query_counts, counts, special_tokens=special).sum())


def _text_tokens(text: str, max_characters: int | None) -> int:
    """Return the approximate number of tokens in the first `max_characters` characters of a text."""
    part = text if max_characters is None else text[:max_characters]
    return (len(part) if part.isascii() else len(part.encode(errors="surrogatepass"))) // TOKEN_CHARACTERS
