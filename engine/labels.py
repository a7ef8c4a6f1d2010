"""The labels of a classification head: which one means "relevant", and the margin that ranks by it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import OptionError

RELEVANT = frozenset(
    {"relevant", "entailment", "yes", "true", "positive", "answerable", "duplicate", "equivalent", "paraphrase"}
)
"""Names of labels that mean relevant, in lower case with spaces instead of `_` and `-`."""
IRRELEVANT = frozenset({"irrelevant", "contradiction", "no", "false", "negative", "unanswerable"})
"""Names of labels that mean not relevant. A name of `RELEVANT` with "not" or "non" before it means the same."""


def relevant_by_name(names: Sequence[str], labels: int) -> int | None:
    """Return the index of the label that means "relevant", judged by the names; None if the user has to choose.

    A single label is the relevant one. Of two labels, it is the one whose name means relevant. If only the opposite is named, it
    is the other label. Otherwise it is label 1, as in the published two-label rerankers. For more labels there is no convention,
    so the result is None.
    """
    if labels == 1:
        return 0
    if labels > 2:
        return None
    sides = [_side(name) for name in names]
    return 0 if sides in ([True, False], [True, None], [None, False]) else 1


def label_number(choice: Any, names: Sequence[str], labels: int) -> int:
    """Return the index of the label that the caller chose by index or by name.

    An exact name takes precedence over one that differs in case. A head without names has those of transformers, LABEL_0 and so
    on. A string of digits that is not a name counts as an index, so that command lines can pass one. Raises OptionError, listing
    the labels, for anything else.
    """
    if isinstance(choice, str):
        names = names or [f"LABEL_{number}" for number in range(labels)]
        matches = [number for number, name in enumerate(names) if name == choice]
        matches = matches or [number for number, name in enumerate(names) if name.lower() == choice.lower()]
        if len(matches) == 1:
            return matches[0]
        if not matches and choice.isdecimal():
            choice = int(choice)
    whole = isinstance(choice, (int, np.integer)) and not isinstance(choice, bool)
    if not whole or not 0 <= choice < labels:
        raise OptionError(f"relevant_label={choice!r} is none of the model's labels: {described(names, labels)}")
    return int(choice)


def need_label(label: int | None, names: Sequence[str], labels: int) -> int:
    """Return `label`. Raises OptionError, saying how to choose one, if it is None."""
    if label is None:
        raise OptionError(
            f"the model has {labels} labels, and nothing says which of them means relevant, so it cannot rank: choose one "
            f"with relevant_label= (on the command line --relevant-label), of {described(names, labels)}. predict gives "
            "the scores of all"
        )
    return label


def described(names: Sequence[str], labels: int) -> str:
    """Return the labels as a string for messages, such as `0 (contradiction), 1 (entailment)`."""
    return ", ".join(f"{number} ({names[number]})" if names else str(number) for number in range(labels))


def margin(logits: npt.NDArray[np.float32], label: int) -> npt.NDArray[np.float32]:
    """Return the margin of `label`, float32 [n], from logits [n, labels].

    For one label it is the logit. For several it is the logit of `label` minus the logsumexp of the others; for two labels
    that is the difference of the logits. The sigmoid of the margin is the softmax of `label`. So the margin gives the same order
    as the softmax, but does not saturate.
    """
    if logits.shape[1] == 1:
        return logits[:, 0]
    others = np.delete(logits, label, axis=1)
    return np.asarray(logits[:, label] - np.logaddexp.reduce(others, axis=1), dtype=np.float32)


def _side(name: str) -> bool | None:
    """Tell whether a name means relevant (True), not relevant (False) or neither (None)."""
    words = name.lower().replace("_", " ").replace("-", " ").strip()
    if words in IRRELEVANT:
        return False
    if words in RELEVANT:
        return True
    for negation in ("not", "non"):
        if words.removeprefix(negation).strip() in RELEVANT and words.startswith(negation):
            return False
    return None
