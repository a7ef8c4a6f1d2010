#!/usr/bin/env python3
"""Train a small model of another architecture to reproduce the demo checkpoint's scores.

    scripts/distill_demo.py albert --out albert
    crossrt export albert albert-bundle --precision fp32,fp16,int8 --calibrate demo/calibration/pairs.tsv \\
        --judge albert/judge/queries.tsv albert/judge/passages.tsv albert/judge/run.trec

INT8 has to keep the ranking of trained weights: with random weights the scores lie so close together that no precision keeps
it. Each model begins with the demo checkpoint's own weights, as far as its architecture has a place for them, and is trained
on 150 of the demo's 200 sample queries. The other 50, with the 50 passages that BM25 found for each, are written for the
export to judge by.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from tokenizers import Tokenizer
from tqdm import tqdm
from train_demo import scored, take_step, write_json, write_lines

from crossrt.engine.files.trec import read_collection

DEMO = Path(__file__).resolve().parent.parent / "demo"
HIDDEN, LENGTH, NARROW = 128, 160, 120  # channels, tokens of the longest pair, channels of projected embeddings
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MPNET_SPECIAL = {"[PAD]": "<pad>", "[UNK]": "[UNK]", "[CLS]": "<s>", "[SEP]": "</s>", "[MASK]": "<mask>"}
QUERY_TOKENS = 14
"""Positions that hold a query's tokens in most pairs: MPNet has no token types, and takes the text from the position."""
JUDGED = 4
"""One query in so many is kept for judging."""
Weights = dict[str, torch.Tensor]
Pair = tuple[str, str]


# -- what the models begin with


def narrow(demo: Weights) -> Weights:
    """Return embeddings in NARROW channels, by BERT's names, and the `projection` to HIDDEN channels with its `bias`.

    The narrow tables hold the demo's embeddings in the NARROW - 1 directions in which they are largest. Their mean is 0, so that
    LayerNorm changes only their length. What the demo's LayerNorm does after that is in the projection.
    """
    names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    tables = [demo[f"bert.embeddings.{name}.weight"] for name in names]
    centered = [table - table.mean(1, keepdim=True) for table in tables]
    # Each kind of embedding counts alike, however many rows it has.
    rows = torch.cat([table / table.norm() for table in centered])
    _, _, directions = torch.linalg.svd(rows, full_matrices=False)
    basis = torch.linalg.qr(torch.cat([torch.ones(NARROW, 1), torch.randn(NARROW, NARROW - 1)], 1)).Q[:, 1:].T
    to_narrow = directions[: NARROW - 1].T @ basis
    found = {f"{name}.weight": table @ to_narrow for name, table in zip(names, centered, strict=True)}
    scale = demo["bert.embeddings.LayerNorm.weight"][:, None] * (HIDDEN / NARROW) ** 0.5
    return found | {"projection": scale * to_narrow, "bias": demo["bert.embeddings.LayerNorm.bias"]}


def electra(demo: Weights) -> Any:
    """ELECTRA-small's structure: embeddings narrower than the model, and a head of dense, GELU and out_proj."""
    model = transformers.ElectraForSequenceClassification(
        transformers.ElectraConfig(**sizes(), embedding_size=NARROW, type_vocab_size=2)
    )
    small = narrow(demo)
    projection, bias = small.pop("projection"), small.pop("bias")
    renamed = {f"electra.embeddings.{name}": table for name, table in small.items()}
    renamed |= {name.replace("bert.", "electra."): table for name, table in demo.items() if ".encoder." in name}
    renamed |= {
        "electra.embeddings_project.weight": projection,
        "electra.embeddings_project.bias": bias,
        "classifier.dense.weight": demo["bert.pooler.dense.weight"],
        "classifier.dense.bias": demo["bert.pooler.dense.bias"],
        "classifier.out_proj.weight": demo["classifier.weight"],
        "classifier.out_proj.bias": demo["classifier.bias"],
    }
    return begun(model, renamed)


