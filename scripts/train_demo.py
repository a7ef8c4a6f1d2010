#!/usr/bin/env python3
"""Train the demo checkpoint on Debian's package descriptions, compare it with BM25, and write demo/.

    scripts/train_demo.py --out demo --steps 3000

A query is a package's synopsis. A passage is its long description without the synopsis. Needs torch, transformers, tokenizers,
bm25s, scipy, tqdm, and apt on the machine. apt is also needed with --lists, since it reads the index files. Held-out packages
decide: unless the model beats BM25's MRR@10 by 0.05, with a bootstrap interval above zero, nothing is written.
"""

import argparse
import hashlib
import json
import math
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt
import torch
from demo_data import SHINGLE, Package, fetch_lists, index_files, read_packages, split, text_of
from demo_model import (
    HIDDEN,
    MEANING,
    POSITIONS,
    SPECIAL,
    Pair,
    encoded,
    logits_of,
    make_model,
    make_tokenizer,
    rarity,
    word_vectors,
)
from tokenizers import Tokenizer
from tqdm import tqdm

SHORT, LONG = 80, POSITIONS  # longest training pair in tokens: at first, and in the last part
LONG_FROM = 0.75  # share of the steps after which pairs are long
CURRICULUM = 0.1  # share of the steps after which the candidates are hardest
CANDIDATES = 50
LEXICAL_SHARPNESS = 16.0  # logit of a query's greatest possible BM25 score
SAMPLE_QUERIES = 200
CALIBRATION_QUERIES = 250
MINIMUM_GAIN = 0.05
K1, B = 0.9, 0.4


# -- BM25


