"""`estimated_tokens`: about how many tokens a job has, before it is tokenized. The queue admits jobs by it."""

import numpy as np

from ...engine.text.pair_source import TOKEN_CHARACTERS
from ..dialects.job import Job

SPECIAL_TOKENS = 4
"""About how many special tokens a pair has."""
SMALL_CHARACTERS = 8192
"""Characters of a job up to which a look at each text is not worth its time; ten passages of MS MARCO have 6,000.

Such a job is tokenized, and so counted, as soon as it is admitted.
"""


def estimated_tokens(job: Job, max_length: int) -> int:
    """Return about how many tokens are scored for a job with a model that takes pairs of `max_length` tokens.

    A token has about four bytes of UTF-8: that is four letters of English, and a little more than one character of Chinese. Pairs
    count as they are truncated, and windows with the tokens that they repeat.
    """
    limits, windows = job.limits, job.windows
    if job.characters <= SMALL_CHARACTERS and windows is None:
        return SPECIAL_TOKENS * len(job.pairs) + job.characters // TOKEN_CHARACTERS
    longest = max_length if limits.pair is None else min(limits.pair, max_length)
    most = None if windows is not None else TOKEN_CHARACTERS * longest
    queries, passages = [], []
    last, query_tokens = None, 0
    for query, text in job.pairs:
        if query is not last:
            last, query_tokens = query, _text_tokens(query, most)
        queries.append(query_tokens)
        passages.append(_text_tokens(text, most))
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
    )  # whether it leaves room is told by the tokens
    return int(windows.tokens(query_counts, counts, special_tokens=special).sum())


def _text_tokens(text: str, most: int | None) -> int:
    """Return about how many tokens the first `most` characters of a text have."""
    part = text if most is None else text[:most]
    return (len(part) if part.isascii() else len(part.encode(errors="surrogatepass"))) // TOKEN_CHARACTERS
