"""What `demo/` claims of itself is true, measured again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrt import CrossEncoder
from crossrt.engine.files.trec import read_collection, read_qrels, read_run

pytest.importorskip("torch")
ir_measures = pytest.importorskip("ir_measures")

from crossrt.calibration.calibration_set import CalibrationSet
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.checkpoint.reference import Reference
from crossrt.export.export import export_bundle

DEMO = Path(__file__).resolve().parents[2] / "demo"
if not (DEMO / "checkpoint").is_dir():
    pytest.skip("no demo checkpoint has beaten BM25 by enough to be shipped yet", allow_module_level=True)
SAMPLE = DEMO / "sample"


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return dict(json.loads((DEMO / "checkpoint/training.json").read_text()))


@pytest.fixture(scope="module")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "bundle"
    _, reports = export_bundle(Checkpoint.read(DEMO / "checkpoint"), out)
    assert all(reports), "\n".join(map(str, reports))
    return out


@pytest.fixture(scope="module")
def collection() -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, float]]]:
    return read_collection(SAMPLE / "queries.tsv", SAMPLE / "passages.tsv", SAMPLE / "bm25.run.trec")


def test_the_checkpoint_is_small_and_names_its_data(facts: dict[str, Any]) -> None:
    assert (DEMO / "checkpoint/model.safetensors").stat().st_size < 8_000_000
    card = (DEMO / "checkpoint/README.md").read_text()
    for fact in (facts["data"]["release"], *facts["data"]["sha256"].values(), str(facts["held_out"]["model_mrr10"])):
        assert fact in card


def test_the_shipped_model_beat_bm25_on_held_out_packages(facts: dict[str, Any]) -> None:
    assert facts["held_out"]["gain"] >= 0.05
    assert facts["held_out"]["interval95"][0] > 0


def test_the_sample_is_200_queries_with_50_candidates_and_known_origins(collection: Any) -> None:
    queries, passages, run = collection
    assert len(queries) == len(run) == 200
    assert {len(scores) for scores in run.values()} == {50}
    origins = [line.split("\t")[0] for line in (SAMPLE / "SOURCES.tsv").read_text().splitlines()]
    assert set(origins) == set(passages) == {passage for scores in run.values() for passage in scores}
    assert set(read_qrels(SAMPLE / "qrels.txt")) == set(queries)


def test_no_passage_holds_the_synopsis_that_asks_for_it(collection: Any) -> None:
    queries, passages, _ = collection
    for query, judged in read_qrels(SAMPLE / "qrels.txt").items():
        for passage in set(judged) & set(passages):
            assert queries[query].lower() not in passages[passage].lower()


def test_reranking_the_sample_gives_the_cards_mrr(demo_bundle: Path, collection: Any, facts: dict[str, Any]) -> None:
    queries, passages, run = collection
    measure = ir_measures.parse_measure("RR@10")
    qrels = read_qrels(SAMPLE / "qrels.txt")
    with CrossEncoder(demo_bundle) as model:
        scores = model.predict([(queries[q], passages[p]) for q, found in run.items() for p in found])
    reranked: dict[str, dict[str, float]] = {query: {} for query in run}
    for (query, passage), score in zip(((q, p) for q in run for p in run[q]), scores.tolist(), strict=True):
        reranked[query][passage] = score
    before = ir_measures.calc_aggregate([measure], qrels, read_run(SAMPLE / "bm25.run.trec"))[measure]
    after = ir_measures.calc_aggregate([measure], qrels, reranked)[measure]
    assert before == pytest.approx(facts["sample"]["bm25_mrr10"], abs=1e-3)  # ties among BM25's scores
    assert after == pytest.approx(facts["sample"]["model_mrr10"], abs=1e-4)


def test_the_bundle_scores_the_sample_as_pytorch_does(demo_bundle: Path, collection: Any) -> None:
    queries, passages, run = collection
    pairs = [(queries[query], passages[passage]) for query in list(run)[:5] for passage in run[query]]
    expected = Reference(Checkpoint.read(DEMO / "checkpoint")).logits(pairs, max_length=160)[:, 0]
    with CrossEncoder(demo_bundle) as model:
        np.testing.assert_allclose(model.predict(pairs), expected, rtol=0, atol=1e-4)


def test_the_calibration_pairs_are_a_thousand_and_none_is_of_the_sample(collection: Any) -> None:
    queries, passages, _ = collection
    pairs = CalibrationSet.from_pairs_file(DEMO / "calibration/pairs.tsv").pairs
    assert len(pairs) == 1000
    assert not {query for query, _ in pairs} & set(queries.values())
    assert not {passage for _, passage in pairs} & set(passages.values())
