"""XLM-R's tokenizer as `sentencepiece.bpe.model` alone, which transformers reads with the package sentencepiece.

sentencepiece is not part of the test environment: `scripts/integrations peft` runs what needs it.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from crossrt import CrossEncoder
from crossrt.engine.errors import CheckpointError
from crossrt.export import export
from crossrt.export.checkpoint import pretrained
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.checkpoint.pretrained import tokenizer_of
from crossrt.export.export import export_bundle
from tests.export.checkpoint.test_odd_checkpoints import KINDS, PAIRS, _write


def xlm_roberta(path: Path, pieces: bytes) -> Path:
    _write(path, **(KINDS["xlm-roberta"] | {"vocab_size": 300}))
    (path / "tokenizer.json").unlink()
    (path / "sentencepiece.bpe.model").write_bytes(pieces)
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "XLMRobertaTokenizer"}))
    return path


def test_without_sentencepiece_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = xlm_roberta(tmp_path / "checkpoint", b"pieces")
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"sentencepiece\.bpe\.model alone.*pip install sentencepiece protobuf"):
        tokenizer_of(Checkpoint.read(path))


@pytest.mark.skipif(find_spec("sentencepiece") is None, reason="sentencepiece is not installed")
def test_pieces_have_the_ids_of_xlm_roberta_and_pairs_score_as_in_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sentencepiece

    texts = [text for pair in PAIRS for text in pair if text] * 20
    (tmp_path / "texts").write_text("\n".join(texts), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "texts"), model_prefix=str(tmp_path / "pieces"), vocab_size=40, hard_vocab_limit=False
    )
    path = xlm_roberta(tmp_path / "checkpoint", (tmp_path / "pieces.model").read_bytes())
    monkeypatch.setattr(export, "builtin_pairs", lambda max_length: PAIRS)
    bundle, _ = export_bundle(Checkpoint.read(path), tmp_path / "bundle")
    reader = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "pieces.model"))
    model = transformers.XLMRobertaForSequenceClassification.from_pretrained(path).eval()
    expected: list[Any] = []
    for query, text in PAIRS:  # fairseq's ids are one more than those of the pieces: <s> 0, </s> 2, <unk> 3
        first, second = ([number + 1 if number else 3 for number in reader.encode(one)] for one in (query, text))
        while len(first) + len(second) > 62 - 4:
            (first if len(first) > len(second) else second).pop()
        with torch.inference_mode():
            expected.append(model(torch.tensor([[0, *first, 2, 2, *second, 2]])).logits[0].numpy())
    with CrossEncoder(bundle.path, device="cpu") as ours:
        np.testing.assert_allclose(ours.logits(PAIRS), np.array(expected), rtol=0, atol=1e-4)
