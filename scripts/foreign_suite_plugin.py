"""Pytest plugin of foreign_suite.py. It replaces the hub's models and CrossEncoder, and writes the outcomes as JSON."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SETTINGS = json.loads(os.environ["FOREIGN_SUITE"])
WORK = Path(SETTINGS["work"])
TRUNK = "sentence-transformers-testing/stsb-bert-tiny-safetensors"
STAND_INS: dict[str, dict[str, Any]] = {
    "cross-encoder-testing/reranker-bert-tiny-gooaq-bce": {},
    "cross-encoder-testing/reranker-bert-tiny-gooaq-bce-STv54": {},
    "cross-encoder-testing/reranker-bert-tiny-gooaq-bce-tanh-v3": {
        "sbert_ce_default_activation_function": "torch.nn.modules.activation.Tanh"
    },
    "cross-encoder-testing/reranker-bert-tiny-gooaq-bce-tanh-v4": {
        "sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh", "version": "4.0.0"}
    },
    "cross-encoder/nli-MiniLM2-L6-H768": {"num_labels": 3},
    "cross-encoder/stsb-distilroberta-base": {},
    "BAAI/bge-reranker-base": {},
    TRUNK: {},
}
"""Fields of the stand-in's config.json, by name on the hub. TRUNK is a model without a head."""
WORDS = (
    "a the is are was man woman girl monkey cheetah eating food bread pasta carrying baby riding horse white playing drums "
    "violin running behind its prey two men pushed carts through woods on an enclosed ground what how many people live in "
    "berlin has population of registered inhabitants well known for its museums hello there world sentence this another "
    "first second third fourth query document python java programming language sun star moon water salt gold yes no"
).split()


def stand_in(name: str) -> Path:
    """Return the directory of the small checkpoint that replaces a model of the hub. Make it on first use."""
    import torch
    import transformers

    path = WORK / "hub" / name
    if (path / "config.json").is_file():
        return path
    path.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pieces = [f"##{letter}" for letter in letters if letter.isalnum()]
    tokens = list(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *pieces, *WORDS]))
    (path / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    fields = dict(STAND_INS[name])
    labels = fields.pop("num_labels", 1)
    config = transformers.BertConfig(
        vocab_size=len(tokens), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=512, num_labels=labels,
    )  # fmt: skip
    torch.manual_seed(len(name))
    kind = transformers.BertModel if name == TRUNK else transformers.BertForSequenceClassification
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.3)
    model.save_pretrained(path)
    written = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**written, **fields}))
    (path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512})
    )
    transformers.AutoTokenizer.from_pretrained(path).save_pretrained(path)
    return path


def with_stand_ins(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap a constructor so that it opens the stand-in when it gets a name on the hub."""

    def opened(self: Any, *args: Any, **options: Any) -> None:
        name = args[0] if args else options.get("model_name_or_path", options.get("model_name"))
        if isinstance(name, str) and name in STAND_INS:
            args = (str(stand_in(name)), *args[1:])
            options = {key: value for key, value in options.items() if key not in ("model_name_or_path", "model_name")}
            options.pop("revision", None)
        init(self, *args, **options)

    return opened


def use_crossrt() -> None:
    """Replace sentence-transformers' class with crossrt's, and make it open bundles of the stand-ins."""
    import sentence_transformers
    from sentence_transformers.cross_encoder import model

    import crossrt
    from crossrt.engine import cross_encoder
    from crossrt.engine.bundle.bundle import Bundle
    from crossrt.engine.errors import CheckpointError, SourceError
    from crossrt.export.checkpoint.checkpoint import Checkpoint
    from crossrt.export.export import export_bundle

    def bundle_from_source(source: str, **options: Any) -> Bundle:
        path = stand_in(source) if source in STAND_INS else Path(source)
        if not path.is_dir():
            raise SourceError(f"{source} is not a directory that exists")
        if (path / "manifest.json").is_file():
            return Bundle.open(path)
        out = WORK / "bundles" / str(path.relative_to(path.anchor))
        if not out.is_dir():
            try:
                export_bundle(Checkpoint.read(path), out)
            except CheckpointError as error:
                raise SourceError(str(error)) from error
        return Bundle.open(out)

    init = crossrt.CrossEncoder.__init__

    def noted(self: Any, *args: Any, **options: Any) -> None:
        TOUCHED.add(RUNNING[0])
        init(self, *args, **options)

    crossrt.CrossEncoder.__init__ = noted
    cross_encoder.bundle_from_source = bundle_from_source
    for module in (sentence_transformers, sentence_transformers.cross_encoder, model):
        module.CrossEncoder = crossrt.CrossEncoder


def patch() -> None:
    """Replace the hub's models with the stand-ins and, if the settings say so, their class with crossrt's."""
    import sentence_transformers

    for kind in (sentence_transformers.CrossEncoder, sentence_transformers.SentenceTransformer):
        kind.__init__ = with_stand_ins(kind.__init__)
    if SETTINGS["library"] == "crossrt":
        use_crossrt()


OUTCOMES: dict[str, str] = {}
RUNNING = [""]
"""The test that is running."""
TOUCHED: set[str] = set()
"""Tests that opened or copied a model of crossrt."""


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker of tests that sentence-transformers skips by default, but that run here."""
    config.addinivalue_line("markers", "slow: run here too")


def pytest_runtest_logstart(nodeid: str) -> None:
    """Note the name of the test that begins."""
    RUNNING[0] = nodeid


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep the worst outcome of a test's phases."""
    counts = report.when == "call" or report.outcome != "passed"
    if counts and OUTCOMES.get(report.nodeid) != "failed":
        OUTCOMES[report.nodeid] = report.outcome


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the outcomes. A test that passed without a model of crossrt is `untouched`."""
    if SETTINGS["library"] == "crossrt":
        OUTCOMES.update(
            {name: "untouched" for name, outcome in OUTCOMES.items() if outcome == "passed" and name not in TOUCHED}
        )
    Path(SETTINGS["outcomes"]).write_text(json.dumps(OUTCOMES, indent=1), encoding="utf-8")


patch()  # this module is imported before their conftest.py
