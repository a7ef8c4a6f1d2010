"""The words and the WordPiece vocabulary of models with seeded weights."""

import random
import string

WORDS = (
    "the of and to in a is for on that by this with are be as at from or have an it was not can all your has more will "
    "what how who when where which why long does take much many people city river light weather climate printing press "
    "vitamin passport renew sun bone salt eggs flour oxygen nitrogen blue green red north south water berlin paris "
    "population museum capital france germany average years months weeks online old new common recipe cup pinch main "
    "sources skin fish metal type wood china centuries before shifts rainfall across pacific undamaged issued less than"
).split()


def vocabulary(size: int, *, multilingual: bool = False) -> list[str]:
    """Return a WordPiece vocabulary of exactly `size` tokens, with BERT's ids for special tokens."""
    rng = random.Random(0)
    tokens = ["[PAD]", *(f"[unused{number}]" for number in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [character for character in string.printable.strip() if not character.isupper()]
    letters += [
        chr(code)
        for first, last in (
            (0xE0, 0xFF),
            (0x3B1, 0x3C9),
            (0x430, 0x44F),
            (0x5D0, 0x5EA),
            (0x627, 0x64A),
            (0x3041, 0x3093),
        )
        for code in range(first, last + 1)
    ]
    if multilingual:
        letters += [chr(code) for code in range(0x4E00, 0x5E00)]
    pieces = [f"##{character}" for character in letters if character.isalnum()]
    endings = [
        "##" + ending for ending in "s es ed ing er ers ly al tion tions ment ness able ity ive ous est en y".split()
    ]
    known = dict.fromkeys([*tokens, *letters, *pieces, *WORDS, *endings])
    while len(known) < size:
        word = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 9)))
        known[word if rng.random() < 0.7 else f"##{word}"] = None
    return list(known)[:size]
