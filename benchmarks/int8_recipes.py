#!/usr/bin/env python3
"""Which INT8 recipe keeps the ranking? Simulated in PyTorch, before any of them is built.

    benchmarks/int8_recipes.py CHECKPOINT --queries Q.tsv --passages P.tsv --run BM25.trec --qrels QRELS \\
        --out benchmarks/results/int8_recipes.json

Every encoder linear gets weights of 8 bits, symmetric, one scale an output channel, and an input of 8 bits, one scale a
tensor. Ranges come from half of the queries, the verdict from the other half, both ways round. The sums are exact, as in
integer arithmetic; what a backend adds is not in it. The last layer's query, attention output and feed-forward, which
are computed for [CLS] alone, stay in floating point.
"""

import argparse
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import torch
import transformers
from result import write_result
from tqdm import tqdm

from crossrt.calibration.ranking import kendall_tau, top_overlap
from crossrt.engine.encoding import PairEncoder
from crossrt.engine.plan import Batch, plan
from crossrt.engine.trec import read_collection, read_qrels

Tensor = torch.Tensor
PAIRS_A_QUERY = 12  # for calibration
ROWS = 4000  # tokens on which a candidate is judged
ALPHAS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9)
SHRINK = (1.0, 0.8, 0.6)


class Input:
    """What calibration saw of one tensor that feeds linear layers: rows, and each channel's least and greatest."""

    def __init__(self, rows: Tensor, weights: Sequence[Tensor]) -> None:
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:ROWS]
        self.rows, self.weights = rows[chosen], weights
        self.least, self.greatest = rows.amin(0), rows.amax(0)
        self.magnitude = torch.maximum(-self.least, self.greatest).clamp(min=1e-5)
        self.weight = torch.cat(list(weights)).abs().amax(0).clamp(min=1e-5)


class Recipe:
    """How one input is quantised: divided by `smooth`, clipped to `low` and `high`, but for `kept` channels."""

    def __init__(self, seen: Input, *, alpha: float, kept: int, shrink: float = 1.0, symmetric: bool = False) -> None:
        self.name = f"alpha {alpha}, {kept} channels kept, range x {shrink}"
        self.quantized = torch.ones_like(seen.magnitude, dtype=torch.bool)
        if kept:
            self.quantized[torch.topk(seen.magnitude / seen.magnitude.median(), kept).indices] = False
        self.smooth = torch.ones_like(seen.magnitude)
        if alpha:  # Xiao et al. 2023 (SmoothQuant, arXiv:2211.10438), equation 4
            self.smooth = seen.magnitude**alpha / seen.weight ** (1 - alpha)
            self.smooth /= self.smooth[self.quantized].median()
        low = (seen.least / self.smooth)[self.quantized].min() * shrink
        high = (seen.greatest / self.smooth)[self.quantized].max() * shrink
        if symmetric:
            high = torch.maximum(-low, high)
            low = -high
        self.scale, self.middle = (high - low) / 254, (high + low) / 2

    def input(self, values: Tensor) -> Tensor:
        """Return the input as the integer arithmetic sees it."""
        smooth = values / self.smooth
        rounded = ((smooth - self.middle) / self.scale).round().clamp(-127, 127) * self.scale + self.middle
        return torch.where(self.quantized, rounded, smooth)

    def weight(self, weight: Tensor) -> Tensor:
        """Return the weight of a linear layer [out, in] in 8 bits; kept channels are exact."""
        smooth = weight * self.smooth
        scale = smooth[:, self.quantized].abs().amax(1, keepdim=True) / 127
        return torch.where(self.quantized, (smooth / scale).round().clamp(-127, 127) * scale, smooth)


def error(seen: Input, recipe: Recipe) -> float:
    """Return the mean squared error of the layers' outputs, each token's by its own norm.

    By its own norm, because LayerNorm follows: summed plainly, the one token of a text with massive activations
    outweighs all others.
    """
    total = 0.0
    for weight in seen.weights:
        exact = seen.rows @ weight.T
        wrong = ((recipe.input(seen.rows) @ recipe.weight(weight).T - exact) ** 2).sum(1)
        norm = (exact**2).sum(1)
        total += float((wrong / (norm + 0.1 * norm.median())).mean())
    return total / len(seen.weights)


def best(seen: Input, *, kept: int, symmetric: bool = False) -> Recipe:
    """Return the recipe of the least error among the smoothings and ranges."""
    found = [
        Recipe(seen, alpha=alpha, kept=kept, shrink=shrink, symmetric=symmetric)
        for alpha in ALPHAS
        for shrink in SHRINK
    ]
    return min(found, key=lambda recipe: error(seen, recipe))


RECIPES: dict[str, Callable[[Input], Recipe]] = {
    "min-max": lambda seen: Recipe(seen, alpha=0.0, kept=0),
    "min-max, symmetric": lambda seen: Recipe(seen, alpha=0.0, kept=0, symmetric=True),
    "SmoothQuant 0.5": lambda seen: Recipe(seen, alpha=0.5, kept=0),
    "SmoothQuant 0.85": lambda seen: Recipe(seen, alpha=0.85, kept=0),
    "least error a token": lambda seen: best(seen, kept=0),
    "least error a token, 4 channels kept": lambda seen: best(seen, kept=4),
    "least error a token, 4 channels kept, symmetric": lambda seen: best(seen, kept=4, symmetric=True),
}


def source_of(name: str) -> str:
    """Query, key and value read one tensor."""
    return name.replace(".key", ".query").replace(".value", ".query")


