"""The function for Spark, beside pyspark in local mode with two workers."""

import math
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyspark", reason="Spark is not installed: run scripts/integrations spark")
import pyarrow as pa
from pyspark.errors import PythonException
from pyspark.sql import SparkSession

import crossrt
from crossrt import CrossEncoder
from crossrt.engine.errors import BackendError, BundleError, OptionError
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
    scored = frame.mapInArrow(*adapter.reranker(demo_bundle, frame.schema))
    assert scored.schema.simpleString() == "struct<qid:string,docno:int,score:float>"
    found = [tuple(row) for row in scored.collect()]
    wanted = demo_model.predict([(query, text) for _, query, _, text in rows]).tolist()
    assert found == [(qid, docno, score) for (qid, _, docno, _), score in zip(rows, wanted, strict=True)]


def test_partitions_are_scored_by_workers_that_open_the_model_once(
    spark: SparkSession, demo_bundle: Path, demo_model: CrossEncoder, rows: list[Any]
) -> None:
    frame = framed(spark, rows, 6)
    function, schema = adapter.reranker(demo_bundle, frame.schema)

    def counted(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import os

        for _ in (*function(batches), *function(iter([]))):
            pass
        row = {"process": os.getpid(), "opened": adapter._opened.cache_info().misses}
        yield pa.RecordBatch.from_pylist([row], pa.schema({"process": pa.int32(), "opened": pa.int32()}))

    found = frame.mapInArrow(counted, "process int, opened int").collect()
    assert {row.opened for row in found} == {1}
    assert len({row.process for row in found}) <= 2
    scored = {(row.qid, row.docno): row.score for row in frame.mapInArrow(function, schema).collect()}
    wanted = demo_model.predict([(query, text) for _, query, _, text in rows]).tolist()
    assert scored == {(qid, docno): score for (qid, _, docno, _), score in zip(rows, wanted, strict=True)}


def test_a_frame_without_rows_stays_one(spark: SparkSession, demo_bundle: Path, rows: list[Any]) -> None:
    frame = framed(spark, rows).where("docno < 0")
    assert frame.mapInArrow(*adapter.reranker(demo_bundle, frame.schema)).collect() == []


def test_a_null_is_named_with_its_row(spark: SparkSession, demo_bundle: Path, rows: list[Any]) -> None:
    rows[7] = ("q1", QUERY, 7, None)
    frame = framed(spark, rows)
    function, schema = adapter.reranker(demo_bundle, frame.schema)
    with pytest.raises(PythonException, match=r"'query' or 'text' is null in the row \{'qid': 'q1', 'docno': 7\}"):
        frame.mapInArrow(function, schema).collect()
    assert frame.dropna(subset=["text"]).mapInArrow(function, schema).count() == len(rows) - 1


def test_columns_of_every_type_pass_unchanged(spark: SparkSession, demo_bundle: Path) -> None:
    kinds = {
        "id": ("bigint", 2**53 + 1),  # no float64 is this number
        "missing": ("double", math.nan),  # for pandas, NaN is null
        "small": ("tinyint", 7),
        "price": ("decimal(38,18)", Decimal("12345678901234567890.123456789012345678")),
        "old": ("timestamp", datetime(1500, 1, 1)),  # the nanoseconds of pandas begin in 1677
        "local": ("timestamp_ntz", datetime(9999, 12, 31, 23, 59, 59, 999999)),
        "day": ("date", date(9999, 12, 31)),
        "took": ("interval day to second", timedelta(days=300_000, microseconds=1)),  # more than 2^63 nanoseconds
        "raw": ("binary", bytearray(b"\x00\xff")),
        "list": ("array<array<bigint>>", [[2**53 + 1, None], []]),
        "map": ("map<string,array<int>>", {"a": [1, None]}),
        "row": ("struct<a:bigint,b:struct<c:string>>", (2**53 + 1, ("é",))),
    }
    schema = ", ".join(["query string", *(f"{name} {kind}" for name, (kind, _) in kinds.items()), "text string"])
    values = [value for _, value in kinds.values()]
    nulls = [None] * len(values)
    frame = spark.createDataFrame([("q", *values, "a"), ("q", *nulls, ""), ("q", *values, "\x00\u2028😀")], schema)
    function, scored = adapter.reranker(demo_bundle, frame.schema)
    found = frame.mapInArrow(function, scored)
    assert repr(found.drop("score").collect()) == repr(frame.drop("query", "text").collect())  # no NaN equals another
    assert found.dtypes == [*frame.drop("query", "text").dtypes, ("score", "float")]
    texts = frame.select("query", "text")
    assert [row.score for row in texts.mapInArrow(*adapter.reranker(demo_bundle, texts.schema)).collect()] == [
        row.score for row in found.collect()
    ]


def test_a_null_in_a_frame_of_texts_alone(spark: SparkSession, demo_bundle: Path) -> None:
    frame = spark.createDataFrame([(None, "a")], "query string, text string")
    with pytest.raises(PythonException, match=r"'query' or 'text' is null in the row \{\}"):
        frame.mapInArrow(*adapter.reranker(demo_bundle, frame.schema)).collect()


def test_options_that_are_no_hashes_open_the_model_once(
    spark: SparkSession, demo_bundle: Path, rows: list[Any]
) -> None:
    frame = framed(spark, rows, 4)
    options: dict[str, Any] = {"activation_fn": lambda logits: logits * 2, "model_kwargs": {"dtype": "float32"}}
    function, _ = adapter.reranker(demo_bundle, frame.schema, **options)

    def counted(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import os

        doubled = [score.as_py() for batch in function(batches) for score in batch.column("score")]
        row = {"process": os.getpid(), "opened": adapter._opened.cache_info().misses, "sum": sum(doubled)}
        kinds = {"process": pa.int32(), "opened": pa.int32(), "sum": pa.float64()}
        yield pa.RecordBatch.from_pylist([row], pa.schema(kinds))

    with CrossEncoder(demo_bundle) as model:
        wanted = 2 * model.predict([(query, text) for _, query, _, text in rows]).sum()
    once, again = (frame.mapInArrow(counted, "process int, opened int, sum double").collect() for _ in range(2))
    assert sum(row.sum for row in once) == pytest.approx(wanted, rel=1e-5)
    before = {row.process: row.opened for row in once}
    assert all(row.opened == before[row.process] for row in again if row.process in before)


def test_a_relative_path_is_that_of_the_driver(
    spark: SparkSession, demo_bundle: Path, rows: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(demo_bundle.parent)  # the workers' directory is another
    frame = framed(spark, rows)
    assert frame.mapInArrow(*adapter.reranker(demo_bundle.name, frame.schema)).count() == len(rows)


def test_options_open_the_model(spark: SparkSession, demo_bundle: Path, rows: list[Any]) -> None:
    frame = framed(spark, rows).withColumnsRenamed({"query": "q", "text": "body"})
    names = {"query": "q", "text": "body", "score": "relevance"}
    scored = frame.mapInArrow(*adapter.reranker(demo_bundle, frame.schema, **names, max_length=16))
    with CrossEncoder(demo_bundle, max_length=16) as model:
        wanted = model.predict([(query, text) for _, query, _, text in rows]).tolist()
    assert [row.relevance for row in scored.collect()] == wanted


def test_what_the_driver_can_see_is_refused_at_once(spark: SparkSession, demo_bundle: Path, rows: list[Any]) -> None:
    schema = framed(spark, rows).schema
    with pytest.raises(OptionError, match="text='body': the frame's columns of texts are qid, query, text"):
        adapter.reranker(demo_bundle, schema, text="body")
    with pytest.raises(OptionError, match="score='docno': the frame has such a column"):
        adapter.reranker(demo_bundle, schema, score="docno")
    with pytest.raises(OptionError, match="score='DocNo': the frame has such a column"):
        adapter.reranker(demo_bundle, schema, score="DocNo")  # Spark could not tell the two apart
    with pytest.raises(BundleError, match="is not a bundle"):
        adapter.reranker(demo_bundle.parent / "nothing", schema)


def test_another_bundle_or_crossrt_on_a_node_is_refused(demo_bundle: Path) -> None:
    with pytest.raises(BundleError, match="on this node is not the bundle that the driver has"):
        adapter._opened(crossrt.__version__, str(demo_bundle), "0" * 64, b"")
    with pytest.raises(BackendError, match=f"a node has crossrt {crossrt.__version__}, and the driver 99.0"):
        adapter._opened("99.0", str(demo_bundle), "0" * 64, b"")


def test_the_example_prints_what_the_page_says(spark: SparkSession, demo_bundle: Path, tmp_path: Path) -> None:
    page = (REPOSITORY / "docs/spark.md").read_text(encoding="utf-8")
    code, printed = re.findall(r"```(?:python|text)\n(.*?)```", page, flags=re.DOTALL)[:2]
    (tmp_path / "demo").symlink_to(REPOSITORY / "demo")
    (tmp_path / "demo-bundle").symlink_to(demo_bundle)
    child = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert child.stdout == printed, child.stdout
