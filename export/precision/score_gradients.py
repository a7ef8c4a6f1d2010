"""`score_gradients`: gradients of a model's score with respect to inputs and outputs of its linear layers."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from ...calibration.token_moments import MIN_NORM
from ...engine.labels import need_label
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.reference import Reference

PAIRS = 200
"""Maximum number of pairs, each with a forward and a backward pass."""
TOKENS = 8
"""Number of tokens that are sampled from each pair, in addition to [CLS]."""
MOMENT_TOKENS = 40
"""Number of tokens of each pair, in addition to [CLS], that enter `GradientSample.output_moments`."""


@dataclass(frozen=True, slots=True, eq=False)
class GradientSample:
    """Sampled tokens of a tensor that linear layers read. All fields are float32 tensors of PyTorch.

    `rows` [tokens, channels] is the tensor, and `gradients` [tokens, channels] the derivative of the score with respect to it.
    `output_gradients` [tokens, outputs] is the derivative with respect to the layers' outputs. `weight` [tokens] is how many
    tokens of its pair a sampled token represents; [CLS] represents only itself. `is_cls` [tokens] is 1 for [CLS], otherwise 0.

    `output_moments` [outputs, outputs] is the sum of g g^T over more tokens, where g is a token's output gradient multiplied by
    the norm of its outputs, because `TokenMoments` divides the token by this norm.
    """

    rows: torch.Tensor
    gradients: torch.Tensor
    output_gradients: torch.Tensor
    weight: torch.Tensor
    is_cls: torch.Tensor
    output_moments: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class ScoreGradients:
    """The gradients at each site, the `pairs` from which they come, and PyTorch's `logits` of these, float32 [pairs, labels]."""

    samples: Mapping[str, GradientSample]
    pairs: Sequence[tuple[str, str]]
    logits: npt.NDArray[np.float32]


def score_gradients(
    checkpoint: Checkpoint,
    sites: Mapping[str, Sequence[str]],
    pairs: Sequence[tuple[str, str]],
    *,
    max_length: int,
    seed: int = 0,
    progress: bool = False,
) -> ScoreGradients:
    """Differentiate the score that ranks in PyTorch. `sites` maps a name to the linear layers that read the same tensor.

    The score of a model with several labels is the margin of its relevant label. Raises OptionError if the checkpoint has more
    than two labels and none was chosen.
    """
    label = need_label(checkpoint.relevant_label, checkpoint.label_names, checkpoint.labels)
    reference = Reference(checkpoint)
    model = reference.model.requires_grad_(False)
    recorder = _Recorder(model, checkpoint, sites)
    generator = np.random.default_rng(seed)
    sample = random.Random(seed).sample(list(pairs), min(PAIRS, len(pairs)))
    logits = []
    for pair in tqdm(sample, desc="Differentiating", unit="pair", disable=not progress):
        with torch.enable_grad():
            computed = model(reference.batch_of(pair, max_length))
            _margin(computed, label).sum().backward()  # type: ignore[no-untyped-call]
        logits.append(computed.detach().float().numpy())
        recorder.take(generator)
    return ScoreGradients(recorder.samples(), sample, np.concatenate(logits))


def _margin(logits: torch.Tensor, label: int) -> torch.Tensor:
    """Return what `engine.labels.margin` returns, [n], of logits [n, labels]."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    others = [number for number in range(logits.shape[1]) if number != label]
    return logits[:, label] - logits[:, others].logsumexp(1)


class _Recorder:
    """Keeps inputs and gradients of sampled tokens at the linear layers of each site."""

    def __init__(self, model: Any, checkpoint: Checkpoint, sites: Mapping[str, Sequence[str]]) -> None:
        self._sites = sites
        self._parts: dict[str, list[tuple[torch.Tensor, ...]]] = {site: [] for site in sites}
        self._moments: dict[str, torch.Tensor] = {}
        self._least: dict[str, torch.Tensor] = {}
        self._rows: dict[str, torch.Tensor] = {}
        self._squares: dict[str, torch.Tensor] = {}
        self._gradients: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        modules = dict(model.named_modules())
        for linear in (linear for linears in sites.values() for linear in linears):
            module = checkpoint.module_of(linear, modules)
            module.register_forward_hook(self._forward_hook(linear))

    def _forward_hook(self, linear: str) -> Any:
        def hook(module: torch.nn.Linear, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
            self._rows[linear] = inputs[0].detach()[0]
            without_bias = output.detach()[0] if module.bias is None else output.detach()[0] - module.bias
            self._squares[linear] = without_bias.square().sum(1)
            # The graph of autograd begins at the first of these layers, so no gradient is computed for the embeddings.
            output = output if output.requires_grad else output.detach().requires_grad_()
            watched: Any = output
            watched.register_hook(lambda gradient: self._keep(linear, gradient[0], module.weight))
            return output

        return hook

    def _keep(self, linear: str, gradient: torch.Tensor, weight: torch.Tensor) -> None:
        self._gradients[linear] = (gradient @ weight, gradient)

    def take(self, generator: np.random.Generator) -> None:
        """Sample tokens of the pair that was just computed."""
        for site, linears in self._sites.items():
            rows = self._rows[linears[0]]
            order = generator.permutation(len(rows) - 1)
            tokens, weight = _cls_and(order[:TOKENS], len(rows))
            found = [self._gradients[linear] for linear in linears]
            by_output = torch.cat([each for _, each in found], 1)
            part = (
                rows[tokens],
                torch.stack([by_input for by_input, _ in found]).sum(0)[tokens],
                by_output[tokens],
                weight,
                torch.tensor(tokens == 0, dtype=torch.float32),
            )
            self._parts[site].append(part)
            squares = torch.stack([self._squares[linear] for linear in linears]).sum(0)
            least = self._least.setdefault(site, MIN_NORM * squares.median())
            tokens, weight = _cls_and(order[:MOMENT_TOKENS], len(rows))
            scaled = by_output[tokens] * ((squares[tokens] + least) * weight).sqrt()[:, None]
            self._moments[site] = self._moments.get(site, 0) + scaled.T @ scaled

    def samples(self) -> dict[str, GradientSample]:
        """Return the samples of all pairs."""
        samples = {}
        for site, parts in self._parts.items():
            rows, gradients, output_gradients, weight, is_cls = (
                torch.cat(column) for column in zip(*parts, strict=True)
            )
            samples[site] = GradientSample(rows, gradients, output_gradients, weight, is_cls, self._moments[site])
        return samples


def _cls_and(others: npt.NDArray[np.int64], length: int) -> tuple[npt.NDArray[np.int64], torch.Tensor]:
    """Return the indices of [CLS] and of `others`, which are counted without [CLS], and how many tokens each represents."""
    weight = np.append(1, np.full(len(others), (length - 1) / max(len(others), 1)))
    return np.append(0, 1 + others), torch.tensor(weight, dtype=torch.float32)
