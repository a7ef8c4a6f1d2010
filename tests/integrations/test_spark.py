"""The function for Spark, beside pyspark in local mode with two workers."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyspark", reason="Spark is not installed: run scripts/integrations spark")
import pandas as pd
from pyspark.errors import PythonException
from pyspark.sql import SparkSession

from crossrt import CrossEncoder
from crossrt.engine.errors import BundleError, OptionError
from crossrt.integrations import spark as adapter

from .conftest import QUERY, REPOSITORY


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    patch = pytest.MonkeyPatch()
    patch.setenv("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", "5")
    session = builder.config("spark.driver.bindAddress", "127.0.0.1").getOrCreate()
    yield session
    session.stop()
    patch.undo()


@pytest.fixture
def rows(texts: list[str]) -> list[tuple[str, str, int, str]]:
    """Return rows of two queries."""
    queries = {"q1": QUERY, "q2": "a compiler"}
    return [(qid, query, n, text) for qid, query in queries.items() for n, text in enumerate(texts)]


def framed(spark: SparkSession, rows: Any, partitions: int = 1) -> Any:
    return spark.createDataFrame(rows, "qid string, query string, docno int, text string").repartition(partitions)


def test_rows_get_the_scores_of_predict_in_their_order(
    spark: SparkSession, demo_bundle: Path, demo_model: CrossEncoder, rows: list[Any]
) -> None:
    frame = framed(spark, rows)
    scored = frame.mapInPandas(*adapter.reranker(demo_bundle, frame.schema))
    assert scored.schema.simpleString() == "struct<qid:string,docno:int,score:float>"
    found = [tuple(row) for row in scored.collect()]
    wanted = demo_model.predict([(query, text) for _, query, _, text in rows]).tolist()
    assert found == [(qid, docno, score) for (qid, _, docno, _), score in zip(rows, wanted, strict=True)]


def test_partitions_are_scored_by_workers_that_open_the_model_once(
    spark: SparkSession, demo_bundle: Path, demo_model: CrossEncoder, rows: list[Any]
) -> None:
    frame = framed(spark, rows, 6)
    function, schema = adapter.reranker(demo_bundle, frame.schema)

    def counted(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        import os

        for _ in (*function(frames), *function(iter([]))):
            pass
        yield pd.DataFrame({"process": [os.getpid()], "opened": [adapter._opened.cache_info().misses]})

    found = frame.mapInPandas(counted, "process int, opened int").collect()
    assert {row.opened for row in found} == {1}
    assert len({row.process for row in found}) <= 2
    scored = {(row.qid, row.docno): row.score for row in frame.mapInPandas(function, schema).collect()}
    wanted = demo_model.predict([(query, text) for _, query, _, text in rows]).tolist()
    assert scored == {(qid, docno): score for (qid, _, docno, _), score in zip(rows, wanted, strict=True)}


def test_a_frame_without_rows_stays_one(spark: SparkSession, demo_bundle: Path, rows: list[Any]) -> None:
    frame = framed(spark, rows).where("docno < 0")
    assert frame.mapInPandas(*adapter.reranker(demo_bundle, frame.schema)).collect() == []


def test_a_null_is_named_with_its_row(spark: SparkSession, demo_bundle: Path, rows: list[Any]) -> None:
    rows[7] = ("q1", QUERY, 7, None)
    frame = framed(spark, rows)
    function, schema = adapter.reranker(demo_bundle, frame.schema)
    with pytest.raises(PythonException, match=r"'query' or 'text' is null in the row \{'qid': 'q1', 'docno': 7\}"):
        frame.mapInPandas(function, schema).collect()
    assert frame.dropna(subset=["text"]).mapInPandas(function, schema).count() == len(rows) - 1


def test_options_open_the_model(spark: SparkSession, demo_bundle: Path, rows: list[Any]) -> None:
    frame = framed(spark, rows).withColumnsRenamed({"query": "q", "text": "body"})
    names = {"query": "q", "text": "body", "score": "relevance"}
    scored = frame.mapInPandas(*adapter.reranker(demo_bundle, frame.schema, **names, max_length=16))
    with CrossEncoder(demo_bundle, max_length=16) as model:
        wanted = model.predict([(query, text) for _, query, _, text in rows]).tolist()
    assert [row.relevance for row in scored.collect()] == wanted


def test_what_the_driver_can_see_is_refused_at_once(spark: SparkSession, demo_bundle: Path, rows: list[Any]) -> None:
    schema = framed(spark, rows).schema
    with pytest.raises(OptionError, match="text='body': the frame's columns of texts are qid, query, text"):
        adapter.reranker(demo_bundle, schema, text="body")
    with pytest.raises(OptionError, match="score='docno': the frame has such a column"):
        adapter.reranker(demo_bundle, schema, score="docno")
    with pytest.raises(BundleError, match="is not a bundle"):
        adapter.reranker(demo_bundle.parent / "nothing", schema)


def test_another_bundle_on_a_node_is_refused(demo_bundle: Path) -> None:
    with pytest.raises(BundleError, match="on this node is not the bundle that the driver has"):
        adapter._opened(str(demo_bundle), "0" * 64)


def test_the_example_prints_what_the_page_says(spark: SparkSession, demo_bundle: Path, tmp_path: Path) -> None:
    page = (REPOSITORY / "docs/spark.md").read_text(encoding="utf-8")
    code, printed = re.findall(r"```(?:python|text)\n(.*?)```", page, flags=re.DOTALL)[:2]
    (tmp_path / "demo").symlink_to(REPOSITORY / "demo")
    (tmp_path / "demo-bundle").symlink_to(demo_bundle)
    child = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert child.stdout == printed, child.stdout