class Model:
    """The checkpoint, with its encoder's linear layers at hand."""

    def __init__(self, path: Path) -> None:
        self.model = transformers.BertForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
        modules = self.model.bert.encoder.named_modules()
        last = f"layer.{self.model.config.num_hidden_layers - 1}."
        self.linears = {
            name: module
            for name, module in modules
            if isinstance(module, torch.nn.Linear)
            and not (name.startswith(last) and not name.endswith(("key", "value")))
        }
        self.weights = {name: linear.weight.data.clone() for name, linear in self.linears.items()}
        self.encoder = PairEncoder.from_file(path / "tokenizer.json", max_length=512)

    def batches(self, pairs: Sequence[tuple[str, str]], *, rows: int) -> list[Batch]:
        """Tokenize and cut."""
        encoded = self.encoder.encode(pairs)
        return list(plan(encoded.lengths, batch_size=rows).batches(encoded, pad_id=0))

    @torch.inference_mode()
    def scores(self, pairs: Sequence[tuple[str, str]], *, rows: int = 16) -> Any:
        """Return logits, float32 [n]."""
        found = np.empty(len(pairs), dtype=np.float32)
        for batch in tqdm(self.batches(pairs, rows=rows), mininterval=10):
            names = ("input_ids", "attention_mask", "token_type_ids")
            inputs = {name: torch.from_numpy(getattr(batch, name)) for name in names}
            found[batch.rows] = self.model(**inputs).logits[:, 0].numpy()
        return found

    def observe(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Input]:
        """Return what feeds the linear layers, over pairs scored alone, so without padding."""
        rows: dict[str, list[Tensor]] = {}
        sources = sorted({source_of(name) for name in self.linears})

        def keep(name: str) -> Callable[..., None]:
            return lambda module, inputs: rows.setdefault(name, []).append(inputs[0].flatten(0, 1).clone())

        # The last layer's query stays exact, but its input is what key and value read.
        modules = dict(self.model.bert.encoder.named_modules())
        hooks = [modules[name].register_forward_pre_hook(keep(name)) for name in sources]
        self.scores(pairs, rows=1)
        for hook in hooks:
            hook.remove()
        return {
            name: Input(
                torch.cat(rows.pop(name)), [self.weights[other] for other in self.linears if source_of(other) == name]
            )
            for name in sources
        }

    def quantized_scores(self, recipes: dict[str, Recipe], pairs: Sequence[tuple[str, str]]) -> Any:
        """Return the logits with every linear layer quantised by the recipe of its input."""
        hooks = []
        for name, linear in self.linears.items():
            recipe = recipes[source_of(name)]
            linear.weight.data.copy_(recipe.weight(self.weights[name]))
            hooks.append(linear.register_forward_pre_hook(lambda _, inputs, recipe=recipe: (recipe.input(inputs[0]),)))
        try:
            return self.scores(pairs)
        finally:
            for hook in hooks:
                hook.remove()
            for name, linear in self.linears.items():
                linear.weight.data.copy_(self.weights[name])


def main() -> None:
    """Calibrate on one half, judge on the other, both ways round; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a BERT cross-encoder")
    for name in ("queries", "passages", "run", "qrels"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    queries, passages, run = read_collection(arguments.queries, arguments.passages, arguments.run)
    qrels = read_qrels(arguments.qrels)
    model = Model(arguments.checkpoint)
    names = sorted(run)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    rows: list[dict[str, Any]] = []
    for calibrating, judging in (halves, halves[::-1]):
        rng = random.Random(0)
        seen = model.observe(
            [
                (queries[query], passages[passage])
                for query in calibrating
                for passage in rng.sample(list(run[query]), PAIRS_A_QUERY)
            ]
        )
        ranked = [(query, passage) for query in judging for passage in list(run[query])[: arguments.candidates]]
        pairs = [(queries[query], passages[passage]) for query, passage in ranked]
        lists = [np.array([i for i, (other, _) in enumerate(ranked) if other == query]) for query in judging]
        exact = model.scores(pairs)
        for name, recipe in RECIPES.items():
            found = model.quantized_scores({source: recipe(one) for source, one in seen.items()}, pairs)
            rows.append(
                {
                    "recipe": name,
                    "judged_on": f"{len(judging)} queries from {judging[0]}",
                    "max_abs_diff": round(float(np.abs(found - exact).max()), 3),
                    "mean_abs_diff": round(float(np.abs(found - exact).mean()), 4),
                    "top10_overlap": round(float(np.mean([top_overlap(exact[i], found[i]) for i in lists])), 4),
                    "kendall_tau": round(float(np.mean([kendall_tau(exact[i], found[i]) for i in lists])), 4),
                    "ndcg10_fp32": round(ndcg(qrels, ranked, exact), 4),
                    "ndcg10_int8": round(ndcg(qrels, ranked, found), 4),
                }
            )
            print(rows[-1], flush=True)
    if arguments.out:
        write_result(arguments.out, {"candidates": arguments.candidates, "rows": rows})


def ndcg(qrels: dict[str, dict[str, int]], ranked: Sequence[tuple[str, str]], scores: Any) -> float:
    """Return mean nDCG@10 over the ranked queries."""
    run: dict[str, dict[str, float]] = {}
    for (query, passage), score in zip(ranked, scores.tolist(), strict=True):
        run.setdefault(query, {})[passage] = score
    measure = ir_measures.parse_measure("nDCG@10")
    judged = {query: qrels[query] for query in run if query in qrels}
    return float(ir_measures.calc_aggregate([measure], judged, run)[measure])


if __name__ == "__main__":
    main()
