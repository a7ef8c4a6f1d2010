"""`PairTokenizer`: tokenizes query-passage pairs."""

import copy
import json
import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tokenizers

from ..errors import BundleError, InputError, StoreError
from ..options import whole
from .encoded_pairs import EncodedPairs, Prepared, Spans, TruncationSide, ragged
from .pair_template import PairTemplate
from .text_limits import NO_LIMITS, TextLimits, clipped
from .tokenizer import MAX_TOKENS, explained, largest_id, read_tokenizer
from .windows import WindowCounts, WindowedPairs, Windows
from .wordpiece import WordPiece, tokens_of

BLANK = re.compile("[ \n]")
LONG_PAIR = 2000
"""Most characters of the pairs that the package tokenizers tokenize as pairs. With a query of 4 MB, a list of 256 passages would
take 70 GB."""
PART_CHARACTERS = 1024
"""Least characters of a part of a passage in which a window is searched. A window of 512 tokens has about 2,400."""


class PairTokenizer:
    """A tokenizer for pairs. Its truncation is set once, so any number of threads may encode with it.

    Pairs longer than `max_length` tokens are truncated by the rule `longest_first` of transformers, each text at its end, or with
    `truncation_side="left"` at its beginning. The tokenizer's own truncation and padding, which published files sometimes have,
    are discarded. `prompt` is put before every query. For BERT's tokenizers `WordPiece` does the work, with at most `threads`
    threads per call; it gives the same ids in a thirtieth of the time.
    """

    threads = 1
    largest_id: int
    """The largest token id that the tokenizer can give."""
    largest_type: int
    """The largest token type that the tokenizer gives."""
    _name = "the tokenizer"
    """The tokenizer's name in messages."""
    _cached_template: PairTemplate | None = None
    _cached_truncating: tokenizers.Tokenizer | None = None
    """Created at the first use: how two texts are joined, and the tokenizer with truncation to `max_length`."""

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        *,
        max_length: int,
        truncation_side: TruncationSide = "right",
    ) -> None:
        # A copy, since removing truncation and padding would change the caller's tokenizer.
        self._open(tokenizers.Tokenizer.from_str(tokenizer.to_str()), max_length, truncation_side, prompt=None)

    def _open(
        self, tokenizer: tokenizers.Tokenizer, max_length: int, truncation_side: TruncationSide, prompt: str | None
    ) -> None:
        self.max_length = self._checked_length(tokenizer, max_length)
        self.truncation_side = truncation_side
        self.prompt = prompt or ""
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if tokenizer.post_processor is None:
            # As transformers does. Without one, `encode` gives the second text the type 1, and `encode_batch_fast` the type 0.
            tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1")
        self._tokenizer = tokenizer
        with explained(self._name):
            self._words = WordPiece.of(tokenizer)
            probe = tokenizer.encode("a", "b")
            self.largest_id = largest_id(tokenizer) if self._words is None else self._words.largest_id
            # The template of a tokenizer may have special tokens whose ids are not in the vocabulary.
            self.largest_id = max(self.largest_id, *probe.ids, -1)
            if self.largest_id >= MAX_TOKENS:
                raise ValueError(f"it has the token id {self.largest_id}, and {MAX_TOKENS - 1} is the largest possible")
            self.largest_type = max(probe.type_ids, default=0)
            if self.largest_type > 255:
                raise ValueError(f"it gives the token type {self.largest_type}, and 255 is the largest possible")

    @classmethod
    def from_file(
        cls,
        path: Path,
        *,
        max_length: int,
        truncation_side: TruncationSide = "right",
        prompt: str | None = None,
    ) -> "PairTokenizer":
        """Read `tokenizer.json`. Raises BundleError, naming the file, if it is not a tokenizer."""
        # Not by the constructor, which makes a copy: that takes as long as reading the file.
        pair_tokenizer = cls.__new__(cls)
        pair_tokenizer._name = str(path)
        pair_tokenizer._open(read_tokenizer(path), max_length, truncation_side, prompt)
        return pair_tokenizer

    def of_length(self, max_length: int) -> "PairTokenizer":
        """Return this tokenizer with another `max_length`. Raises OptionError for one that leaves no room for text.

        No file is read, and both share the large objects.
        """
        other = copy.copy(self)
        other.max_length = self._checked_length(self._tokenizer, max_length)
        other._cached_truncating = None
        return other

    def _checked_length(self, tokenizer: tokenizers.Tokenizer, max_length: int) -> int:
        with explained(self._name):
            special = tokenizer.num_special_tokens_to_add(is_pair=True)
        hint = f": a pair has {special} special tokens, and needs room for text"
        return whole("max_length", max_length, minimum=special + 1, hint=hint)

    def encode(self, pairs: Sequence[tuple[str, str]], *, prompt: str | None = None) -> EncodedPairs:
        """Tokenize pairs of texts. `prompt`, which may be empty, replaces the tokenizer's own prompt in this call.

        Several threads may call at once. Raises InputError, naming the pair, for text that is not valid Unicode.
        """
        prompt = self.prompt if prompt is None else prompt
        try:
            with explained(self._name):
                if self._words is not None or self._joins_long(pairs):
                    return self._pairs(*self._spans(pairs, prompt))
                if prompt:
                    pairs = [(prompt + query, passage) for query, passage in pairs]
                encodings = self._tokenizer.encode_batch_fast(list(pairs), add_special_tokens=True)
                cut = np.maximum(
                    np.fromiter(map(len, encodings), dtype=np.int64, count=len(encodings)) - self.max_length, 0
                )
                too_long = np.flatnonzero(cut).tolist()
                shorter = self._truncating.encode_batch_fast([pairs[row] for row in too_long], add_special_tokens=True)
                for row, encoding in zip(too_long, shorter, strict=True):
                    encodings[row] = encoding
        except (UnicodeEncodeError, TypeError) as error:  # lone surrogates, from broken JSON or surrogateescape
            _check_unicode(pairs, error)
            raise
        offsets = np.zeros(len(encodings) + 1, dtype=np.int64)
        np.cumsum([len(encoding) for encoding in encodings], out=offsets[1:])
        ids = np.empty(offsets[-1], dtype=np.int32)
        type_ids = np.empty(offsets[-1], dtype=np.uint8)
        for encoding, start, stop in zip(encodings, offsets[:-1], offsets[1:], strict=True):
            ids[start:stop] = encoding.ids
            type_ids[start:stop] = encoding.type_ids
        return EncodedPairs(ids=ids, type_ids=type_ids, offsets=offsets, cut=cut)

    def _joins_long(self, pairs: Sequence[tuple[str, str]]) -> bool:
        """Tell whether texts are tokenized alone and then joined, because one is long.

        The package tokenizers would tokenize a query again for each of its passages, and a pair that is too long twice.
        """
        if not any(len(query) + len(passage) > LONG_PAIR for query, passage in pairs):
            return False
        with suppress(BundleError):  # a tokenizer that does not join two texts in their order
            return self._template is not None
        return False

    def encode_within(
        self, pairs: Sequence[tuple[str, str]], limits: TextLimits, *, prompt: str | None = None
    ) -> EncodedPairs:
        """Tokenize pairs of texts, and keep fewer tokens than `encode` does. `prompt` is as in `encode`.

        Queries and passages are cut to their own limits first, then each pair to the smaller of its limit and `max_length`.
        Several threads may call at once. Raises InputError for text that is not valid Unicode, and for a limit of the pair that
        leaves no room for text.
        """
        prompt = self.prompt if prompt is None else prompt
        side = limits.side or self.truncation_side
        longest = self.max_length if limits.pair is None else min(limits.pair, self.max_length)
        if longest <= self._template.special_tokens:
            raise InputError(
                f"a limit of {longest} tokens leaves no room for text: a pair has {self._template.special_tokens} special tokens"
            )
        whole, (queries, passages) = self._limited(pairs, prompt, limits)
        before = whole[0][2] + whole[1][2]
        encoded = self._template.joined(queries, passages, max_length=longest, truncation_side=side)
        cut = before - (encoded.lengths - self._template.special_tokens)
        return replace(encoded, cut=cut)

    def encode_windows(
        self,
        pairs: Sequence[tuple[str, str]],
        windows: Windows,
        *,
        prompt: str | None = None,
        limits: TextLimits = NO_LIMITS,
    ) -> WindowedPairs:
        """Tokenize pairs of texts, and cut the passages into windows. `prompt` is as in `encode`.

        The queries and the passages are cut to their `limits` first. `limits.pair` has no meaning here, since the window's
        length limits the pair. Several threads may call at once. Raises InputError for text that is not valid Unicode, and for
        a query that leaves no room in a window.
        """
        (_, whole), (queries, passages) = self._limited(pairs, self.prompt if prompt is None else prompt, limits)
        windowed = self._windowed(queries, passages, windows)
        left = passages[1] - whole[1]  # tokens that each passage lost at its beginning
        return replace(windowed, window_starts=windowed.window_starts + np.repeat(left, np.diff(windowed.offsets)))

    def count_windows(
        self,
        pairs: Sequence[tuple[str, str]],
        windows: Windows,
        *,
        prompt: str | None = None,
        limits: TextLimits = NO_LIMITS,
    ) -> WindowCounts:
        """Tokenize pairs of texts, and count the tokens of the windows that `encode_windows` would cut. Raises what it raises."""
        whole, (queries, passages) = self._limited(pairs, self.prompt if prompt is None else prompt, limits)
        tokens = windows.tokens(queries[2], passages[2], special_tokens=self._template.special_tokens)
        return WindowCounts(tokens=tokens, cut=whole[0][2] + whole[1][2] - queries[2] - passages[2])

    def encode_windows_from(
        self, store: Prepared, query: str, passage_ids: Sequence[str], windows: Windows, *, prompt: str | None = None
    ) -> WindowedPairs:
        """Tokenize a query, and cut prepared passages into windows. The tokens are those that `encode_windows` gives.

        Raises what `encode_from` and `encode_windows` raise, and StoreError for a passage of which the store holds only a part.
        """
        store.check_whole(passage_ids)
        queries = self._query_spans(query, len(passage_ids), prompt)
        ids, starts, lengths = passages = store.held(passage_ids)
        self._check_ids(store, ids[ragged(starts, lengths)])
        return self._windowed(queries, passages, windows)

    def window_text(self, passage: str, place: int, size: int) -> tuple[int, int]:
        """Return the characters of a passage that its tokens `place` to `place + size` cover: the first, and the last + 1.

        Marks that follow the last character, such as a combining accent, are included unless they belong to another token.
        """
        if not size:
            return 0, 0
        with explained(self._name):
            offset, before, part = self._part_with(passage, place, size)
            # Unlike `encode`, `encode_batch` lets other threads run. A megabyte takes a second and 130 MB.
            [encoding] = self._tokenizer.encode_batch([part], add_special_tokens=False)
        first, after = place - before, place - before + size
        end = _characters(encoding, after - 1)[1]
        following = _characters(encoding, after)[0] if after < len(encoding) else len(part)
        # The offsets of the package tokenizers leave out what a normalizer strips from a character or joins with it.
        while end < following and _extends(part[end]):
            end += 1
        return offset + _characters(encoding, first)[0], offset + end

    def _part_with(self, passage: str, place: int, size: int) -> tuple[int, int, str]:
        """Return a part of a passage that holds its tokens `place` to `place + size`, so that less is searched for them.

        The result is the part's first character, the number of tokens before it, and its text. Parts end before blanks. It is
        the whole passage if the tokens of its parts are others, and if `WordPiece` cannot count them.
        """
        cuts = [0]
        while self._words is not None and (blank := BLANK.search(passage, cuts[-1] + PART_CHARACTERS)):
            cuts.append(blank.start())
        if self._words is None or len(cuts) == 1:
            return 0, 0, passage
        parts = [passage[begin:end] for begin, end in pairwise([*cuts, len(passage)])]
        ids, starts, lengths = self._words.tokens([passage, *parts], self.threads)
        if not np.array_equal(ids[starts[0] :][: lengths[0]], ids[ragged(starts[1:], lengths[1:])]):
            return 0, 0, passage
        ends = np.cumsum(lengths[1:])
        first, last = np.searchsorted(ends, [place, place + size - 1], side="right").tolist()
        return cuts[first], int(ends[first] - lengths[1 + first]), "".join(parts[first : last + 1])

    def _limited(
        self, pairs: Sequence[tuple[str, str]], prompt: str, limits: TextLimits
    ) -> tuple[tuple[Spans, Spans], tuple[Spans, Spans]]:
        """Tokenize the queries and the passages of pairs. Return both uncut, and both cut to their own limits."""
        _check_unicode(pairs)
        with explained(self._name):
            queries, passages = self._spans(pairs, prompt)
        side = limits.side or self.truncation_side
        return (queries, passages), (clipped(queries, limits.query, side), clipped(passages, limits.passage, side))

    def _windowed(self, queries: Spans, passages: Spans, windows: Windows) -> WindowedPairs:
        cut = windows.cut(queries[2], passages, special_tokens=self._template.special_tokens)
        ids, starts, lengths = queries
        return WindowedPairs(
            queries=(ids, starts[cut.passage_rows], lengths[cut.passage_rows]),
            passages=cut.spans,
            template=self._template,
            length=windows.length,
            offsets=cut.offsets,
            window_starts=cut.window_starts,
        )

    def _spans(self, pairs: Sequence[tuple[str, str]], prompt: str) -> tuple[Spans, Spans]:
        """Tokenize the queries and the passages of pairs; consecutive pairs with the same query share it."""
        texts = [passage for _, passage in pairs]
        rows: list[int] = []  # index of each pair's query in `texts`
        last: str | None = None
        for query, _ in pairs:
            if query != last:
                last = query
                texts.append(prompt + query)
            rows.append(len(texts) - 1)
        words = self._words
        ids, starts, lengths = words.tokens(texts, self.threads) if words else tokens_of(self._tokenizer, texts)
        return (ids, starts[rows], lengths[rows]), (ids, starts[: len(pairs)], lengths[: len(pairs)])

    def encode_from(
        self, store: Prepared, query: str, passage_ids: Sequence[str], *, prompt: str | None = None
    ) -> EncodedPairs:
        """Tokenize a query and join it with prepared passages. The tokens are those that `encode` gives for the passages' texts.

        Raises StoreError for a passage that the store lacks or whose token ids this tokenizer does not have, and InputError for a
        query that is not valid Unicode. Several threads may call at once.
        """
        pairs = self._pairs(self._query_spans(query, len(passage_ids), prompt), store.tokens(passage_ids))
        self._check_ids(store, pairs.ids)
        return pairs

    def _query_spans(self, query: str, count: int, prompt: str | None) -> Spans:
        """Tokenize a query, and return its span `count` times. Raises InputError for a query that is not valid Unicode."""
        query = (self.prompt if prompt is None else prompt) + query
        if not _is_text(query):
            raise InputError(
                "the query holds a lone surrogate, no valid Unicode; decode it with errors='replace' first"
            )
        with explained(self._name):
            if self._words is not None:
                ids, starts, lengths = self._words.tokens([query])
            else:
                ids, starts, lengths = tokens_of(self._tokenizer, [query])
        rows = np.zeros(count, dtype=np.int64)
        return ids, starts[rows], lengths[rows]

    def _check_ids(self, store: Prepared, ids: npt.NDArray[np.integer]) -> None:
        if len(ids) and not 0 <= ids.min() <= ids.max() <= self.largest_id:
            raise StoreError(
                f"{store.path} is damaged: it holds token ids beyond {self.largest_id}, the largest of its tokenizer; prepare it "
                "again"
            )

    def _pairs(self, queries: Spans, passages: Spans) -> EncodedPairs:
        return self._template.joined(
            queries, passages, max_length=self.max_length, truncation_side=self.truncation_side
        )

    # Not cached_property: before Python 3.12 it has a lock, which could stay locked for ever in a forked process.
    @property
    def _template(self) -> PairTemplate:
        if self._cached_template is None:
            self._cached_template = PairTemplate.of(self._tokenizer)
        return self._cached_template

    @property
    def _truncating(self) -> tokenizers.Tokenizer:
        if self._cached_truncating is None:
            # A copy: setting truncation while a thread encodes with the tokenizer raises "Already borrowed".
            tokenizer = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
            tokenizer.enable_truncation(
                max_length=self.max_length, strategy="longest_first", direction=self.truncation_side
            )
            self._cached_truncating = tokenizer
        return self._cached_truncating


def _check_unicode(pairs: Sequence[tuple[str, str]], cause: Exception | None = None) -> None:
    """Raise InputError, naming the pair, for a text with a lone surrogate."""
    for index, pair in enumerate(pairs):
        if not all(map(_is_text, pair)):
            raise InputError(
                " holds a lone surrogate, which is no valid Unicode; decode it with errors='replace' first", pair=index
            ) from cause


def _characters(encoding: tokenizers.Encoding, token: int) -> tuple[int, int]:
    """Return the first character of a token, and the last + 1."""
    found = encoding.token_to_chars(token)
    assert found is not None
    return found


def _extends(character: str) -> bool:
    """Tell whether a character extends the one before it: a mark, a joiner, or a later part of a Hangul syllable."""
    return (
        unicodedata.category(character).startswith("M")
        or character in "\u200c\u200d"
        or "\u1160" <= character <= "\u11ff"
    )


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def without_truncation_and_padding(tokenizer_json: str) -> str:
    """Return a `tokenizer.json` without its truncation and padding, as compact JSON."""
    fields = json.loads(tokenizer_json)
    fields["truncation"] = fields["padding"] = None
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
