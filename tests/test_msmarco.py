"""On real MS MARCO passages with really trained weights, the ranking is PyTorch's. Needs ../shared."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
ir_measures = pytest.importorskip("ir_measures")

from crossrt import CrossEncoder
from crossrt.__main__ import main
from crossrt.engine.files.trec import read_collection, read_qrels, read_run
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.checkpoint.reference import Reference
from crossrt.export.export import export_bundle

NDCG10_OF_PYTORCH = 0.6180
"""nDCG@10 of the trained MiniLM-L-6 in PyTorch FP32 on these lists, from the README beside the weights."""


@pytest.fixture(scope="module")
def trained(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "bundle"
    _, reports = export_bundle(Checkpoint.read(shared / "models/minilm-l6-trained"), out)
    assert all(reports), "\n".join(map(str, reports))
    return out


def test_the_trained_model_scores_as_pytorch_on_real_passages(shared: Path, trained: Path) -> None:
    data = shared / "data/msmarco-dl19"
    queries, passages, run = read_collection(data / "queries.tsv", data / "passages.tsv", data / "bm25.run.trec")
    query = next(iter(run))
    pairs = [(queries[query], passages[passage]) for passage in run[query]]
    reference = Reference(Checkpoint.read(shared / "models/minilm-l6-trained"))
    expected = reference.logits(pairs, max_length=512)[:, 0]
    with CrossEncoder(trained) as model:
        np.testing.assert_allclose(model.predict(pairs), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_reranking_reaches_pytorchs_ndcg_to_four_decimals(
    shared: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = shared / "data/msmarco-dl19", tmp_path / "out.trec"
    words = ["rerank", trained, "--queries", data / "queries.tsv", "--passages", data / "passages.tsv"]
    monkeypatch.setattr(
        "sys.argv", ["crossrt", *map(str, words), "--run", str(data / "bm25.run.trec"), "--out", str(out)]
    )
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    measure = ir_measures.parse_measure("nDCG@10")
    measured = ir_measures.calc_aggregate([measure], read_qrels(data / "qrels.txt"), read_run(out))[measure]
    assert round(measured, 4) == NDCG10_OF_PYTORCH
