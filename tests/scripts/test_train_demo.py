"""The demo's training script splits, cleans and judges as its card says."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

for needed in ("torch", "transformers", "bm25s", "scipy"):
    pytest.importorskip(needed)
import torch


@pytest.fixture(scope="module")
def demo(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("train_demo")


@pytest.fixture(scope="module")
def data(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("demo_data")


@pytest.fixture(scope="module")
def network(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("demo_model")


PACKAGES = """Package: chess
Source: chess-src (1.0)
Description-md5: a

Package: dummy
Description-md5: b

Package: lost
Description-md5: zzz
"""
TRANSLATIONS = """Package: chess
Description-md5: a
Description-en: plays chess against you
 A program that plays chess against you and never
 grows tired of it.
 .
 It has many openings, and it knows every ending with up to five
 pieces on the board by heart.

Package: dummy
Description-md5: b
Description-en: transitional dummy package for chess
 Words.
"""


def test_a_passage_is_the_long_description_without_the_synopsis(data: ModuleType) -> None:
    (package,) = data.read_packages(PACKAGES, TRANSLATIONS)
    assert (package.name, package.source, package.synopsis) == ("chess", "chess-src", "plays chess against you")
    assert package.description.startswith("A program that and never grows tired of it. It has many openings")


def package(data: ModuleType, source: str, text: str) -> object:
    return data.Package(f"{source}-bin", source, f"what {source} is", text)


def test_no_source_package_and_no_near_duplicate_is_on_both_sides(data: ModuleType) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{word}" for word in rng.integers(0, 5000, 30)) for _ in range(200)]
    packages = [package(data, f"s{index}", text) for index, text in enumerate(texts)]
    copies = [package(data, f"copy{index}", f"{text} and more") for index, text in enumerate(texts)]
    training, evaluation = data.split(packages + copies)
    assert len(training) > 100
    assert len(evaluation) > 10
    assert not {p.source for p in training} & {p.source for p in evaluation}
    known = set().union(*(data.shingles(p.description) for p in training))
    for p in evaluation:
        own = data.shingles(p.description)
        assert len(own & known) <= 0.1 * len(own)


def test_a_text_shorter_than_a_shingle_is_one(data: ModuleType) -> None:
    assert data.shingles("Two words") == {"two words"}
    assert len(data.shingles("one two three four five six seven eight nine")) == 2


def test_reciprocal_ranks_count_ten_places(demo: ModuleType) -> None:
    order = [[7, 3], list(range(20)), list(range(20))]
    np.testing.assert_allclose(demo.reciprocal_ranks(order, [3, 9, 10]), [0.5, 0.1, 0.0])


@pytest.mark.parametrize(
    ("gain", "low", "shipped"), [(0.05, 0.01, True), (0.049, 0.01, False), (0.06, 0.0, False), (-0.1, -0.2, False)]
)
def test_a_model_below_the_bar_is_not_shipped(demo: ModuleType, gain: float, low: float, shipped: bool) -> None:
    assert demo.good_enough({"gain": gain, "interval95": [low, 0.2]}) is shipped


def test_the_interval_of_a_clear_gain_is_above_zero_and_of_none_is_not(demo: ModuleType) -> None:
    rng = np.random.default_rng(0)
    bm25 = rng.random(300)
    assert demo.judged(bm25, bm25 + 0.1)["interval95"] == [0.1, 0.1]
    noise = demo.judged(bm25, bm25 + rng.normal(0, 0.1, 300))
    assert noise["interval95"][0] < 0 < noise["interval95"][1]


def test_words_that_stand_together_get_like_vectors(network: ModuleType) -> None:
    rng = np.random.default_rng(0)
    topics = [list(range(5, 15)), list(range(15, 25))]
    texts = [rng.choice(topic, 12).tolist() for _ in range(200) for topic in topics]
    vectors = network.word_vectors(25, texts, 4)
    likeness = vectors @ vectors.T
    assert likeness[5:15, 5:15].mean() > likeness[5:15, 15:25].mean() + 0.5


def test_training_computes_what_the_model_computes(network: ModuleType) -> None:
    torch.manual_seed(0)
    vocabulary = 40
    idf, vectors = torch.randn(vocabulary), torch.randn(vocabulary, len(network.MEANING))
    model = network.make_model(idf, vectors).eval()
    pairs = [([5, 6, 7], list(range(8, 30))), ([9], [5]), ([5] * 4, [])]
    ids, types, mask = network.padded(pairs, 64)
    with torch.inference_mode():
        expected = model(input_ids=ids, token_type_ids=types, attention_mask=mask).logits[:, 0]
        torch.testing.assert_close(network.logits_of(model, pairs, 64), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("query", "passage"), [(3, 500), (100, 3), (100, 100)])
def test_a_long_pair_is_cut_to_the_limit(network: ModuleType, query: int, passage: int) -> None:
    ids, _, mask = network.padded([([7] * query, [8] * passage)], 80)
    assert ids.shape[1] == min(80, query + passage + 3)
    assert mask.all()
    assert (ids == 7).sum() >= min(query, 38)


def test_the_second_target_orders_passages_as_bm25_does(demo: ModuleType) -> None:
    import bm25s

    rng = np.random.default_rng(0)
    passages = [rng.integers(10, 60, size=rng.integers(5, 40)).tolist() for _ in range(50)]
    query = [11, 17, 23, 40]
    ours = demo.TokenBM25([([], passage) for passage in passages])
    shares = np.array([ours.share(query, index) for index in range(len(passages))])
    peer = bm25s.BM25(k1=demo.K1, b=demo.B, method="lucene")
    peer.index([[str(token) for token in passage] for passage in passages], show_progress=False)
    expected = peer.get_scores([str(token) for token in query])
    assert shares.min() >= 0
    assert shares.max() <= 1
    np.testing.assert_allclose(shares / shares.max(), expected / expected.max(), rtol=1e-4)
