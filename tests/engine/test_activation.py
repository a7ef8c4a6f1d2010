"""Activations by name, as NumPy functions and as torch modules; errors of a caller's function are raised unchanged."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crossrt.engine.activation import NAMED, apply, is_softmax, name_from_config, sigmoid, softmax

torch = pytest.importorskip("torch")

LOGITS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


@pytest.mark.parametrize("name", sorted(NAMED))
def test_a_named_activation_is_torchs(name: str) -> None:
    theirs = {"identity": lambda x: x, "softmax": lambda x: torch.softmax(x, -1)}.get(name) or getattr(torch, name)
    found = apply(name, LOGITS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, theirs(torch.from_numpy(LOGITS)).numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        torch.nn.Sigmoid(),
        torch.sigmoid,
        lambda x: torch.sigmoid(x),
        lambda x: x.sigmoid(),
        lambda x: x.exp() / (1 + x.exp()),
        lambda x: torch.nn.functional.logsigmoid(x).exp(),
        lambda x: torch.where(x > 0, torch.sigmoid(x), torch.sigmoid(x)),
        lambda x: x.sum(dim=1, keepdim=True) * 0 + torch.sigmoid(x),
        lambda x: x.sum(1, keepdim=True) * 0 + torch.sigmoid(x),
        lambda x: torch.sigmoid(x.view(-1)).view(x.size(0), 3),
        lambda x: x.sort(descending=True).values * 0 + torch.sigmoid(x),
        lambda x: torch.sigmoid(x.__imul__(-1).mul(-1)),  # in place, before it fails for an array
        lambda x: 1 / (1 + np.exp(-x)),
    ],
)
def test_functions_of_arrays_and_of_tensors_are_both_taken(function: Callable[[Any], Any]) -> None:
    expected = sigmoid(LOGITS)
    np.testing.assert_allclose(apply(function, LOGITS), expected, atol=1e-6)
    np.testing.assert_array_equal(sigmoid(LOGITS), expected, "the logits are as they were")


def unfit(logits: Any) -> Any:
    return logits + "text"


def of_no_arguments() -> None:
    return None


def of_another(logits: Any) -> Any:
    return {}.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("function", "fault"), [(unfit, TypeError), (of_no_arguments, TypeError), (of_another, AttributeError)]
)
def test_a_fault_of_the_callers_function_is_raised_as_the_array_shows_it(
    function: Callable[..., Any], fault: type[Exception]
) -> None:
    given: list[Any] = []

    def counted(*arguments: Any) -> Any:
        given.append(arguments[0])
        return function(*arguments)

    with pytest.raises(fault) as caught:
        apply(counted, LOGITS)
    assert caught.value.__context__ is None
    assert [type(each) for each in given] == [np.ndarray, torch.Tensor]


def test_a_softmax_is_known_by_name_and_as_torch_and_scipy_have_it() -> None:
    known = [
        "softmax",
        softmax,
        torch.softmax,
        torch.nn.Softmax(dim=1),
        torch.nn.LogSoftmax(1),
        torch.nn.functional.softmax,
    ]
    assert all(map(is_softmax, known))
    assert not any(
        map(is_softmax, ["sigmoid", sigmoid, torch.sigmoid, torch.nn.Softplus(), torch.nn.Softsign(), lambda x: x])
    )


TANH, SIGMOID = "torch.nn.modules.activation.Tanh", "torch.nn.modules.activation.Sigmoid"


@pytest.mark.parametrize(
    ("config", "saved", "expected"),
    [
        ({"sbert_ce_default_activation_function": TANH}, {"activation_fn": "my.Own"}, "tanh"),
        (
            {"sentence_transformers": {"activation_fn": None}, "sbert_ce_default_activation_function": TANH},
            {},
            "default",
        ),
        ({"sentence_transformers": {"version": "5"}, "sbert_ce_default_activation_function": TANH}, {}, "tanh"),
        ({"sentence_transformers": {"activation_fn": SIGMOID}}, {"activation_fn": TANH}, "tanh"),
    ],
)
def test_an_activation_that_is_not_trusted_leaves_the_next_place_its_say(
    config: dict[str, Any], saved: dict[str, Any], expected: str
) -> None:
    assert name_from_config(config, saved, "default") == expected