def albert(demo: Weights) -> Any:
    """ALBERT's structure: narrow embeddings, and one layer that is computed three times; it begins as the demo's first."""
    settings = sizes() | {"num_hidden_layers": 3}
    model = transformers.AlbertForSequenceClassification(
        transformers.AlbertConfig(**settings, embedding_size=NARROW, type_vocab_size=2, classifier_dropout_prob=0.0)
    )
    small = narrow(demo)
    layer = "albert.encoder.albert_layer_groups.0.albert_layers.0"
    names = {
        "attention.self.query": "attention.query",
        "attention.self.key": "attention.key",
        "attention.self.value": "attention.value",
        "attention.output.dense": "attention.dense",
        "attention.output.LayerNorm": "attention.LayerNorm",
        "intermediate.dense": "ffn",
        "output.dense": "ffn_output",
        "output.LayerNorm": "full_layer_layer_norm",
    }
    projection, bias = small.pop("projection"), small.pop("bias")
    renamed = {f"albert.embeddings.{name}": table for name, table in small.items()}
    renamed["albert.encoder.embedding_hidden_mapping_in.weight"] = projection
    renamed["albert.encoder.embedding_hidden_mapping_in.bias"] = bias
    for old, new in names.items():
        for part in ("weight", "bias"):
            renamed[f"{layer}.{new}.{part}"] = demo[f"bert.encoder.layer.0.{old}.{part}"]
    for part in ("weight", "bias"):
        renamed[f"albert.pooler.{part}"] = demo[f"bert.pooler.dense.{part}"]
        renamed[f"classifier.{part}"] = demo[f"classifier.{part}"]
    return begun(model, renamed)


def mpnet(demo: Weights) -> Any:
    """MPNet's structure: a bias by relative distance in attention, no token types, and RoBERTa's positions and head."""
    model = transformers.MPNetForSequenceClassification(
        transformers.MPNetConfig(**sizes() | {"max_position_embeddings": LENGTH + 2}, pad_token_id=1)
    )
    words = demo["bert.embeddings.word_embeddings.weight"]
    positions = torch.zeros(LENGTH + 2, HIDDEN)
    positions[2:] = demo["bert.embeddings.position_embeddings.weight"][:LENGTH]
    types = demo["bert.embeddings.token_type_embeddings.weight"]
    positions[2 : 2 + QUERY_TOKENS] += types[0]
    positions[2 + QUERY_TOKENS :] += types[1]
    renamed = {
        "mpnet.embeddings.word_embeddings.weight": words[
            [2, 0, 3, 1, *range(4, len(words))]
        ],  # <s>, <pad>, </s>, [UNK]
        "mpnet.embeddings.position_embeddings.weight": positions,
        "classifier.dense.weight": demo["bert.pooler.dense.weight"],
        "classifier.dense.bias": demo["bert.pooler.dense.bias"],
        "classifier.out_proj.weight": demo["classifier.weight"],
        "classifier.out_proj.bias": demo["classifier.bias"],
    }
    names = {
        "attention.self.query": "attention.attn.q",
        "attention.self.key": "attention.attn.k",
        "attention.self.value": "attention.attn.v",
        "attention.output.dense": "attention.attn.o",
        "attention.output.LayerNorm": "attention.LayerNorm",
        "intermediate.dense": "intermediate.dense",
        "output.dense": "output.dense",
        "output.LayerNorm": "output.LayerNorm",
    }
    for layer in range(2):
        for old, new in names.items():
            for part in ("weight", "bias"):
                renamed[f"mpnet.encoder.layer.{layer}.{new}.{part}"] = demo[f"bert.encoder.layer.{layer}.{old}.{part}"]
    return begun(model, renamed)


MODELS: dict[str, Callable[[Weights], Any]] = {"electra-small": electra, "albert": albert, "mpnet": mpnet}


def sizes() -> dict[str, Any]:
    """Return the settings that all models share, but for what their functions change."""
    tokenizer = Tokenizer.from_file(str(DEMO / "checkpoint" / "tokenizer.json"))
    return {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 4 * HIDDEN,
        "max_position_embeddings": LENGTH,
        "num_labels": 1,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def begun(model: Any, weights: Weights) -> Any:
    """Put the weights into the model. What they lack keeps its random values; a name that the model lacks is an error."""
    unknown = weights.keys() - model.state_dict().keys()
    if unknown:
        raise SystemExit(f"this version of transformers has other names: {sorted(unknown)[:3]}")
    model.load_state_dict(weights, strict=False)
    return model


# -- data


def sample_pairs() -> tuple[list[str], list[list[Pair]]]:
    """Return the ids of the demo's sample queries, and each one's pairs in BM25's order."""
    sample = DEMO / "sample"
    queries, passages, run = read_collection(
        *(sample / name for name in ("queries.tsv", "passages.tsv", "bm25.run.trec"))
    )
    ids = sorted(run)
    return ids, [[(queries[query], passages[passage]) for passage in run[query]] for query in ids]


def write_judged(folder: Path, ids: Sequence[str], lists: Sequence[Sequence[Pair]]) -> None:
    """Write the queries to judge by, with their passages, as TREC files."""
    passages = {
        passage: f"p{number}" for number, passage in enumerate(dict.fromkeys(p for each in lists for _, p in each))
    }
    write_lines(folder / "queries.tsv", [(query, each[0][0]) for query, each in zip(ids, lists, strict=True)])
    write_lines(folder / "passages.tsv", [(number, text) for text, number in passages.items()])
    rows = [
        (query, "Q0", passages[passage], rank, f"{1 / rank:.6f}", "bm25")
        for query, each in zip(ids, lists, strict=True)
        for rank, (_, passage) in enumerate(each, start=1)
    ]
    write_lines(folder / "run.trec", rows, " ")


def logits_of(model: Any, tokenizer: Any, pairs: Sequence[Pair]) -> torch.Tensor:
    """Return the logit of each pair."""
    queries, passages = zip(*pairs, strict=True)
    encoded = tokenizer(
        list(queries), list(passages), padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"
    )
    logits: torch.Tensor = model(**encoded).logits[:, 0]
    return logits


# -- training


def train(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    wanted: npt.NDArray[np.float32],
    *,
    steps: int,
    batch: int,
    rate: float,
) -> None:
    """Train with the mean squared error of the logits. The learning rate rises for 50 steps, then falls to zero."""
    generator = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 50, 1 - step / steps))
    targets, losses = torch.from_numpy(wanted), []
    model.train()
    for step in tqdm(range(steps), desc="Training", mininterval=10):
        rows = generator.choice(len(pairs), batch, replace=False)
        loss = torch.nn.functional.mse_loss(logits_of(model, tokenizer, [pairs[row] for row in rows]), targets[rows])
        losses.append(loss.item())
        take_step(model, optimizer, schedule, loss)
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}, squared error {np.mean(losses[-100:]):.3f}", flush=True)


