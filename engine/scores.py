"""From logits to scores: `label_scores`, which `predict` returns, and `relevance_scores`, which `rank` sorts by."""

import numpy as np

from .activation import Activation, Floats, apply, is_softmax, softmax
from .labels import margin


def label_scores(logits: Floats, activation: Activation, *, apply_softmax: bool = False) -> Floats:
    """Apply the activation to logits [n, labels]. Returns float32 (n,) for one label, (n, labels) for several.

    `apply_softmax` then takes the softmax over each pair's labels; it has no effect on one label.
    """
    scores = apply(activation, logits)
    if logits.shape[1] == 1:
        return scores.reshape(-1)
    return softmax(scores) if apply_softmax else scores


def raw_relevance(logits: Floats, label: int) -> Floats:
    """Return the relevance before any activation, float32 [n]: the logit of a single label, or else the margin of `label`."""
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        return logits[:, 0] if logits.shape[1] == 1 else margin(logits, label)


def relevance_scores(
    logits: Floats, label: int, *, default: Activation, chosen: Activation | None, apply_softmax: bool = False
) -> Floats:
    """Return one score per pair, float32 [n], from logits [n, labels] and the `label` that means relevant.

    One label: the activation of its logit, `chosen` or else the model's `default`. Several labels: the margin of `label` (see
    `labels.margin`), with `chosen` applied if it is given. The default is not applied to a margin. A softmax, by `chosen` or
    `apply_softmax`, is taken over each pair's labels instead, as in `label_scores`.
    """
    activation = default if chosen is None else chosen
    if logits.shape[1] == 1:
        return label_scores(logits, activation).reshape(len(logits))
    if apply_softmax or (chosen is not None and is_softmax(chosen)):
        return label_scores(logits, activation, apply_softmax=apply_softmax)[:, label]
    relevant = margin(logits, label)
    return relevant if chosen is None else apply(chosen, relevant)


def best_first(scores: Floats, top_k: int | None) -> list[int]:
    """Return the indices of the `top_k` best scores, or of all, best first; equal scores keep their order."""
    best: list[int] = np.argsort(-scores, kind="stable")[:top_k].tolist()
    return best
