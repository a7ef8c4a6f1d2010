"""The estimate by which jobs are admitted is near the tokens that are counted later."""

from pathlib import Path

import pytest

from crossrt.engine.text.pair_tokenizer import PairTokenizer
from crossrt.engine.text.text_limits import TextLimits
from crossrt.engine.text.windows import Windows
from crossrt.server.dialects.job import Job
from crossrt.server.models.estimate import estimated_tokens
from tests.conftest import REPOSITORY

QUERY = "how tall is the mountain"
ENGLISH = "The mountain is the second highest on Earth, after another one, and nobody climbed it in winter. "
CHINESE = "喬戈里峰是地球上第二高的山峰僅次於珠穆朗瑪峰冬天沒有人登上去"


@pytest.fixture(scope="module")
def tokenizer() -> PairTokenizer:
    return PairTokenizer.from_file(Path(REPOSITORY / "demo/checkpoint/tokenizer.json"), max_length=128)


def job(texts: list[str], **fields: object) -> Job:
    return Job(pairs=[(QUERY, text) for text in texts], **fields)  # type: ignore[arg-type]


def test_pairs_count_as_they_are_truncated(tokenizer: PairTokenizer) -> None:
    texts = [ENGLISH * 50] * 100 + ["short"] * 100
    counted = len(tokenizer.encode([(QUERY, text) for text in texts]).ids)
    estimate = estimated_tokens(job(texts), 128)
    assert 100 * 128 < estimate < 1.1 * counted
    assert estimated_tokens(job([ENGLISH * 50] * 100), 128) == 100 * 128
    assert estimated_tokens(job(texts, limits=TextLimits(pair=64)), 128) < 0.6 * estimate
    assert estimated_tokens(job(texts, limits=TextLimits(passage=10, query=2)), 128) < 0.2 * estimate


def test_chinese_counts_about_a_token_a_character(tokenizer: PairTokenizer) -> None:
    texts = [CHINESE * 2] * 500
    counted = len(tokenizer.encode([(QUERY, text) for text in texts]).ids)
    assert 0.7 * counted < estimated_tokens(job(texts), 128) < 1.3 * counted


@pytest.mark.parametrize(("length", "stride"), [(64, 32), (64, 4), (128, 1), (20, 20), (1, 1), (6, 1)])
def test_windows_count_with_the_tokens_that_they_repeat(tokenizer: PairTokenizer, length: int, stride: int) -> None:
    texts, windows = [ENGLISH * 10] * 50 + ["short"], Windows(length=length, stride=stride)
    estimate = estimated_tokens(job(texts, windows=windows), 128)
    if length < 20:  # the query leaves no room, which is told once it is tokenized
        assert estimate > 0
        return
    counted = int(tokenizer.count_windows([(QUERY, text) for text in texts], windows).tokens.sum())
    assert 0.5 * counted < estimate < 2 * counted


def test_a_small_job_counts_by_its_characters_alone() -> None:
    assert estimated_tokens(job(["a" * 76]), 10) == 4 + 25