# -- output


def write_tokenizer(folder: Path, *, mpnet: bool) -> None:
    """Write the demo's tokenizer, for MPNet with RoBERTa's special tokens and template."""
    fields = json.loads((DEMO / "checkpoint" / "tokenizer.json").read_text(encoding="utf-8"))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": LENGTH}
    names = dict(zip(SPECIAL, SPECIAL, strict=True))
    settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    if mpnet:
        names = MPNET_SPECIAL
        settings["model_input_names"] = ["input_ids", "attention_mask"]
        order = {"<s>": 0, "<pad>": 1, "</s>": 2, "[UNK]": 3, "<mask>": 4}
        vocabulary = fields["model"]["vocab"]
        fields["model"]["vocab"] = order | {word: number for word, number in vocabulary.items() if word not in SPECIAL}
        for token in fields["added_tokens"]:
            token["content"] = names[token["content"]]
            token["id"] = order[token["content"]]
        fields["added_tokens"].sort(key=lambda token: token["id"])
        begin, end = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ("<s>", "</s>"))
        text, other = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
        fields["post_processor"] |= {
            "single": [begin, text, end],
            "pair": [begin, text, end, end, other, end],
            "special_tokens": {
                token: {"id": token, "ids": [order[token]], "tokens": [token]} for token in ("<s>", "</s>")
            },
        }
    settings |= {f"{token.strip('[]').lower()}_token": names[token] for token in SPECIAL}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(fields, ensure_ascii=False), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", settings)


def main() -> None:
    """Train, compare with the demo checkpoint on queries that were kept apart, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architecture", choices=MODELS)
    parser.add_argument("--out", type=Path, required=True, help="directory of the checkpoint to write")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32, help="pairs in a step")
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    start = time.monotonic()
    demo = transformers.AutoModelForSequenceClassification.from_pretrained(DEMO / "checkpoint", dtype=torch.float32)
    demo_tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO / "checkpoint")
    ids, lists = sample_pairs()
    kept = slice(0, None, JUDGED)
    judged_ids, judged_lists = ids[kept], lists[kept]
    training = [pair for number, each in enumerate(lists) if number % JUDGED for pair in each]
    judged = [pair for each in judged_lists for pair in each]
    wanted = scored(demo, training + judged, partial(logits_of, demo, demo_tokenizer))

    write_tokenizer(arguments.out, mpnet=arguments.architecture == "mpnet")
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(arguments.out)
    model = MODELS[arguments.architecture](dict(demo.state_dict()))
    train(
        model,
        tokenizer,
        training,
        wanted[: len(training)],
        steps=arguments.steps,
        batch=arguments.batch,
        rate=arguments.rate,
    )
    found = scored(model, judged, partial(logits_of, model, tokenizer))
    correlation = float(np.corrcoef(found, wanted[len(training) :])[0, 1])
    model.save_pretrained(arguments.out)
    write_judged(arguments.out / "judge", judged_ids, judged_lists)
    seconds = round(time.monotonic() - start)
    facts = {"steps": arguments.steps, "seed": arguments.seed, "seconds": seconds, "correlation": round(correlation, 4)}
    write_json(arguments.out / "training.json", facts)
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
