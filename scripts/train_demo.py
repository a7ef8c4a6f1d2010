#!/usr/bin/env python3
"""Train the demo checkpoint on Debian's package descriptions, measure it against BM25, and write demo/.

    scripts/train_demo.py --out demo --steps 4000

Query: a package's synopsis. Passage: its long description, with the synopsis taken out. Needs torch, transformers,
tokenizers, bm25s, tqdm, and apt on the machine (apt reads the index files also where --lists names their folder).
Held-out packages decide: unless the model beats BM25's MRR@10 by 0.05, with a bootstrap interval above zero, nothing is
written.
"""

import argparse
import hashlib
import json
import random
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.processors import TemplateProcessing
from tqdm import tqdm

VOCABULARY = 8000
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
POSITIONS = 512
SHORT, LONG = 80, 160  # tokens of a training pair: at first, and in the last part
LONG_FROM = 0.75  # share of the steps after which pairs are long
CURRICULUM = 0.1  # share of the steps until the candidates are as hard as they get
CANDIDATES = 50
SAMPLE_QUERIES = 200
CALIBRATION_QUERIES = 250
HELD_OUT_SHARE = 4  # one source package in four
MINIMUM_GAIN = 0.05
K1, B = 0.9, 0.4
SHINGLE = 8  # words
SAME_SIDE, OTHER_SIDE = 0.5, 0.1  # share of shingles that makes a near-duplicate: within a side, and across the split

Pair = tuple[list[int], list[int]]


@dataclass(frozen=True, slots=True)
class Package:
    """A binary package: its source package, `synopsis` (the query) and `description` (the passage)."""

    name: str
    source: str
    synopsis: str
    description: str


# -- data


def fetch_lists(folder: Path) -> Path:
    """Fetch the package index with English long descriptions into a folder of our own; the machine's is left alone."""
    lists = folder / "lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    options = [f"-oDir::State::Lists={lists}", f"-oDir::Cache={folder}", "-oAcquire::Languages=en"]
    subprocess.run(["apt-get", *options, "-qq", "update"], check=True)
    return lists


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
    command = ["/usr/lib/apt/apt-helper", "cat-file", str(path.resolve())]
    return subprocess.run(command, check=True, capture_output=True).stdout.decode()


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """Yield the fields of each stanza of a Debian control file; continuation lines keep their newlines."""
    for stanza in text.split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1] in (" ", "\t"):
                fields[name] = fields.get(name, "") + "\n" + line
            elif ":" in line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if fields:
            yield fields


def read_packages(packages: str, translations: str) -> list[Package]:
    """Join the two indexes by the description's hash; leave out packages that are not `usable`."""
    texts: dict[str, tuple[str, str]] = {}
    for fields in stanzas(translations):
        synopsis, _, long = fields.get("Description-en", "").partition("\n")
        texts[fields.get("Description-md5", "")] = clean(synopsis), flowing(long)
    found = {}
    for fields in stanzas(packages):
        synopsis, description = texts.get(fields.get("Description-md5", ""), ("", ""))
        name = fields.get("Package", "")
        source = fields.get("Source", name).split(" ")[0]
        package = Package(name, source, synopsis, without(description, synopsis))
        if usable(package):
            found[name] = package
    return [found[name] for name in sorted(found)]


def flowing(long: str) -> str:
    """Undo the formatting of a long description: leading spaces, and ` .` for an empty line."""
    return clean(" ".join(line.strip() for line in long.splitlines() if line.strip() != "."))


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
    """Return all runs of eight words, case and punctuation aside; a shorter text is one run."""
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}


def one_for_each_source(packages: Sequence[Package]) -> list[Package]:
    """Keep the package with the longest description of each source."""
    best: dict[str, Package] = {}
    for package in packages:
        if package.source not in best or len(package.description) > len(best[package.source].description):
            best[package.source] = package
    return list(best.values())


def distinct(packages: Sequence[Package], foreign: set[str]) -> list[Package]:
    """Keep packages that are no near-duplicate of one kept before, nor of the `foreign` shingles of the other side."""
    seen: set[str] = set()
    queries: set[str] = set()
    kept = []
    for package in packages:
        own = shingles(package.description)
        query = package.synopsis.lower()
        near = len(own & seen) > SAME_SIDE * len(own) or len(own & foreign) > OTHER_SIDE * len(own)
        if not near and query not in queries:
            kept.append(package)
            seen |= own
            queries.add(query)
    return kept