def bm25_candidates(packages: Sequence[Package], depth: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return indices and scores [packages, depth] of the best passages for each package's synopsis."""
    retriever = bm25s.BM25(k1=K1, b=B)
    passages = bm25s.tokenize([package.description for package in packages], stopwords="en", show_progress=False)
    queries = bm25s.tokenize([package.synopsis for package in packages], stopwords="en", show_progress=False)
    retriever.index(passages, show_progress=False)
    found, scores = retriever.retrieve(queries, k=depth, show_progress=False)
    return np.asarray(found, dtype=np.int64), np.asarray(scores, dtype=np.float32)


class TokenBM25:
    """BM25 over the tokenizer's tokens: the scores of a model that only looks for the query's tokens."""

    def __init__(self, texts: Sequence[Pair]) -> None:
        self.counts = [Counter(passage[:POSITIONS]) for _, passage in texts]
        documents = Counter(token for count in self.counts for token in count)
        self.idf = {token: math.log(1 + (len(texts) - n + 0.5) / (n + 0.5)) for token, n in documents.items()}
        self.unknown = math.log(2 * len(texts))
        self.mean = sum(count.total() for count in self.counts) / len(texts)

    def share(self, query: Sequence[int], passage: int) -> float:
        """Return the score as a share of the greatest possible score of the query, 0 to 1."""
        count = self.counts[passage]
        norm = K1 * (1 - B + B * count.total() / self.mean)
        weights = {token: self.idf.get(token, self.unknown) for token in set(query)}
        score = sum(weight * count[token] / (count[token] + norm) for token, weight in weights.items())
        return score / max(sum(weights.values()), 1e-9)


def reciprocal_ranks(order: Sequence[Sequence[int]], relevant: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return RR@10 of each query. It is 0 if the relevant passage is not among the ten."""
    ranks = [
        list(found[:10]).index(wanted) + 1 if wanted in found[:10] else 0
        for found, wanted in zip(order, relevant, strict=True)
    ]
    return np.array([1 / rank if rank else 0.0 for rank in ranks])


# -- training


def lists_of(
    packages: Sequence[Package],
    texts: Sequence[Pair],
    found: npt.NDArray[np.int64],
    *,
    batch: int,
    negatives: int,
    steps: int,
    rng: random.Random,
) -> Iterator[tuple[list[Pair], torch.Tensor]]:
    """Yield a batch for each step: for each query its own passage and then `negatives` others, and BM25's distributions.

    BM25 is float32 [batch, 1 + negatives]. Each row is a distribution over the passages of a query.

    At first the other passages are random, which teaches that words must match. More and more of them are BM25's best from other
    source packages, which teach the rest. In the end one random passage stays among them.
    """
    order: list[int] = []
    bm25 = TokenBM25(texts)
    for step in range(steps):
        if len(order) < batch:
            order = rng.sample(range(len(texts)), len(texts))
        hard_count = min(negatives - 1, int(negatives * step / (steps * CURRICULUM)))
        pairs, shares = [], []
        for query in (order.pop() for _ in range(batch)):
            hard = [index for index in found[query].tolist() if packages[index].source != packages[query].source]
            chosen = rng.sample(hard, min(hard_count, len(hard)))
            others = [*chosen, *rng.choices(range(len(texts)), k=negatives - len(chosen))]
            pairs += [(texts[query][0], texts[index][1]) for index in (query, *others)]
            shares.append([bm25.share(texts[query][0], index) for index in (query, *others)])
        yield pairs, torch.softmax(LEXICAL_SHARPNESS * torch.tensor(shares), dim=1)


def train(
    model: Any,
    batches: Iterator[tuple[list[Pair], torch.Tensor]],
    *,
    steps: int,
    rate: float,
    batch: int,
    negatives: int,
) -> dict[str, Any]:
    """Train with two listwise softmax losses of equal weight, for the right passage and for BM25's distribution.

    The second loss makes the model rely on the query's words in the passage. Without it, the model soon memorizes the training
    packages. The learning rate rises for 100 steps, then falls to zero.
    """
    decayed = [p for p in model.parameters() if p.ndim == 2]
    plain = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 100, 1 - step / steps))
    target = torch.zeros(batch, dtype=torch.long)
    model.train()
    start, losses = time.monotonic(), []
    for step, (pairs, bm25) in enumerate(tqdm(batches, desc="Training", total=steps, mininterval=10)):
        logits = logits_of(model, pairs, SHORT if step < LONG_FROM * steps else LONG).view(batch, negatives + 1)
        loss = torch.nn.functional.cross_entropy(logits, target)
        losses.append(loss.item())
        take_step(model, optimizer, schedule, loss + torch.nn.functional.cross_entropy(logits, bm25))
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}, loss {np.mean(losses[-100:]):.3f}, {time.monotonic() - start:.0f} s", flush=True)
    return {"steps": steps, "loss": round(float(np.mean(losses[-100:])), 4), "seconds": round(time.monotonic() - start)}


def take_step(model: Any, optimizer: Any, schedule: Any, loss: Any) -> None:
    """Change the weights by one step of the optimizer, with gradients of a norm of at most 1."""
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()


# -- judging


def scored(
    model: Any, pairs: Sequence[tuple[Any, Any]], logits_of: Callable[[list[tuple[Any, Any]]], torch.Tensor]
) -> npt.NDArray[np.float32]:
    """Return one logit for each pair of tokens or texts. `logits_of` gets sorted batches of 64."""
    order = sorted(range(len(pairs)), key=lambda index: len(pairs[index][0]) + len(pairs[index][1]))
    scores = np.empty(len(pairs), dtype=np.float32)
    model.eval()
    with torch.inference_mode():
        for start in tqdm(range(0, len(order), 64), desc="Scoring", mininterval=10):
            rows = order[start : start + 64]
            scores[rows] = logits_of([pairs[row] for row in rows]).numpy()
    return scores


def check_forward(model: Any, tokenizer: Tokenizer, packages: Sequence[Package]) -> None:
    """Compare `logits_of` with the model's own forward pass on the tokenizer's own encoding."""
    model.eval()
    for package, pair in zip(packages, encoded(tokenizer, packages), strict=True):
        encoding = tokenizer.encode(package.synopsis, package.description)
        if len(encoding.ids) > POSITIONS:
            continue  # the tokenizer does not truncate, `logits_of` would
        ids, types = torch.tensor([encoding.ids]), torch.tensor([encoding.type_ids])
        with torch.inference_mode():
            expected = model(input_ids=ids, token_type_ids=types).logits[:, 0]
            torch.testing.assert_close(logits_of(model, [pair], POSITIONS), expected, rtol=1e-4, atol=1e-4)


def bootstrap(differences: npt.NDArray[np.float64], rng: np.random.Generator) -> tuple[float, float]:
    """Return the 95 % interval of the mean by 10,000 paired bootstrap samples."""
    means = [rng.choice(differences, len(differences)).mean() for _ in range(10_000)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def judged(bm25: npt.NDArray[np.float64], reranked: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Compare two systems on the same queries."""
    low, high = bootstrap(reranked - bm25, np.random.default_rng(0))
    return {
        "queries": len(bm25),
        "bm25_mrr10": round(float(bm25.mean()), 4),
        "model_mrr10": round(float(reranked.mean()), 4),
        "gain": round(float((reranked - bm25).mean()), 4),
        "interval95": [round(low, 4), round(high, 4)],
    }


def good_enough(result: dict[str, Any]) -> bool:
    """Tell whether the model is good enough to be shipped."""
    return bool(result["gain"] >= MINIMUM_GAIN and result["interval95"][0] > 0)


# -- output


def write_checkpoint(folder: Path, model: Any, tokenizer: Tokenizer, facts: dict[str, Any]) -> None:
    """Write weights, tokenizer, card and facts in the hub's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["sbert_ce_default_activation_function"] = "torch.nn.modules.linear.Identity"
    write_json(folder / "config.json", config)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    ordered = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    write_lines(folder / "vocab.txt", [(token,) for token, _ in ordered])
    special = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL}
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": POSITIONS}
    write_json(folder / "tokenizer_config.json", special | settings)
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "training.json", facts)
    (folder / "README.md").write_text(card(facts), encoding="utf-8")


def card(facts: dict[str, Any]) -> str:
    """Return the model card."""
    data, training = facts["data"], facts["training"]

    def row(name: str, result: dict[str, Any]) -> str:
        low, high = result["interval95"]
        scores = f"{result['bm25_mrr10']:.4f} | {result['model_mrr10']:.4f} | {result['gain']:+.4f}"
        return f"| {result['queries']:,} {name} | {scores} | {low:+.4f} to {high:+.4f} |"

    return f"""# crossrt demo checkpoint

A cross-encoder of {facts["parameters"] / 1e6:.1f} million parameters (BERT, 2 layers x {HIDDEN}, one label, identity activation,
up to {POSITIONS} tokens) that ranks descriptions of Debian packages for a short query. It is there so that crossrt's
quickstart and tests do something real without a network. It is not meant for anything else: for web search take a
published MS MARCO model.

## Data

Synopses (queries) and long descriptions (passages, the synopsis taken out) of the packages of
{data["release"]}: {data["training_packages"]:,} packages for training, and {data["held_out_packages"]:,}
held out, one for each source package. The split is by source package, and a held-out description that shares more than
a tenth of its {SHINGLE}-word runs with the training texts is left out.

The descriptions were written by the packages' maintainers and are distributed as part of those packages, each under its
package's own free licence; `sample/SOURCES.tsv` names the package of each passage. sha256 of the index files:

{chr(10).join(f"- `{name}` {digest}" for name, digest in data["sha256"].items())}

## Training

`scripts/train_demo.py`, seed {facts["seed"]}: {training["steps"]:,} steps, {training["seconds"] / 60:.0f} minutes on two
processor cores. Words begin as vectors of their co-occurrence in the training texts, attention as a search for words of
like meaning; then listwise softmax over one relevant and {facts["negatives"]} other passages (BM25's best, and one at
random), with the relevant one and BM25's own distribution over them as equal targets, AdamW, learning rate
{facts["rate"]:g} falling to zero.

## Result

BM25 (k1 {K1}, b {B}) finds {CANDIDATES} passages among the held-out ones, and the model ranks them again. A query whose
own package BM25 did not find counts 0 for both. Interval: 95 %, paired bootstrap over the queries.

| queries | BM25 MRR@10 | this model MRR@10 | gain | interval |
|--:|--:|--:|--:|--:|
{row("held out", facts["held_out"])}
{row("of them, in `sample/`", facts["sample"])}

## Licence

The weights and the code that made them: Apache-2.0. The texts in `sample/` and `calibration/`: their authors', as above.
"""


def write_json(path: Path, fields: dict[str, Any]) -> None:
    """Write an object as indented JSON."""
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def write_lines(path: Path, rows: Iterable[Sequence[object]], separator: str = "\t") -> None:
    """Write rows of fields as UTF-8 lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(separator.join(map(str, row)) + "\n" for row in rows), encoding="utf-8")


def write_sample(
    folder: Path,
    packages: Sequence[Package],
    queries: Sequence[int],
    found: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
) -> None:
    """Write queries, passages, BM25's run, qrels and the packages of the passages."""
    used = sorted({int(index) for query in queries for index in found[query]})
    write_lines(folder / "queries.tsv", [(f"q{query}", packages[query].synopsis) for query in queries])
    write_lines(folder / "passages.tsv", [(f"p{index}", packages[index].description) for index in used])
    write_lines(folder / "SOURCES.tsv", [(f"p{index}", packages[index].name, packages[index].source) for index in used])
    write_lines(folder / "qrels.txt", [(f"q{query}", 0, f"p{query}", 1) for query in queries], " ")
    run = [
        (f"q{query}", "Q0", f"p{index}", rank, f"{score:.6f}", "bm25")
        for query in queries
        for rank, (index, score) in enumerate(zip(found[query], scores[query], strict=True), start=1)
    ]
    write_lines(folder / "bm25.run.trec", run, " ")


# -- main


def main() -> None:
    """Fetch the data, train the model, judge it and write the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--lists", type=Path, help="folder with index files that are already there")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rate", type=float, default=1.2e-3, help="highest learning rate")
    parser.add_argument("--batch", type=int, default=16, help="queries in a step")
    parser.add_argument("--negatives", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        files = index_files(arguments.lists or fetch_lists(Path(folder)))
        release, packages_text, translations_text = (text_of(path) for path in files)
    header = dict(line.split(": ", 1) for line in release.splitlines() if ": " in line)
    digests = {
        name: hashlib.sha256(text.encode()).hexdigest()
        for name, text in (("Packages", packages_text), ("Translation-en", translations_text))
    }
    training, evaluation = split(read_packages(packages_text, translations_text))
    print(f"{len(training)} training packages, {len(evaluation)} held out", flush=True)

    tokenizer = make_tokenizer(training)
    vocabulary = tokenizer.get_vocab_size()
    texts = encoded(tokenizer, training)
    single = (text for pair in texts for text in pair)
    vectors = torch.from_numpy(word_vectors(vocabulary, single, len(MEANING)))
    model = make_model(rarity(vocabulary, texts), vectors)
    check_forward(model, tokenizer, evaluation[:20])
    training_found, _ = bm25_candidates(training, 30)
    sizes = {"steps": arguments.steps, "batch": arguments.batch, "negatives": arguments.negatives}
    trained = train(model, lists_of(training, texts, training_found, rng=rng, **sizes), rate=arguments.rate, **sizes)

    found, bm25_scores = bm25_candidates(evaluation, CANDIDATES)
    relevant = list(range(len(evaluation)))
    held_out_texts = encoded(tokenizer, evaluation)
    pairs = [(held_out_texts[query][0], held_out_texts[index][1]) for query in relevant for index in found[query]]
    logits = scored(model, pairs, lambda batch: logits_of(model, batch, POSITIONS)).reshape(found.shape)
    reranked = np.take_along_axis(found, np.argsort(-logits, axis=1, kind="stable"), axis=1)
    bm25, ours = (reciprocal_ranks(order.tolist(), relevant) for order in (found, reranked))
    result = judged(bm25, ours)
    print(json.dumps(result), f"logits {logits.min():.1f} to {logits.max():.1f}", flush=True)
    if not good_enough(result):
        raise SystemExit(f"not written: the model gains {result['gain']}, and {MINIMUM_GAIN} above zero is needed")

    sample = sorted(rng.sample(relevant, SAMPLE_QUERIES))
    facts = {
        "seed": arguments.seed,
        "negatives": arguments.negatives,
        "rate": arguments.rate,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "data": {
            "release": f"Debian {header['Version']} ({header['Codename']}, {header['Date']})",
            "training_packages": len(training),
            "held_out_packages": len(evaluation),
            "sha256": digests,
        },
        "training": trained,
        "held_out": result,
        "sample": judged(bm25[sample], ours[sample]),
    }
    write_checkpoint(arguments.out / "checkpoint", model, tokenizer, facts)
    write_sample(arguments.out / "sample", evaluation, sample, found, bm25_scores)
    calibration = [
        (training[query].synopsis, training[index].description)
        for query in sorted(rng.sample(range(len(training)), CALIBRATION_QUERIES))
        for index in (query, *[other for other in training_found[query].tolist() if other != query][:3])
    ]
    write_lines(arguments.out / "calibration" / "pairs.tsv", calibration)


if __name__ == "__main__":
    main()
