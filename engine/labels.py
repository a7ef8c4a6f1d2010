"""The labels of a head: which one means "relevant", and the score that ranks by it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import OptionError

RELEVANT = frozenset(
    {"relevant", "entailment", "yes", "true", "positive", "answerable", "duplicate", "equivalent", "paraphrase"}
)
"""Names, in lower case with spaces for `_` and `-`, of a label that says the passage fits the query."""
IRRELEVANT = frozenset({"irrelevant", "contradiction", "no", "false", "negative", "unanswerable"})
"""Names of a label that says it does not; so does any of the others after a "not" or a "non"."""


def relevant_by_name(names: Sequence[str], labels: int) -> int | None:
    """Return which of a head's labels means "relevant", by their names; None where that has to be chosen.

    One label is relevant itself. Of two, the one whose name says so or whose neighbour's name says the opposite, and
    else label 1, as in the published two-label rerankers. Of more, none is taken unasked: there is no convention.
    """
    if labels == 1:
        return 0
    if labels > 2:
        return None
    sides = [_side(name) for name in names]
    return 0 if sides in ([True, False], [True, None], [None, False]) else 1


def label_number(choice: Any, names: Sequence[str], labels: int) -> int:
    """Return the number of the label that a caller names by its index or its name.

    Names are compared without regard to case; a head without names has transformers', LABEL_0 and so on. A text of digits
    that names no label is an index, for command lines. Raises OptionError, naming what there is, for anything else.
    """
    if isinstance(choice, str):
        names = names or [f"LABEL_{number}" for number in range(labels)]
        found = [number for number, name in enumerate(names) if name == choice]
        found = found or [number for number, name in enumerate(names) if name.lower() == choice.lower()]
        if len(found) == 1:
            return found[0]
        if not found and choice.isdecimal():
            choice = int(choice)
    whole = isinstance(choice, (int, np.integer)) and not isinstance(choice, bool)
    if not whole or not 0 <= choice < labels:
        raise OptionError(f"relevant_label={choice!r} is none of the model's labels: {described(names, labels)}")
    return int(choice)


def need_label(label: int | None, names: Sequence[str], labels: int) -> int:
    """Return `label`. Raises OptionError where none was chosen."""
    if label is None:
        raise OptionError(
            f"the model has {labels} labels, and nothing says which of them means relevant, so it cannot rank: choose one "
            f"with relevant_label= (on the command line --relevant-label), of {described(names, labels)}. predict gives "
            "the scores of all"
        )
    return label


def described(names: Sequence[str], labels: int) -> str:
    """Return the labels for a person, as in `0 (contradiction), 1 (entailment)`."""
    return ", ".join(f"{number} ({names[number]})" if names else str(number) for number in range(labels))


def margin(logits: npt.NDArray[np.float32], label: int) -> npt.NDArray[np.float32]:
    """Return the score that ranks, float32 [n], of logits [n, labels].

    Of one label it is the logit. Of several it is the logit of `label` less the log of the summed exponentials of the
    others, for two labels simply the difference: its sigmoid is the softmax of `label`, and it does not saturate.
    """
    if logits.shape[1] == 1:
        return logits[:, 0]
    others = np.delete(logits, label, axis=1)
    return np.asarray(logits[:, label] - np.logaddexp.reduce(others, axis=1), dtype=np.float32)


def _side(name: str) -> bool | None:
    """Tell whether a name says relevant (True) or not relevant (False); None where it says neither."""
    words = name.lower().replace("_", " ").replace("-", " ").strip()
    if words in IRRELEVANT:
        return False
    if words in RELEVANT:
        return True
    for negation in ("not", "non"):
        if words.removeprefix(negation).strip() in RELEVANT and words.startswith(negation):
            return False
    return None
