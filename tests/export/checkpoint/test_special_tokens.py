"""Special tokens that stand in a text, padding above all, score as transformers scores them, by every backend."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tokenizers import Tokenizer, models, pre_tokenizers, processors

from crossrt import CrossEncoder
from crossrt.engine.backends.registry import installed_backends
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.bundle.native_weights import NativeModel
from crossrt.engine.precision import Precision
from crossrt.engine.text.pair_tokenizer import PairTokenizer
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.export import export_bundle
from crossrt.export.parity.pairs import builtin_pairs
from tests.engine.backends.emulated_gpu import emulated_logits

WORDS = "what is padding it fills rows up text that looks like markers the river in berlin".split()
PAIRS = [
    ("<pad> what is padding", "<pad> it fills <pad> <pad> rows up <pad>"),
    ("what is padding", "<pad>"),
    ("<s> </s> <mask>", "</s> </s> text that looks like <mask> markers </s> <unk>"),
    ("[PAD] what is [MASK]", "[CLS] [PAD] it fills [PAD] rows [SEP] up [PAD]"),
    ("what is it", "the river in berlin"),
]
KINDS = {
    "roberta": (transformers.RobertaConfig, transformers.RobertaForSequenceClassification),
    "xlm-roberta": (transformers.XLMRobertaConfig, transformers.XLMRobertaForSequenceClassification),
    "camembert": (transformers.CamembertConfig, transformers.CamembertForSequenceClassification),
}


def tokenizer_of(kind: str) -> Tokenizer:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if kind == "roberta":
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {token: number for number, token in enumerate([*special, *letters])}
        tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        pieces = [*((token, 0.0) for token in special), ("▁", -3.0), *((f"▁{word}", -4.0) for word in WORDS)]
        tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., Path]) -> Callable[[str], Path]:
    """Return a function that writes a checkpoint of a kind."""

    def make(kind: str) -> Path:
        if kind == "bert":
            return make_checkpoint()
        path = tmp_path_factory.mktemp(kind)
        tokenizer = tokenizer_of(kind)
        tokenizer.save(str(path / "tokenizer.json"))
        names = {
            "bos": "<s>",
            "cls": "<s>",
            "eos": "</s>",
            "sep": "</s>",
            "pad": "<pad>",
            "unk": "<unk>",
            "mask": "<mask>",
        }
        (path / "tokenizer_config.json").write_text(
            json.dumps(
                {f"{name}_token": token for name, token in names.items()}
                | {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 126}
            )
        )
        config_class, model_class = KINDS[kind]
        torch.manual_seed(0)
        config = config_class(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=128,
            type_vocab_size=1,
            num_labels=1,
            pad_token_id=1,
        )
        model = model_class(config)
        with torch.no_grad():  # the row of padding too, which is 0 when a model is new
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        model.save_pretrained(path)
        return path

    return make


def expected_of(path: Path) -> Any:
    """Each pair's logits as transformers computes them, alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = [model(**tokenizer([query], [passage], return_tensors="pt")).logits for query, passage in PAIRS]
    return torch.cat(logits).numpy()


@pytest.mark.parametrize("kind", ["bert", *KINDS])
def test_special_tokens_in_texts_score_as_in_transformers(
    kind: str, made: Callable[[str], Path], tmp_path: Path
) -> None:
    source = made(kind)
    expected = expected_of(source)
    plain = [row for row, (query, passage) in enumerate(PAIRS) if "<" not in query + passage and "[" not in query]
    assert len(plain) == 1
    half = shutil.which("g++") is not None and kind == "roberta"
    bundle, reports = export_bundle(
        Checkpoint.read(source), tmp_path / "bundle", precisions=["fp32", "fp16"] if half else ["fp32"]
    )
    assert all(reports), "\n".join(map(str, reports))
    for backend in installed_backends():
        with CrossEncoder(bundle.path, backend=backend, device="cpu") as model:
            np.testing.assert_allclose(model.logits(PAIRS), expected, rtol=0, atol=1e-4, err_msg=backend)
            np.testing.assert_allclose(np.concatenate([model.logits([pair]) for pair in PAIRS]), expected, atol=1e-4)
    if half:
        np.testing.assert_allclose(on_a_gpu(bundle, tmp_path / "kernels"), expected, rtol=0, atol=0.03)


def on_a_gpu(bundle: Bundle, folder: Path) -> Any:
    """The logits by the kernels for GPUs, run on the processor."""
    pytest.importorskip("cuda.bindings")
    assert NativeModel.open(bundle.native_file(Precision.FP16)).dims.padding == 1
    encoder = PairTokenizer.from_file(bundle.tokenizer_file, max_length=126)
    return emulated_logits(bundle, encoder.encode(PAIRS), folder)


@pytest.mark.parametrize("tokens", ["[CLS] [SEP] [PAD] [MASK] [UNK]", "<s> </s> <pad> <mask> <unk>"])
def test_the_built_in_pairs_hold_the_special_tokens_of_every_kind_of_tokenizer(tokens: str) -> None:
    pairs = builtin_pairs(64)
    texts = [text for pair in pairs for text in pair]
    for token in tokens.split():
        assert any(token in text for text in texts), token
    padding = next(token for token in tokens.split() if "pad" in token.lower())
    for side in (0, 1):
        places = [pair[side].split() for pair in pairs if padding in pair[side]]
        assert any(words[0] == padding for words in places), f"{padding} begins no text"
        assert any(words[-1] == padding for words in places), f"{padding} ends no text"
        if side:
            assert any(padding in words[1:-1] for words in places), f"{padding} is in the midst of no passage"
