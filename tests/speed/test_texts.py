"""What is scored: one query with its passages, real ones or words as long as MS MARCO's."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.errors import DataFileError, OptionError
from crossrt.engine.text.pair_tokenizer import PairTokenizer
from crossrt.speed.texts import Texts


@pytest.fixture
def tokenizer(bundle: Path) -> Tokenizer:
    return Tokenizer.from_file(str(Bundle.open(bundle).tokenizer_file))


def test_typical_pairs_have_ms_marcos_lengths(tokenizer: Tokenizer) -> None:
    texts = Texts.typical()
    pairs = [pair for number in range(20) for pair in texts.request(number, 100, tokenizer)]
    work = texts.workload(pairs, PairTokenizer(tokenizer, max_length=512))
    assert work.pairs == 2000
    assert work.mean_tokens == pytest.approx(95, rel=0.03)
    assert work.p99_tokens == pytest.approx(196, rel=0.08)
    assert sum(work.histogram.values()) == 2000
    assert work.sha256 is None
    assert all(int(start) % 16 == 0 for start in work.histogram)


def test_a_request_is_one_query(tokenizer: Tokenizer) -> None:
    texts = Texts.typical()
    first, second = texts.request(0, 30, tokenizer), texts.request(1, 30, tokenizer)
    assert len({query for query, _ in first}) == 1
    assert first != second
    assert texts.request(0, 30, tokenizer) == first, "the same every time"


def test_real_passages_come_in_their_order_and_then_from_other_queries(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text("q0\ta\nq0\tb\nq1\tc\nq0\td\n")
    texts = Texts.of_pairs(file)
    assert texts.request(0, 2, tokenizer) == [("q0", "a"), ("q0", "b")]
    assert texts.request(1, 6, tokenizer) == [("q1", text) for text in "cabdca"]
    assert texts.request(2, 1, tokenizer) == texts.request(0, 1, tokenizer)
    assert texts.source == "pairs.tsv"
    assert len(str(texts.sha256)) == 64


def test_a_runs_candidates_are_the_passages(tmp_path: Path, tokenizer: Tokenizer) -> None:
    names = ("queries", "passages", "run")
    contents = ("1\twho\n2\twhat\n", "a\tfirst\nb\tsecond\n", "1 Q0 b 1 9 t\n1 Q0 a 2 8 t\n2 Q0 a 1 9 t\n")
    for name, content in zip(names, contents, strict=True):
        (tmp_path / name).write_text(content)
    texts = Texts.of_run(*(tmp_path / name for name in names))
    assert texts.request(0, 2, tokenizer) == [("who", "second"), ("who", "first")]
    assert texts.request(1, 1, tokenizer) == [("what", "first")]


def test_an_empty_or_broken_file_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text("")
    with pytest.raises(DataFileError, match=r"pairs\.tsv is empty"):
        Texts.of_pairs(file)
    file.write_text("a\tb\nno tab\n")
    with pytest.raises(DataFileError, match=r"pairs\.tsv, line 2: expected `query <tab> passage`"):
        Texts.of_pairs(file)
    with pytest.raises(OptionError, match="--counts 0"):
        Texts.typical().request(0, 0, tokenizer)


def test_the_histogram_counts_what_the_model_reads(tokenizer: Tokenizer) -> None:
    texts = Texts.typical()
    pairs = texts.request(0, 50, tokenizer)
    work = texts.workload(pairs, PairTokenizer(tokenizer, max_length=40))
    assert work.p99_tokens <= 40
    assert max(map(int, work.histogram)) == 32
    assert np.isclose(work.mean_tokens, 40, atol=2), "nearly all are cut"
