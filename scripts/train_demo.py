#!/usr/bin/env python3
"""Train the demo checkpoint on Debian's package descriptions, measure it against BM25, and write demo/.

    scripts/train_demo.py --out demo --minutes 15

Query: a package's synopsis. Passage: its long description, with the synopsis taken out. Needs torch, transformers,
tokenizers, bm25s, tqdm, and apt on the machine unless --lists names a folder with the index files. Held-out packages
decide: unless the model beats BM25's MRR@10 by 0.05, with a bootstrap interval above zero, nothing is written.
"""

import argparse
import hashlib
import json
import random
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer
from tqdm import tqdm

VOCABULARY = 8000
POSITIONS = 256
TRAIN_LENGTH = 112
CURRICULUM = 0.3  # epochs until the candidates are as hard as they get
CANDIDATES = 50
JUDGED_QUERIES = 1000
SAMPLE_QUERIES = 200
HELD_OUT_SHARE = 3  # one source package in three: the larger the collection, the more BM25 leaves to do
MINIMUM_GAIN = 0.05
RATE = 1.5e-3
SHINGLE = 8  # words


@dataclass(frozen=True, slots=True)
class Package:
    """A binary package: its source package, `synopsis` (the query) and `description` (the passage)."""

    name: str
    source: str
    synopsis: str
    description: str


# -- data


def fetch_lists(folder: Path) -> None:
    """Fetch the package index with English long descriptions into a folder of our own; the machine's is left alone."""
    (folder / "lists/partial").mkdir(parents=True, exist_ok=True)
    options = [f"-oDir::State::Lists={folder / 'lists'}", f"-oDir::Cache={folder}", "-oAcquire::Languages=en"]
    subprocess.run(["apt-get", *options, "-qq", "update"], check=True)


def index_files(lists: Path) -> tuple[Path, Path, Path]:
    """Return the Release, Packages and Translation-en files of the main archive (not updates, not security)."""

    def largest(pattern: str) -> Path:
        found = sorted(lists.glob(pattern), key=lambda path: path.stat().st_size)
        if not found:
            raise SystemExit(f"{lists} holds no {pattern}: run apt-get with -o Acquire::Languages=en update")
        return found[-1]

    return largest("*InRelease"), largest("*_main_binary-*_Packages*"), largest("*_main_i18n_Translation-en*")


def text_of(path: Path) -> str:
    """Return an index file's text; apt knows every compression that it writes."""
    return subprocess.run(
        ["/usr/lib/apt/apt-helper", "cat-file", str(path)], check=True, capture_output=True
    ).stdout.decode()


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """Yield the fields of each stanza of a Debian control file; continuation lines keep their newlines."""
    for stanza in text.split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1] in (" ", "\t"):
                fields[name] += "\n" + line
            elif ":" in line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if fields:
            yield fields


def read_packages(packages: str, translations: str) -> list[Package]:
    """Join the two indexes; one package for each source, the one with the longest description."""
    texts: dict[str, tuple[str, str]] = {}
    for fields in stanzas(translations):
        synopsis, _, long = fields.get("Description-en", "").partition("\n")
        texts[fields.get("Description-md5", "")] = synopsis, flowing(long)
    best: dict[str, Package] = {}
    for fields in stanzas(packages):
        synopsis, description = texts.get(fields.get("Description-md5", ""), ("", ""))
        name = fields.get("Package", "")
        source = fields.get("Source", name).split(" ")[0]
        package = Package(name, source, clean(synopsis), without(clean(description), clean(synopsis)))
        if usable(package) and len(package.description) > len(best.get(source, Package("", "", "", "")).description):
            best[source] = package
    return sorted(best.values(), key=lambda package: package.source)


def flowing(long: str) -> str:
    """Undo the formatting of a long description: leading spaces, and ` .` for an empty line."""
    return " ".join(line.strip() for line in long.splitlines() if line.strip() != ".")


