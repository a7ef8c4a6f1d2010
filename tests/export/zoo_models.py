"""The models of the zoo as parameters of tests that write them with two layers."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))  # parameters are needed before fixtures are
import model_zoo as zoo

sys.path.pop(0)


def is_repeated(model: Any) -> bool:
    """Tell whether a model differs from an earlier one only in its depth, which a test of two layers does not see."""
    return next(each for each in zoo.ZOO if _with_two_layers(each) == _with_two_layers(model)) is not model


def _with_two_layers(model: Any) -> Any:
    published = dict.fromkeys(("published_ndcg10", "published_mrr10", "published_docs_per_s"), 0)
    return replace(model, name="", layers=2, **published)
