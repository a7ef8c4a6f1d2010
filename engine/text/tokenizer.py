"""`read_tokenizer`: reads a bundle's `tokenizer.json`, and turns every failure into a BundleError that explains it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tokenizers

from ..errors import BundleError, CrossrtError
from ..files.record import read_text

MAX_BYTES = 1 << 28
"""Largest accepted `tokenizer.json`. One of 250,000 tokens has 17 million bytes."""
MAX_TOKENS = 1 << 24
"""Largest accepted number of token ids. No tokenizer has this many, but a damaged file might."""
LARGE_NUMBER = re.compile(r":\s*\d{8}")
"""Matches a number in JSON that may be a token id of `MAX_TOKENS` or more."""


def read_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """Read a `tokenizer.json`. Raises BundleError, naming the file, if it is not a tokenizer or has ids beyond `MAX_TOKENS`."""
    with explained(path):
        text = read_text(path, max_bytes=MAX_BYTES)
        tokenizer = tokenizers.Tokenizer.from_str(text)
        # Checked before `to_str`, which loops over all ids. The search is fast and usually avoids the call of `largest_id`.
        if LARGE_NUMBER.search(text) and largest_id(tokenizer) >= MAX_TOKENS:
            raise ValueError(
                f"it has the token id {largest_id(tokenizer)}, and {MAX_TOKENS - 1} is the largest possible"
            )
    return tokenizer


def largest_id(tokenizer: tokenizers.Tokenizer) -> int:
    """Return the largest token id of a tokenizer, or -1 if it has none."""
    added = max(tokenizer.get_added_tokens_decoder(), default=-1)
    if isinstance(tokenizer.model, tokenizers.models.Unigram):  # ids are indices of a list, of 250,000 tokens in XLM-R
        return max(added, tokenizer.get_vocab_size(with_added_tokens=False) - 1)
    return max(added, *tokenizer.get_vocab(with_added_tokens=False).values(), -1)


@contextmanager
def explained(path: Path | str) -> Iterator[None]:
    """Turn exceptions of the package tokenizers in the block into a BundleError that names the tokenizer.

    The package raises bare Exception. When its Rust code panics it raises `PanicException`, which is not an Exception and whose
    class cannot be imported. UnicodeEncodeError and TypeError are caused by a text, not by the tokenizer, and are not changed.
    """
    try:
        yield
    except (CrossrtError, UnicodeEncodeError, TypeError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # KeyboardInterrupt and the like
        raise BundleError(
            f"{path} is not a tokenizer that can be used ({str(error)[:300]}); export the bundle again"
        ) from error
