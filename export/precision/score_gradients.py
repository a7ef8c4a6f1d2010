"""`score_gradients`: how much a model's score moves with what its linear layers read, on calibration pairs."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from ...calibration.token_moments import LEAST_NORM
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.reference import Reference

PAIRS = 200
"""Most pairs that are computed, each forward and backward."""
TOKENS = 8
"""Tokens sampled of each pair, beside [CLS]."""
MOMENT_TOKENS = 40
"""Tokens of each pair, beside [CLS], that `GradientSample.output_moments` are of."""


@dataclass(frozen=True, slots=True, eq=False)
class GradientSample:
    """Tokens of one input of linear layers.

    `rows` [tokens, channels] is what the layers read, and `gradients` [tokens, channels] the score's derivative by it;
    `output_gradients` [tokens, outputs] is the derivative by the layers' outputs. A token stands for `weight` [tokens] tokens,
    [CLS] for itself, and `is_cls` [tokens] tells which they are. `output_moments` [outputs, outputs] is the sum of g g^T over
    more tokens, where g is a token's output gradient times the norm of its outputs. (`TokenMoments` divides the token by it.) All
    are float32 tensors of PyTorch.
    """

    rows: torch.Tensor
    gradients: torch.Tensor
    output_gradients: torch.Tensor
    weight: torch.Tensor
    is_cls: torch.Tensor
    output_moments: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class ScoreGradients:
    """The gradients at each site, and the `pairs` that they are of with PyTorch's `logits`, float32 [pairs, labels]."""

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
    """Differentiate the score in PyTorch. `sites` are linear layers that read the same tensor, under a name of the caller's.

    Of several labels the logits are added up.
    """
    reference = Reference(checkpoint)
    model = reference.model.requires_grad_(False)
    recorder = _Recorder(model, checkpoint, sites)
    generator = np.random.default_rng(seed)
    sample = random.Random(seed).sample(list(pairs), min(PAIRS, len(pairs)))
    logits = []
    for pair in tqdm(sample, desc="Differentiating", unit="pair", disable=not progress):
        with torch.enable_grad():
            computed = model(reference.batch_of(pair, max_length))
            computed.sum().backward()
        logits.append(computed.detach().float().numpy())
        recorder.take(generator)
    return ScoreGradients(recorder.samples(), sample, np.concatenate(logits))


class _Recorder:
    """Keeps what the linear layers of each site read and the gradients there, of sampled tokens."""

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
            # Nothing before the first layer needs a gradient, so that none is computed for the embeddings.
            output = output if output.requires_grad else output.detach().requires_grad_()
            watched: Any = output
            watched.register_hook(lambda gradient: self._keep(linear, gradient[0], module.weight))
            return output

        return hook

    def _keep(self, linear: str, gradient: torch.Tensor, weight: torch.Tensor) -> None:
        self._gradients[linear] = (gradient @ weight, gradient)

    def take(self, generator: np.random.Generator) -> None:
        """Take a sample of the last pair's tokens."""
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
            least = self._least.setdefault(site, LEAST_NORM * squares.median())
            tokens, weight = _cls_and(order[:MOMENT_TOKENS], len(rows))
            scaled = by_output[tokens] * ((squares[tokens] + least) * weight).sqrt()[:, None]
            self._moments[site] = self._moments.get(site, 0) + scaled.T @ scaled

    def samples(self) -> dict[str, GradientSample]:
        """Return what was taken of all pairs."""
        samples = {}
        for site, parts in self._parts.items():
            rows, gradients, output_gradients, weight, is_cls = (
                torch.cat(column) for column in zip(*parts, strict=True)
            )
            samples[site] = GradientSample(rows, gradients, output_gradients, weight, is_cls, self._moments[site])
        return samples


def _cls_and(others: npt.NDArray[np.int64], length: int) -> tuple[npt.NDArray[np.int64], torch.Tensor]:
    """Return the numbers of [CLS] and of the other tokens given, counted without it, and how many of a pair each stands for."""
    weight = np.append(1, np.full(len(others), (length - 1) / max(len(others), 1)))
    return np.append(0, 1 + others), torch.tensor(weight, dtype=torch.float32)
