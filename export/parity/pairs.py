"""The built-in pairs of the parity check: ordinary texts to rank, and edge cases."""

from collections.abc import Sequence

_QUERIES = (
    "how long does a passport take to renew",
    "what causes the northern lights",
    "who invented the printing press",
    "symptoms of vitamin d deficiency",
    "difference between weather and climate",
)
_PASSAGES = (
    "Routine passport renewals take six to eight weeks; an expedited request costs more and takes two to three.",
    "The aurora borealis is light from atoms high in the atmosphere that are struck by electrons from the solar wind.",
    "Johannes Gutenberg built a press with movable metal type in Mainz around 1440.",
    "Fatigue, bone pain and muscle weakness are common in people who lack vitamin D.",
    "Weather is what the sky does today; climate is the average of decades.",
    "A ferry crosses the strait every forty minutes from April to October.",
    "Renew online if your old passport was issued less than fifteen years ago and is undamaged.",
    "Green and red come from oxygen, blue and violet from nitrogen, at heights between 90 and 300 kilometres.",
    "Woodblock printing was in use in China centuries before metal type.",
    "Sunlight on bare skin, oily fish and egg yolk are the main sources of the vitamin.",
    "El Nino shifts rainfall across the Pacific for months.",
    "The recipe asks for two eggs, a cup of flour and a pinch of salt.",
)
_EDGES = (
    ("", ""),
    ("", "a passage without a query"),
    ("a query without a passage", ""),
    ("a", "b"),
    ("   ", "\t"),
    ("cafe\u0301 r\u00e9sum\u00e9", "Caf\u00e9 re\u0301sume\u0301, na\u00efve fac\u0327ade"),
    (
        "\u4e2d\u56fd\u7684\u9996\u90fd",
        "\u5317\u4eac\u662f\u4e2d\u534e\u4eba\u6c11\u5171\u548c\u56fd\u7684\u9996\u90fd\u3002",
    ),
    (
        "\u6771\u4eac \u30bf\u30ef\u30fc",
        "\u6771\u4eac\u30bf\u30ef\u30fc\u306f1958\u5e74\u306b\u958b\u696d\u3057\u305f\u3002",
    ),
    (
        "\u05de\u05d4 \u05d4\u05e9\u05e2\u05d4",
        "\u0627\u0644\u0633\u0627\u0639\u0629 \u0627\u0644\u062b\u0627\u0644\u062b\u0629",
    ),
    ("\U0001f600 emoji \U0001f469\u200d\U0001f52c", "flags \U0001f1e9\U0001f1ea and skin \U0001f44d\U0001f3fd tones"),
    ("control\x00\x07 characters\x1f", "zero\u200bwidth \ufeff and\u00a0no-break, line\u2028separator"),
    (
        "https://example.org/a?b=c&d=%20e#f",
        "See www.example.org/~user/index_page.html, or mail user.name+tag@example.org.",
    ),
    ("3.14159 -1,000,000 1e-9", "In 2019, 45.5 % of 1,234,567 cost $12.99 (+3/4)."),
    # Special tokens as text, for every kind of tokenizer: at the beginning, in the middle and at the end, including padding.
    ("[CLS] [SEP] [PAD]", "[SEP] [SEP] text that looks like [MASK] markers [SEP]"),
    ("[PAD] what is [UNK] padding [PAD]", "[PAD] [PAD] it fills [PAD] rows up [PAD]"),
    ("<s> </s> <pad>", "</s></s> text that looks like <mask> markers </s>"),
    ("<pad> what is <unk> padding <pad>", "<pad> <pad> it fills <pad> rows up <pad>"),
    ("ANTIDISESTABLISHMENTARIANISM", "pneumonoultramicroscopicsilicovolcanoconiosis" * 4),
    ("don't can't o'clock", "“curly” ‘quotes’ — dashes – and … dots"),
)


MAX_WORDS = 512
"""Maximum number of words of a text. The memory of attention grows with the square of the tokens: the attention scores of one
layer of a base model take 52 GB for a batch of sixteen pairs of 8,192 tokens, but 1.3 GB for sixteen pairs of 1,300 tokens. Two
texts of this length have about 1,300 tokens."""


def builtin_pairs(max_length: int) -> list[tuple[str, str]]:
    """Return the built-in pairs. Either text has from one word to more than `max_length` tokens or `MAX_WORDS` words."""
    max_length = min(max_length, MAX_WORDS)
    pairs = [(query, passage) for query in _QUERIES for passage in _PASSAGES]
    pairs += _EDGES
    for words in sorted({1, 7, 8, 9, 63, 64, 65, max_length // 2, max_length - 4, max_length, max_length + 40}):
        pairs.append(("long passages", _words(words)))
    return [*pairs, *overlong_pairs(max_length)[1:]]


def overlong_pairs(max_length: int) -> list[tuple[str, str]]:
    """Return pairs of more than `max_length` tokens: with a long passage, with a long query, and with both long."""
    return [
        ("long passages", _words(max_length + 40)),
        (_words(max_length + 20), "a short passage"),
        (_words(max_length), _words(max_length)),
    ]


def groups_of(pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
    """Return, for each query with at least two pairs, the indices of its pairs."""
    by_query: dict[str, list[int]] = {}
    for index, (query, _) in enumerate(pairs):
        by_query.setdefault(query, []).append(index)
    return [group for group in by_query.values() if len(group) > 1]


def _words(count: int) -> str:
    stock = " ".join(_PASSAGES).split()
    return " ".join(stock[i % len(stock)] for i in range(max(count, 1)))
