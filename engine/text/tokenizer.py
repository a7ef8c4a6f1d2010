"""`read_tokenizer`: a bundle's `tokenizer.json`, read so that whatever is wrong with it ends in words."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tokenizers

from ..errors import BundleError, CrossrtError

MOST_BYTES = 1 << 28
"""Of a `tokenizer.json`; one of 250,000 tokens has 17 million."""
MOST_TOKENS = 1 << 24
"""Token ids of the largest vocabulary that is opened: more than any has, and few enough to compute with."""
LARGE_NUMBER = re.compile(r":\s*\d{8}")


def read_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """Read a `tokenizer.json`. Raises BundleError, naming the file, when it is no tokenizer or has absurd token ids."""
    with explained(path):
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1).decode()
        if len(text) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        tokenizer = tokenizers.Tokenizer.from_str(text)
        # Before anything walks through all ids, as `to_str` does. Large numbers are rare, and looking for them is quick.
        if LARGE_NUMBER.search(text) and largest_id(tokenizer) >= MOST_TOKENS:
            raise ValueError(
                f"it has the token id {largest_id(tokenizer)}, and {MOST_TOKENS - 1} is the largest possible"
            )
    return tokenizer


def largest_id(tokenizer: tokenizers.Tokenizer) -> int:
    """Return the largest token id that a tokenizer has, or -1."""
    added = max(tokenizer.get_added_tokens_decoder(), default=-1)
    if isinstance(tokenizer.model, tokenizers.models.Unigram):  # ids are places in a list, of 250,000 in XLM-R
        return max(added, tokenizer.get_vocab_size(with_added_tokens=False) - 1)
    return max(added, *tokenizer.get_vocab(with_added_tokens=False).values(), -1)


@contextmanager
def explained(path: Path | str) -> Iterator[None]:
    """Turn what a tokenizer raises while it is read or used into BundleError that names it.

    The package tokenizers raises bare Exception. Where its Rust code panics it raises `PanicException`, which is no
    Exception, and whose class cannot be imported. What is wrong with a text (UnicodeEncodeError, TypeError) stays as it is.
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