def clean(text: str) -> str:
    """Fold white space."""
    return re.sub(r"\s+", " ", text).strip()


def without(description: str, synopsis: str) -> str:
    """Take the synopsis out of the description, or the question would hold its own answer."""
    return clean(re.sub(re.escape(synopsis), " ", description, flags=re.IGNORECASE)) if synopsis else description


def usable(package: Package) -> bool:
    """Leave out packages whose text says nothing of what they are."""
    empty = re.search(r"transitional|dummy|metapackage|meta-package|debug symbols", package.synopsis, re.IGNORECASE)
    return not empty and len(package.synopsis.split()) >= 3 and len(package.description.split()) >= 20


def held_out(source: str) -> bool:
    """Split by source package, so that no sibling of a held-out package is trained on."""
    return int(hashlib.sha256(source.encode()).hexdigest(), 16) % HELD_OUT_SHARE == 0


def shingles(text: str) -> set[str]:
    """Return all runs of eight words."""
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)}


def split(packages: Sequence[Package]) -> tuple[list[Package], list[Package]]:
    """Return training and held-out packages; of the latter, only those that share no tenth of their text with training."""
    training = [package for package in packages if not held_out(package.source)]
    known = set().union(*(shingles(package.description) for package in training)) if training else set()
    evaluation = []
    for package in packages:
        own = shingles(package.description)
        if held_out(package.source) and len(own & known) * 10 <= len(own):
            evaluation.append(package)
    return training, evaluation


# -- BM25