def split(packages: Sequence[Package]) -> tuple[list[Package], list[Package]]:
    """Return training and held-out packages, without near-duplicates within either or across; see `distinct`."""
    training = distinct([package for package in packages if not held_out(package.source)], set())
    known = set().union(*(shingles(package.description) for package in training))
    known_queries = {package.synopsis.lower() for package in training}
    others = one_for_each_source([package for package in packages if held_out(package.source)])
    fresh = [package for package in others if package.synopsis.lower() not in known_queries]
    return training, distinct(fresh, known)


# -- BM25


def bm25_candidates(packages: Sequence[Package], depth: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return indices and scores [packages, depth] of the best passages for each package's synopsis."""
    retriever = bm25s.BM25(k1=K1, b=B)
    passages = bm25s.tokenize([package.description for package in packages], stopwords="en", show_progress=False)
    queries = bm25s.tokenize([package.synopsis for package in packages], stopwords="en", show_progress=False)
    retriever.index(passages, show_progress=False)
    found, scores = retriever.retrieve(queries, k=depth, show_progress=False)
    return np.asarray(found, dtype=np.int64), np.asarray(scores, dtype=np.float32)


def reciprocal_ranks(order: Sequence[Sequence[int]], relevant: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return RR@10 of each query; 0 where the relevant passage is not among the ten."""
    ranks = [
        list(found[:10]).index(wanted) + 1 if wanted in found[:10] else 0
        for found, wanted in zip(order, relevant, strict=True)
    ]
    return np.array([1 / rank if rank else 0.0 for rank in ranks])


# -- tokenizer and model


def make_tokenizer(training: Sequence[Package]) -> Tokenizer:
    """Train a lower-casing WordPiece vocabulary on the training texts."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = WordPieceDecoder()
    texts = [text for package in training for text in (package.synopsis, package.description)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL), limit_alphabet=400, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def encoded(tokenizer: Tokenizer, packages: Sequence[Package]) -> list[Pair]:
    """Return the token ids of each package's synopsis and description, without special tokens."""
    synopses = tokenizer.encode_batch([package.synopsis for package in packages], add_special_tokens=False)
    texts = tokenizer.encode_batch([package.description for package in packages], add_special_tokens=False)
    return [(synopsis.ids, text.ids) for synopsis, text in zip(synopses, texts, strict=True)]


def rarity(vocabulary: int, texts: Sequence[Pair]) -> torch.Tensor:
    """Return each token's inverse document frequency in the passages, standardised."""
    counts = Counter(token for _, passage in texts for token in set(passage))
    documents = torch.tensor([counts[token] for token in range(vocabulary)], dtype=torch.float32)
    idf = torch.log(len(texts) / (1 + documents))
    return (idf - idf.mean()) / idf.std()


def make_model(idf: torch.Tensor) -> Any:
    """Return BERT, 2 layers x 128, started so that attention looks for the same word in the other text.

    Queries and keys begin as the same near-orthogonal map, values and outputs as near-identities, after the mimetic
    initialisation of Trockman and Kolter 2023 (arXiv:2305.09828): matching words is what a reranker must learn first,
    and from random weights it takes more data than there is here. One dimension of the embeddings begins as the word's
    rarity.
    """
    config = transformers.BertConfig(
        vocab_size=len(idf),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=POSITIONS,
        num_labels=1,
        hidden_dropout_prob=0.0,  # a small model and few epochs: there is little to regularise
        attention_probs_dropout_prob=0.0,
    )
    model = transformers.BertForSequenceClassification(config)
    with torch.no_grad():
        embeddings = model.bert.embeddings
        embeddings.word_embeddings.weight.normal_(0, 1)
        embeddings.word_embeddings.weight[:, 0] = 2 * idf
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


def layer_output(layer: Any, wanted: torch.Tensor, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return a BERT layer's output at the `wanted` positions, which attend to all of `hidden`."""
    attention = layer.attention.self

    def heads(states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(2, (attention.num_attention_heads, -1)).transpose(1, 2)

    query, key, value = (
        heads(projection(states))
        for projection, states in ((attention.query, wanted), (attention.key, hidden), (attention.value, hidden))
    )
    context = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
    attended = layer.attention.output(context.transpose(1, 2).flatten(2), wanted)
    output: torch.Tensor = layer.output(layer.intermediate(attended), attended)
    return output


def logits_of(model: Any, pairs: Sequence[Pair], limit: int) -> torch.Tensor:
    """Return the logit of each pair, cut to `limit` tokens.

    The same as the model's own forward pass, but of the last layer only [CLS] is computed: the rest is never read, and
    two fifths of the work. `check_forward` compares the two.
    """
    ids, types, mask = padded(pairs, limit)
    hidden = model.bert.embeddings(input_ids=ids, token_type_ids=types)
    first, last = model.bert.encoder.layer
    hidden = layer_output(first, hidden, hidden, mask)
    hidden = layer_output(last, hidden[:, :1], hidden, mask)
    logits: torch.Tensor = model.classifier(model.bert.pooler(hidden))[:, 0]
    return logits


def padded(pairs: Sequence[Pair], limit: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids, token types and mask of [CLS] query [SEP] passage [SEP]; the longer of the two is cut."""
    pad, cls, sep = (SPECIAL.index(token) for token in ("[PAD]", "[CLS]", "[SEP]"))
    rows = []
    for query, passage in pairs:
        short = query[: max(limit - 3 - len(passage), (limit - 3) // 2)]
        rows.append(([cls, *short, sep], [*passage[: limit - 3 - len(short)], sep]))
    width = max(len(left) + len(right) for left, right in rows)
    ids = np.full((len(rows), width), pad)
    types = np.zeros((len(rows), width), dtype=np.int64)
    for row, (left, right) in enumerate(rows):
        ids[row, : len(left) + len(right)] = left + right
        types[row, len(left) : len(left) + len(right)] = 1
    return torch.from_numpy(ids), torch.from_numpy(types), torch.from_numpy(ids != pad)


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
) -> Iterator[list[Pair]]:
    """Yield a batch for each step: for each query its own passage, then those of other source packages.

    The others are random ones at first, which teach that words must match, and more and more BM25's best, which teach
    the rest; later one random one stays among them.
    """
    order: list[int] = []
    for step in range(steps):
        if len(order) < batch:
            order = rng.sample(range(len(texts)), len(texts))
        hard_count = min(negatives - 1, int(negatives * step / (steps * CURRICULUM)))
        pairs = []
        for query in (order.pop() for _ in range(batch)):
            hard = [index for index in found[query].tolist() if packages[index].source != packages[query].source]
            chosen = rng.sample(hard, min(hard_count, len(hard)))
            others = [*chosen, *rng.choices(range(len(texts)), k=negatives - len(chosen))]
            pairs += [(texts[query][0], texts[index][1]) for index in (query, *others)]
        yield pairs


def train(
    model: Any, batches: Iterator[list[Pair]], *, steps: int, rate: float, batch: int, negatives: int
) -> dict[str, Any]:
    """Train with a listwise softmax loss; the learning rate rises for 100 steps, then falls to zero."""
    decayed = [p for p in model.parameters() if p.ndim == 2]
    plain = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 100, 1 - step / steps))
    target = torch.zeros(batch, dtype=torch.long)
    model.train()
    start, losses = time.monotonic(), []
    for step, pairs in enumerate(tqdm(batches, desc="Training", total=steps, mininterval=10)):
        logits = logits_of(model, pairs, SHORT if step < LONG_FROM * steps else LONG).view(batch, negatives + 1)
        loss = torch.nn.functional.cross_entropy(logits, target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}, loss {np.mean(losses[-100:]):.3f}, {time.monotonic() - start:.0f} s", flush=True)
    return {"steps": steps, "loss": round(float(np.mean(losses[-100:])), 4), "seconds": round(time.monotonic() - start)}


# -- judging


def scored(model: Any, pairs: Sequence[Pair]) -> npt.NDArray[np.float32]:
    """Return one logit for each pair, in sorted batches of 64."""
    order = sorted(range(len(pairs)), key=lambda index: len(pairs[index][0]) + len(pairs[index][1]))
    scores = np.empty(len(pairs), dtype=np.float32)
    model.eval()
    with torch.inference_mode():
        for start in tqdm(range(0, len(order), 64), desc="Scoring", mininterval=10):
            rows = order[start : start + 64]
            scores[rows] = logits_of(model, [pairs[row] for row in rows], POSITIONS).numpy()
    return scores


def check_forward(model: Any, tokenizer: Tokenizer, packages: Sequence[Package]) -> None:
    """Compare `logits_of` with the model's own forward pass on the tokenizer's own encoding."""
    model.eval()
    for package, pair in zip(packages, encoded(tokenizer, packages), strict=True):
        encoding = tokenizer.encode(package.synopsis, package.description)
        ids, types = (torch.tensor([values[:POSITIONS]]) for values in (encoding.ids, encoding.type_ids))
        with torch.inference_mode():
            torch.testing.assert_close(
                logits_of(model, [pair], len(encoding.ids)),
                model(input_ids=ids, token_type_ids=types).logits[:, 0],
                rtol=1e-4,
                atol=1e-4,
            )


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
    """The bar for being shipped."""
    return bool(result["gain"] >= MINIMUM_GAIN and result["interval95"][0] > 0)
