"""`typical_pairs`: random pairs with lengths like MS MARCO's, to measure speed without real data."""

import numpy as np
import tokenizers

QUERY_WORDS = 7
LENGTHS = (6.5, 95 / 6.5)
"""Shape and scale of the gamma distribution of lengths. Its mean, 95 tokens, and its 99th percentile, 196, are those of pairs of
an MS MARCO query and passage."""


def typical_pairs(tokenizer: tokenizers.Tokenizer, count: int, *, seed: int = 0) -> list[tuple[str, str]]:
    """Return pairs of random words of one token each, determined by `seed`. Their scores mean nothing."""
    rng = np.random.default_rng(seed)
    words = sorted(word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha()) or ["a"]
    pairs = []
    for length in rng.gamma(*LENGTHS, size=count):
        drawn = rng.choice(words, QUERY_WORDS + max(1, round(length) - QUERY_WORDS - 3)).tolist()
        pairs.append((" ".join(drawn[:QUERY_WORDS]), " ".join(drawn[QUERY_WORDS:])))
    return pairs