def bm25_candidates(packages: Sequence[Package], depth: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return indices and scores [packages, depth] of the best passages for each package's synopsis."""
    stop = "en"
    retriever = bm25s.BM25(k1=0.9, b=0.4)
    passages = [package.description for package in packages]
    retriever.index(bm25s.tokenize(passages, stopwords=stop, show_progress=False), show_progress=False)
    queries = bm25s.tokenize([package.synopsis for package in packages], stopwords=stop, show_progress=False)
    found, scores = retriever.retrieve(queries, k=depth, show_progress=False)
    return np.asarray(found, dtype=np.int64), np.asarray(scores, dtype=np.float32)


def reciprocal_ranks(order: Sequence[Sequence[int]], relevant: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return RR@10 of each query; 0 where the relevant passage is not among the ten."""
    ranks = [
        list(found[:10]).index(wanted) + 1 if wanted in found[:10] else 0
        for found, wanted in zip(order, relevant, strict=True)
    ]
    return np.array([1 / rank if rank else 0.0 for rank in ranks])


# -- model


def make_tokenizer(training: Sequence[Package]) -> Tokenizer:
    """Train a lower-casing WordPiece vocabulary on the training texts."""
    wordpiece = BertWordPieceTokenizer(lowercase=True)
    texts = [text for package in training for text in (package.synopsis, package.description)]
    wordpiece.train_from_iterator(texts, vocab_size=VOCABULARY, min_frequency=2, show_progress=False)
    return wordpiece


def make_model(vocabulary: int) -> Any:
    """Return BERT, 2 layers x 128, started so that attention looks for the same word in the other text.

    Queries and keys begin as the same near-orthogonal map, values and outputs as near-identities, after the mimetic
    initialisation of Trockman and Kolter 2023 (arXiv:2305.09828): matching words is what a reranker must learn first,
    and from random weights it takes more data than there is here.
    """
    config = transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=POSITIONS,
        num_labels=1,
        hidden_dropout_prob=0.0,  # a small model and less than one epoch: there is nothing to regularise
        attention_probs_dropout_prob=0.0,
    )
    model = transformers.BertForSequenceClassification(config)
    with torch.no_grad():
        embeddings = model.bert.embeddings
        embeddings.word_embeddings.weight.normal_(0, 1)
        embeddings.position_embeddings.weight.normal_(0, 0.02)
        embeddings.token_type_embeddings.weight.normal_(0, 0.5)
        for layer in model.bert.encoder.layer:
            attention = layer.attention.self
            basis = torch.linalg.qr(torch.randn(128, 128)).Q
            attention.query.weight.copy_(basis * 1.5)
            attention.key.weight.copy_(basis * 1.5)
            attention.value.weight.copy_(torch.eye(128) * 0.5 + torch.randn(128, 128) * 0.03)
            layer.attention.output.dense.weight.copy_(torch.eye(128) * 0.5 + torch.randn(128, 128) * 0.03)
    return model


def lists_of(
    training: Sequence[Package], found: npt.NDArray[np.int64], batch: int, negatives: int, rng: random.Random
) -> Iterator[list[tuple[str, str]]]:
    """Yield batches for ever: for each query its own passage, then other ones.

    The others are random ones at first, which teach that words must match, and more and more BM25's best, which teach
    the rest; from the first third of an epoch on, one random one stays among them.
    """
    served = 0
    while True:
        order = list(range(len(training)))
        rng.shuffle(order)
        for start in range(0, len(order) - batch + 1, batch):
            pairs = []
            served += batch
            hard_count = min(negatives - 1, int(negatives * served / (len(training) * CURRICULUM)))
            for query in order[start : start + batch]:
                hard = [index for index in found[query].tolist() if index != query]
                others = [*rng.sample(hard, hard_count), *rng.sample(range(len(training)), negatives - hard_count)]
                pairs += [(training[query].synopsis, training[index].description) for index in (query, *others)]
            yield pairs


def train(
    model: Any, tokenizer: Tokenizer, batches: Iterator[list[tuple[str, str]]], *, minutes: float, negatives: int
) -> dict[str, Any]:
    """Train with a listwise softmax loss until the time is over; the learning rate falls with the time left."""
    decayed = [p for p in model.parameters() if p.ndim == 2]
    plain = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}], lr=RATE
    )
    tokenizer.enable_truncation(TRAIN_LENGTH)
    tokenizer.enable_padding()
    model.train()
    start, steps, losses = time.monotonic(), 0, []
    with tqdm(total=100, desc="Training", unit="%") as bar:
        while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
            rate = RATE * min(1, (steps + 1) / 50) * max(1 - done, 0.02)
            for group in optimizer.param_groups:
                group["lr"] = rate
            encodings = tokenizer.encode_batch(next(batches))
            ids, types, mask = (
                torch.tensor([getattr(encoding, name) for encoding in encodings])
                for name in ("ids", "type_ids", "attention_mask")
            )
            logits = model(input_ids=ids, token_type_ids=types, attention_mask=mask).logits.view(-1, negatives + 1)
            loss = torch.nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            steps += 1
            losses.append(loss.item())
            bar.n = round(100 * done, 1)
            if steps % 50 == 0:
                bar.set_postfix(step=steps, loss=f"{np.mean(losses[-50:]):.3f}")
                print(f"step {steps}, {done:.0%}, loss {np.mean(losses[-50:]):.3f}", flush=True)
    return {"steps": steps, "loss": float(np.mean(losses[-50:])), "seconds": round(time.monotonic() - start)}


def scored(model: Any, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
    """Return one logit for each pair, in sorted batches of 64."""
    tokenizer.enable_truncation(POSITIONS)
    tokenizer.enable_padding()
    order = sorted(range(len(pairs)), key=lambda index: len(pairs[index][0]) + len(pairs[index][1]))
    scores = np.empty(len(pairs), dtype=np.float32)
    model.eval()
    with torch.inference_mode():
        for start in tqdm(range(0, len(order), 64), desc="Scoring"):
            rows = order[start : start + 64]
            encodings = tokenizer.encode_batch([pairs[row] for row in rows])
            ids, types, mask = (
                torch.tensor([getattr(encoding, name) for encoding in encodings])
                for name in ("ids", "type_ids", "attention_mask")
            )
            scores[rows] = model(input_ids=ids, token_type_ids=types, attention_mask=mask).logits[:, 0].numpy()
    return scores


def bootstrap(differences: npt.NDArray[np.float64], rng: np.random.Generator) -> tuple[float, float]:
    """Return the 95 % interval of the mean by 10,000 paired bootstrap samples."""
    draws = rng.integers(0, len(differences), (10_000, len(differences)))
    low, high = np.percentile(differences[draws].mean(axis=1), [2.5, 97.5])
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
    """The bar for being shipped."""
    return bool(result["gain"] >= MINIMUM_GAIN and result["interval95"][0] > 0)


# -- output


def write_checkpoint(folder: Path, model: Any, tokenizer: Tokenizer, facts: dict[str, Any]) -> None:
    """Write weights, tokenizer, card and facts in the hub's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["sbert_ce_default_activation_function"] = "torch.nn.modules.linear.Identity"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    ordered = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token, _ in ordered), encoding="utf-8")
    special = {
        name: f"[{token}]"
        for name, token in (
            ("unk_token", "UNK"),
            ("sep_token", "SEP"),
            ("pad_token", "PAD"),
            ("cls_token", "CLS"),
            ("mask_token", "MASK"),
        )
    }
    settings = special | {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": POSITIONS}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    (folder / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    (folder / "README.md").write_text(card(facts), encoding="utf-8")


def card(facts: dict[str, Any]) -> str:
    """Return the model card."""
    data, result, sample = facts["data"], facts["held_out"], facts["sample"]
    return f"""# crossrt demo checkpoint

A cross-encoder of {facts["parameters"] / 1e6:.1f} million parameters (BERT, 2 layers x 128, one label, identity activation, up to {POSITIONS}
tokens) that ranks descriptions of Debian packages for a short query. It is there so that crossrt's quickstart and tests
do something real without a network. It is not meant for anything else: for web search take a published MS MARCO model.

## Data

Synopses (queries) and long descriptions (passages, the synopsis taken out) of the packages of {data["release"]},
one package for each source package: {data["training_packages"]:,} for training, {data["held_out_packages"]:,} held out. The split is by source package; a
held-out description that shares more than a tenth of its {SHINGLE}-word runs with the training texts is left out. The
descriptions were written by the packages' maintainers and are distributed as part of those packages, each under its
package's own free licence; `sample/SOURCES.tsv` names the package of each passage. sha256 of the index files:

{chr(10).join(f"- `{name}` {digest}" for name, digest in data["sha256"].items())}

## Training

`scripts/train_demo.py`, seed {facts["seed"]}: {facts["training"]["steps"]:,} steps in {facts["training"]["seconds"] / 60:.0f} minutes on two processor cores, listwise softmax over one
relevant and {facts["negatives"]} other passages (BM25's best, and one at random), AdamW, learning rate {RATE} falling to zero. Training stops by
the clock, so another machine gives other weights.

## Result

BM25 (k1 0.9, b 0.4) finds {CANDIDATES} passages among the held-out ones, the model ranks them again. A query whose own package BM25 did
not find counts 0 for both.

| queries | BM25 MRR@10 | this model MRR@10 | gain | 95 % interval (paired bootstrap) |
|--:|--:|--:|--:|--:|
| {result["queries"]:,} held out | {result["bm25_mrr10"]:.4f} | {result["model_mrr10"]:.4f} | {result["gain"]:+.4f} | {result["interval95"][0]:+.4f} to {result["interval95"][1]:+.4f} |
| {sample["queries"]} of them, in `sample/` | {sample["bm25_mrr10"]:.4f} | {sample["model_mrr10"]:.4f} | {sample["gain"]:+.4f} | {sample["interval95"][0]:+.4f} to {sample["interval95"][1]:+.4f} |

## Licence

The weights and the code that made them: Apache-2.0. The texts in `sample/` and `calibration/`: their authors', as above.
"""


def write_lines(path: Path, rows: Sequence[Sequence[object]], separator: str = "\t") -> None:
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
    """Write queries, passages, BM25's run, qrels and the passages' origins."""
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


def main() -> None:
    """Fetch, train, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--lists", type=Path, help="folder with index files that are already there")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=16, help="queries in a step")
    parser.add_argument("--negatives", type=int, default=7)
    parser.add_argument(
        "--weights", type=Path, help="file to start from, where it is there, and to keep the weights in"
    )
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.lists is None:
            fetch_lists(Path(folder))
        files = index_files(arguments.lists or Path(folder) / "lists")
        release, packages_text, translations_text = (text_of(path) for path in files)
    described = {
        key: next((line.split(": ", 1)[1] for line in release.splitlines() if line.startswith(f"{key}: ")), "?")
        for key in ("Version", "Codename", "Date")
    }
    digests = {
        name: hashlib.sha256(text.encode()).hexdigest()
        for name, text in (("Packages", packages_text), ("Translation-en", translations_text))
    }
    training, evaluation = split(read_packages(packages_text, translations_text))
    print(f"{len(training)} training packages, {len(evaluation)} held out", flush=True)
    tokenizer = make_tokenizer(training)
    found, _ = bm25_candidates(training, CANDIDATES)
    model = make_model(tokenizer.get_vocab_size())
    if arguments.weights and arguments.weights.exists():
        model.load_state_dict(torch.load(arguments.weights, weights_only=True))
    batches = lists_of(training, found, arguments.batch, arguments.negatives, rng)
    trained = train(model, tokenizer, batches, minutes=arguments.minutes, negatives=arguments.negatives)
    if arguments.weights:
        torch.save(model.state_dict(), arguments.weights)

    found, scores = bm25_candidates(evaluation, CANDIDATES)
    judged_queries = sorted(rng.sample(range(len(evaluation)), min(JUDGED_QUERIES, len(evaluation))))
    candidates = found[judged_queries]
    pairs = [
        (evaluation[query].synopsis, evaluation[index].description)
        for query, row in zip(judged_queries, candidates, strict=True)
        for index in row
    ]
    logits = scored(model, tokenizer, pairs).reshape(candidates.shape)
    reranked = np.take_along_axis(candidates, np.argsort(-logits, axis=1, kind="stable"), axis=1)
    bm25, ours = (reciprocal_ranks(order.tolist(), judged_queries) for order in (candidates, reranked))
    result = judged(bm25, ours)
    print(json.dumps(result), f"logits {logits.min():.1f} to {logits.max():.1f}", flush=True)
    if not good_enough(result):
        raise SystemExit(f"not written: the model gains {result['gain']}, and {MINIMUM_GAIN} above zero is needed")
    chosen_rows = sorted(rng.sample(range(len(judged_queries)), SAMPLE_QUERIES))
    queries = [judged_queries[row] for row in chosen_rows]
    facts = {
        "seed": arguments.seed,
        "negatives": arguments.negatives,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "data": {
            "release": f"Debian {described['Version']} ({described['Codename']}, {described['Date']})",
            "training_packages": len(training),
            "held_out_packages": len(evaluation),
            "sha256": digests,
        },
        "training": trained,
        "held_out": result,
        "sample": judged(bm25[chosen_rows], ours[chosen_rows]),
    }
    write_checkpoint(arguments.out / "checkpoint", model, tokenizer, facts)
    write_sample(arguments.out / "sample", evaluation, queries, found, scores)
    chosen = rng.sample(range(len(training)), 250)
    calibration, _ = bm25_candidates(training, 30)
    rows = [
        (training[query].synopsis, training[index].description)
        for query in chosen
        for index in (query, *[other for other in calibration[query].tolist() if other != query][:3])
    ]
    write_lines(arguments.out / "calibration" / "pairs.tsv", rows)


if __name__ == "__main__":
    main()
