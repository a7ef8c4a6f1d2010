#!/usr/bin/env python3
"""Train the demo checkpoint on Debian's package descriptions, measure it against BM25, and write demo/.

    scripts/train_demo.py --out demo --steps 3000

Query: a package's synopsis. Passage: its long description, with the synopsis taken out. Needs torch, transformers,
tokenizers, bm25s, scipy, tqdm, and apt on the machine (apt reads the index files also where --lists names their folder).
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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt
import scipy.sparse
import scipy.sparse.linalg
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.processors import TemplateProcessing
from tqdm import tqdm

VOCABULARY = 8000
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, CLS, SEP = (SPECIAL.index(token) for token in ("[PAD]", "[CLS]", "[SEP]"))
HIDDEN, HEADS = 128, 4
RARITY, SIDE, IS_SPECIAL = 0, 1, 2  # what a dimension of the embeddings begins as
FLAGS = [31, 63, 95, 127]
MEANING = [*range(3, 31), *range(32, 63)]
CODE = [*range(64, 95), *range(96, 127)]
POSITIONS = 160  # longest pair: training pairs are no longer, and positions beyond would stay random
SHORT, LONG = 80, POSITIONS  # tokens of a training pair: at first, and in the last part
LONG_FROM = 0.75  # share of the steps after which pairs are long
CURRICULUM = 0.1  # share of the steps until the candidates are as hard as they get
CANDIDATES = 50
SAMPLE_QUERIES = 200
CALIBRATION_QUERIES = 250
HELD_OUT_SHARE = 4  # one source package in four
MINIMUM_GAIN = 0.05
K1, B = 0.9, 0.4
WINDOW = 8  # tokens
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


def word_vectors(vocabulary: int, texts: Iterable[Sequence[int]], size: int) -> npt.NDArray[np.float32]:
    """Return a unit vector for each token: the truncated SVD of positive pointwise mutual information.

    After Levy and Goldberg 2014 (Neural Word Embedding as Implicit Matrix Factorization), context counts smoothed by
    the power 0.75. A token's context is the eight tokens on either side, by 1 / distance. Synopses and descriptions
    are texts of their own: counted together, they would tell which belongs to which.
    """
    rows, columns, weights = [], [], []
    for text in texts:
        tokens = np.array(text)
        for distance in range(1, min(WINDOW, len(tokens) - 1) + 1):
            rows.append(tokens[:-distance])
            columns.append(tokens[distance:])
            weights.append(np.full(len(tokens) - distance, 1 / distance))
    row, column, weight = (np.concatenate(parts) for parts in (rows, columns, weights))
    counts = scipy.sparse.coo_matrix((weight, (row, column)), shape=(vocabulary, vocabulary))
    counts = (counts + counts.T).tocoo()  # the sum also merges what was counted more than once
    total = np.bincount(counts.row, counts.data, minlength=vocabulary)
    context = total**0.75 / (total**0.75).sum()
    information = np.log(counts.data / (total[counts.row] * context[counts.col]))
    positive = information > 0
    matrix = scipy.sparse.csr_matrix(
        (information[positive], (counts.row[positive], counts.col[positive])), shape=(vocabulary, vocabulary)
    )
    left, values, _ = scipy.sparse.linalg.svds(matrix, k=size, random_state=0)
    vectors = left * np.sqrt(values)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-9), dtype=np.float32)


def make_model(idf: torch.Tensor, vectors: torch.Tensor) -> Any:
    """Return BERT, 2 layers x 128, started as a search for the query's words in the passage.

    From random weights it takes far more data than there is here to learn that words must match, so the model begins
    with that, and learns the rest. A token's embedding holds its `rarity`, which text it is in, whether it is a special
    token, a random code (its identity) and its word vector (its meaning). In the first layer two heads compare codes and
    two compare meanings, always with the other text; a token that finds no match attends to a special token, and so
    raises a flag. In the last layer two heads of [CLS] look at the flags of the query's rarest words. The other
    values and outputs begin as near-identities, after the mimetic initialisation of Trockman and Kolter 2023
    (arXiv:2305.09828).
    """
    config = transformers.BertConfig(
        vocab_size=len(idf),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=4 * HIDDEN,
        max_position_embeddings=POSITIONS,
        num_labels=1,
        hidden_dropout_prob=0.0,  # a small model and few epochs: there is little to regularise
        attention_probs_dropout_prob=0.0,
    )
    model = transformers.BertForSequenceClassification(config)
    with torch.no_grad():
        words = torch.zeros(len(idf), HIDDEN)
        words[:, RARITY] = 2 * idf
        words[:, CODE] = 7 * torch.nn.functional.normalize(torch.randn(len(idf), len(CODE)))
        words[:, MEANING] = 7 * vectors
        words[[PAD, CLS, SEP]] = 0
        words[[CLS, SEP], IS_SPECIAL] = 8
        model.bert.embeddings.word_embeddings.weight.copy_(words)
        sides = torch.zeros(2, HIDDEN)
        sides[:, SIDE] = torch.tensor([4.0, -4.0])
        model.bert.embeddings.token_type_embeddings.weight.copy_(sides)
        for layer in model.bert.encoder.layer:
            attention = layer.attention.self
            basis = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN)).Q * 1.5
            attention.query.weight.copy_(basis)
            attention.key.weight.copy_(basis)
            attention.value.weight.copy_(torch.eye(HIDDEN) * 0.5 + torch.randn(HIDDEN, HIDDEN) * 0.03)
            layer.attention.output.dense.weight.copy_(torch.eye(HIDDEN) * 0.5 + torch.randn(HIDDEN, HIDDEN) * 0.03)
        first, last = model.bert.encoder.layer
        match_words(first.attention)
        read_flags(last.attention.self)
    return model


def match_words(attention: Any) -> None:
    """Let the heads of a layer compare tokens with those of the other text, and flag those without a match."""
    size = HIDDEN // HEADS
    query, key = torch.randn(2, HIDDEN, HIDDEN) * 0.02
    for head, compared in enumerate((CODE[:30], CODE[31:61], MEANING[:28], MEANING[28:58])):
        start = head * size
        for row, dimension in enumerate(compared, start=start):
            query[row, dimension] = key[row, dimension] = 1.6
        query[start + size - 2, SIDE], key[start + size - 2, SIDE] = 1.5, -1.5
        key[start + size - 1, IS_SPECIAL] = attention.self.query.bias[start + size - 1] = 2
    attention.self.query.weight.copy_(query)
    attention.self.key.weight.copy_(key)
    attention.self.value.weight[FLAGS] = 0
    attention.self.value.weight[FLAGS, IS_SPECIAL] = 1
    attention.output.dense.weight[FLAGS] = 0
    attention.output.dense.weight[FLAGS, FLAGS] = 1


def read_flags(attention: Any) -> None:
    """Let two heads of [CLS] attend to the query's rare words, and pass their flags on."""
    size = HIDDEN // HEADS
    for start, sharpness in ((0, 1.4), (size, 2.8)):
        rare, side = start + size - 2, start + size - 1
        for projection in (attention.query, attention.key):
            projection.weight[start : start + size] *= 0.3
            projection.weight[[rare, side]] = 0
        attention.key.weight[rare, RARITY] = attention.key.weight[side, SIDE] = 2
        attention.query.bias[rare], attention.query.bias[side] = sharpness, 2
        rows = list(range(start, start + len(FLAGS)))
        attention.value.weight[rows] = 0
        attention.value.weight[rows, FLAGS] = 1


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
    rows = []
    for query, passage in pairs:
        short = query[: max(limit - 3 - len(passage), (limit - 3) // 2)]
        rows.append(([CLS, *short, SEP], [*passage[: limit - 3 - len(short)], SEP]))
    width = max(len(left) + len(right) for left, right in rows)
    ids = np.full((len(rows), width), PAD)
    types = np.zeros((len(rows), width), dtype=np.int64)
    for row, (left, right) in enumerate(rows):
        ids[row, : len(left) + len(right)] = left + right
        types[row, len(left) : len(left) + len(right)] = 1
    return torch.from_numpy(ids), torch.from_numpy(types), torch.from_numpy(ids != PAD)


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
random), AdamW, learning rate {facts["rate"]:g} falling to zero.

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


# -- main


def main() -> None:
    """Fetch, train, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--lists", type=Path, help="folder with index files that are already there")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate")
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
    logits = scored(model, pairs).reshape(found.shape)
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
