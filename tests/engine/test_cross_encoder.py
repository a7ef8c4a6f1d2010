"""The behaviour of `CrossEncoder` that users may rely on."""

import importlib.util
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossrt import AutoModelForSequenceClassification, CrossEncoder
from crossrt.engine.backends.registry import installed_backends
from crossrt.engine.errors import BackendError, InputError, OptionError, UnsupportedOptionError
from crossrt.engine.kernels.support import why_not_native
from crossrt.engine.runtime import chunks
from tests.engine.samples import in_threads

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
ATOL = 2e-5  # FP32 noise of another order of summation: 3e-6 measured on logits of this size


def test_scores_come_in_input_order_whatever_the_batch_size(model: CrossEncoder, pairs: list[tuple[str, str]]) -> None:
    alone = np.array([model.predict(pair) for pair in pairs])
    for batch_size in (1, 2, 5, 32):
        np.testing.assert_allclose(model.predict(pairs, batch_size=batch_size), alone, rtol=0, atol=ATOL)
    backwards = model.predict(pairs[::-1])
    np.testing.assert_allclose(backwards[::-1], alone, rtol=0, atol=ATOL)
    assert np.ptp(alone) > 0.1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8), batch_size=st.integers(1, 9))
def test_a_pair_scores_the_same_alone_and_among_any_others(
    model: CrossEncoder, pairs: list[tuple[str, str]], batch_size: int
) -> None:
    among = model.predict(pairs, batch_size=batch_size)
    alone = [model.predict(pair) for pair in pairs]
    np.testing.assert_allclose(among, alone, rtol=0, atol=ATOL)


def test_every_form_of_pairs_gives_the_same_scores(model: CrossEncoder, pairs: list[tuple[str, str]]) -> None:
    expected = model.predict(pairs)
    assert expected.dtype == np.float32
    assert expected.shape == (len(pairs),)
    forms: list[Any] = [
        tuple(pairs),
        [list(pair) for pair in pairs],
        np.array(pairs),
        np.array(pairs, dtype=object),
        [np.array(pair) for pair in pairs],
        (pair for pair in pairs),
    ]
    for form in forms:
        np.testing.assert_array_equal(model.predict(form), expected)


@pytest.mark.parametrize("single", [("a b", "c"), ["a b", "c"], np.array(["a b", "c"])])
def test_a_single_pair_gives_a_scalar(model: CrossEncoder, single: Any) -> None:
    score = model.predict(single)
    assert isinstance(score, np.float32)
    assert np.ndim(score) == 0


def test_no_pairs_give_no_scores(model: CrossEncoder, two_label_bundle: Path) -> None:
    for empty in ([], (), np.empty((0, 2), dtype=str), iter([])):
        scores = model.predict(empty)
        assert scores.shape == (0,)
        assert scores.dtype == np.float32
    assert model.rank("a query", []) == []


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (None, "got None"),
        ("a string", "expected pairs of texts, got str"),
        (b"bytes", "expected pairs of texts, got bytes"),
        (7, "expected pairs of texts, got int"),
        ([("a", None)], "the passage of item 0 is None"),
        ([("a", "b"), (None, "b")], "the query of item 1 is None"),
        ([("a", "b"), "c d"], "item 1 is str 'c d', not a pair"),
        ([("a", "b"), ("a", "b", "c")], "item 1 has 3 texts"),
        (["a", "b", "c"], "item 0 has 3 texts"),
        (["a"], "item 0 has 1 texts"),
        ([("a", b"b")], "the passage of item 0 is bytes b'b', not a text; decode it first"),
        ([("a", 3.5)], "the passage of item 0 is float 3.5"),
        ([[]], "item 0 has 0 texts"),
        ([{"query": "a"}], "item 0 is dict"),
        ([("a", "b"), ("a", "\ud800")], "pair 1 holds a lone surrogate"),
        (MappingProxyType({("a", "b"): 1}), "expected pairs of texts, got mappingproxy"),
        (np.array("a"), "expected pairs of texts, got ndarray"),
    ],
)
def test_what_is_no_pair_is_refused_by_index(model: CrossEncoder, inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.predict(inputs)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("a", "b"), ("a", float("nan"))], "the passage of item 1 is float nan, not a text"),
        ([("a", b"b")], "the passage of item 0 is bytes b'b', not a text; decode it first"),
        (["ab"], "item 0 is str 'ab', not a pair"),
        ([("a", "b", "c")], "item 0 has 3 texts"),
        ({"ab": 1}, "expected pairs of texts, got dict"),
        (None, "expected pairs of texts, got None"),
    ],
)
def test_logits_refuse_what_predict_refuses(model: CrossEncoder, pairs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.logits(pairs)


class Frame:
    """What of a pandas DataFrame matters here: it is iterated by the names of its columns."""

    columns = ("query", "passage")

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


def test_a_data_frame_is_refused_whose_items_are_the_names_of_columns(model: CrossEncoder) -> None:
    with pytest.raises(InputError, match=r"documents is Frame .*; pass a list of passages"):
        model.rank("a", Frame())
    with pytest.raises(InputError, match="expected pairs of texts, got Frame"):
        model.predict(Frame())


def test_arrows_scalars_are_refused_with_what_to_pass_instead(model: CrossEncoder) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    column = pyarrow.chunked_array([["the river", "berlin"]])
    with pytest.raises(InputError, match=r"passage 0 is StringScalar .*; pass Python's values, as column\.to_pylist"):
        model.rank("where is the river", column)
    rows = pyarrow.array([["where", "the river"], ["where", "berlin"]])
    with pytest.raises(InputError, match=r"item 0 is ListScalar .*not a pair.*; pass Python's values"):
        model.predict(rows)
    assert model.rank("where is the river", column.to_pylist())
    np.testing.assert_array_equal(
        model.predict(rows.to_pylist()), model.predict([tuple(row) for row in rows.to_pylist()])
    )


def test_rank_sorts_best_first_and_keeps_ties_in_input_order(model: CrossEncoder) -> None:
    documents = ["the river is green", "berlin is a city", "the river is green", "salt"]
    ranked = model.rank("where is the river", documents, return_documents=True)
    scores = [entry["score"] for entry in ranked]
    assert scores == sorted(scores, reverse=True)
    assert {entry["corpus_id"] for entry in ranked} == {0, 1, 2, 3}
    assert all(entry["text"] == documents[entry["corpus_id"]] for entry in ranked)
    assert all(type(entry["score"]) is float and type(entry["corpus_id"]) is int for entry in ranked)
    places = [entry["corpus_id"] for entry in ranked]
    assert places.index(2) == places.index(0) + 1
    assert model.rank("where is the river", documents, top_k=2) == [
        {"corpus_id": entry["corpus_id"], "score": entry["score"]} for entry in ranked[:2]
    ]
    assert model.rank("where is the river", documents, top_k=0) == []
    assert len(model.rank("where is the river", (text for text in documents), top_k=99)) == 4


def test_rank_refuses_what_it_cannot_rank(model: CrossEncoder) -> None:
    with pytest.raises(InputError, match="the query is None"):
        model.rank(None, ["a"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="passage 1 is int 3"):
        model.rank("a", ["b", 3])  # type: ignore[list-item]
    with pytest.raises(InputError, match="documents is one text"):
        model.rank("a", "b")
    with pytest.raises(OptionError, match="top_k=-1"):
        model.rank("a", ["b"], top_k=-1)


def test_two_labels_are_ranked_by_the_margin_which_orders_as_softmax(two_label_bundle: Path) -> None:
    documents = ["berlin is a city", "the river", "people live in paris " * 4, ""]
    with CrossEncoder(two_label_bundle) as model:
        pairs = [("where is the river", document) for document in documents]
        logits = model.predict(pairs)
        assert logits.shape == (4, 2)
        softmaxed = model.predict(pairs, apply_softmax=True)
        np.testing.assert_allclose(softmaxed.sum(axis=1), 1, atol=1e-6)
        ranked = model.rank("where is the river", documents)
        assert [entry["corpus_id"] for entry in ranked] == np.argsort(-softmaxed[:, 1], kind="stable").tolist()
        margin = {entry["corpus_id"]: entry["score"] for entry in ranked}
        np.testing.assert_allclose([margin[i] for i in range(4)], logits[:, 1] - logits[:, 0], atol=ATOL)
        probability = model.rank("where is the river", documents, activation_fn="sigmoid")
        np.testing.assert_allclose(probability[0]["score"], softmaxed[:, 1].max(), atol=1e-5)


def test_an_activation_given_to_a_call_holds_for_that_call_alone(
    model: CrossEncoder, pairs: list[tuple[str, str]]
) -> None:
    logits = model.predict(pairs)
    expected = 1 / (1 + np.exp(-logits.astype(np.float64)))
    np.testing.assert_allclose(model.predict(pairs, activation_fn="sigmoid"), expected, atol=1e-6)
    np.testing.assert_allclose(model.predict(pairs, activation_fn=lambda x: x * 2), logits * 2, atol=ATOL)
    np.testing.assert_array_equal(model.predict(pairs), logits)
    with pytest.raises(OptionError, match="unknown activation 'nonsense'; known by name: identity, sigmoid"):
        model.predict(pairs, activation_fn="nonsense")


def test_torch_activations_and_tensors_are_served_where_torch_is(
    model: CrossEncoder, pairs: list[tuple[str, str]]
) -> None:
    torch = pytest.importorskip("torch")
    expected = model.predict(pairs, activation_fn="sigmoid")
    for activation in (torch.nn.Sigmoid(), torch.sigmoid, lambda scores: scores.sigmoid()):
        np.testing.assert_allclose(model.predict(pairs, activation_fn=activation), expected, atol=1e-6)
    tensor = model.predict(pairs, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype == torch.float32
    listed = model.predict(pairs, convert_to_numpy=False)
    assert isinstance(listed, list)
    assert isinstance(listed[0], torch.Tensor)
    assert model.predict(pairs[0], convert_to_tensor=True).ndim == 0
    assert model.predict([], convert_to_tensor=True).shape == (0,)


def test_a_default_activation_may_be_given_when_opening(
    bundle: Path, model: CrossEncoder, pairs: list[tuple[str, str]]
) -> None:
    with CrossEncoder(bundle, activation_fn="sigmoid") as sigmoid:
        np.testing.assert_array_equal(sigmoid.predict(pairs), model.predict(pairs, activation_fn="sigmoid"))


def test_eight_threads_get_the_scores_that_one_gets(model: CrossEncoder, pairs: list[tuple[str, str]]) -> None:
    expected = model.predict(pairs)

    def score(_: int) -> None:
        for _ in range(20):
            np.testing.assert_allclose(model.predict(pairs, batch_size=3), expected, rtol=0, atol=ATOL)

    in_threads(score, 8)


def test_texts_longer_than_the_limit_lose_tokens_from_the_longer_side_first(bundle: Path) -> None:
    with CrossEncoder(bundle, max_length=16) as model:
        encoded = model.encode([("the river", "city " * 50), ("city " * 50, "the river")])
        assert encoded.lengths.tolist() == [16, 16]
        types = [encoded.type_ids[start : start + 16].sum() for start in encoded.offsets[:-1]]
        assert types == [16 - 4, 3]  # [CLS] the river [SEP] | 11 passage tokens [SEP], and the other way round
        assert model.max_length == model.max_seq_length == 16
        model.max_length = 20
        assert model.encode([("a", "city " * 50)]).lengths.tolist() == [20]


def test_numpys_integers_are_integers(bundle: Path, pairs: list[tuple[str, str]]) -> None:
    options = {"max_length": np.int64(32), "num_labels": np.int32(1), "threads": np.uint8(1)}
    with CrossEncoder(bundle, **options) as model:  # type: ignore[arg-type]
        assert model.max_length == 32
        model.max_length = np.int16(16)
        assert model.predict(pairs, batch_size=np.int64(4)).shape == (12,)
        assert len(model.rank("a", ["b", "c", "d"], top_k=np.int64(2), batch_size=np.int8(1))) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 65}, "max_length=65, but the model has positions for 64"),
        ({"max_length": 3}, "whole number from 4"),
        ({"max_length": "long"}, "whole number from 1"),
        ({"num_labels": "1"}, "num_labels='1': give a whole number from 1"),
        ({"threads": 0}, "threads=0"),
        ({"threads": -1}, "threads=-1"),
        ({"threads": 1.5}, "threads=1.5"),
        ({"num_labels": 2}, "num_labels=2, but the model has 1"),
        ({"activation_fn": "cpu"}, "unknown activation 'cpu'; known by name: identity, sigmoid, softmax, tanh"),
        ({"trust_engines": "false"}, "trust_engines='false': give True or False"),
        ({"allow_failed": 1}, "allow_failed=1: give True or False"),
        ({"precision": "fp7"}, "unknown precision 'fp7'; one of fp32, bf16, fp16, int8, or auto"),
        ({"backend": "tpu"}, "unknown backend 'tpu'; one of auto, onnxruntime"),
        ({"model_kwargs": {"load_in_8bit": True}}, r"model_kwargs\['load_in_8bit'\]"),
        ({"nonsense": 1}, "unknown keyword 'nonsense'; docs/compatibility.md lists"),
        ({"presicion": "int8"}, r"unknown keyword 'presicion'; did you mean 'precision'\? docs/compatibility.md lists"),
        ({"model_kwarg": {}}, r"did you mean 'model_kwargs'\?"),
    ],
)
def test_an_option_that_is_not_allowed_is_an_error(bundle: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        CrossEncoder(bundle, **options)


def test_an_activation_that_is_not_there_is_refused_before_anything_is_scored(model: CrossEncoder) -> None:
    def nothing() -> Iterator[tuple[str, str]]:
        raise AssertionError("a pair was asked for")
        yield

    with pytest.raises(OptionError, match="unknown activation 'sigmod'; known by name"):
        model.predict(nothing(), activation_fn="sigmod")
    with pytest.raises(OptionError, match="activation_fn is a name or a callable, not int"):
        model.rank("a", nothing(), activation_fn=3)  # type: ignore[arg-type]


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is an NVIDIA GPU here")
def test_a_device_that_is_not_there_is_refused_and_never_silently_the_cpu(bundle: Path) -> None:
    with pytest.raises(BackendError, match="device 'cuda:0': no NVIDIA driver with a GPU was found here"):
        CrossEncoder(bundle, device="cuda:0")


def test_more_threads_than_processors_are_not_used(bundle: Path) -> None:
    from crossrt.engine.hardware.cpus import usable_cpus

    with CrossEncoder(bundle, threads=10_000) as many, CrossEncoder(bundle, threads=1) as one:
        assert many.threads == usable_cpus()
        assert one.threads == 1


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "many", True])
def test_a_batch_size_below_one_is_an_error(model: CrossEncoder, batch_size: Any) -> None:
    with pytest.raises(OptionError, match="give a whole number from 1"):
        model.predict([("a", "b")], batch_size=batch_size)


def test_keywords_of_sentence_transformers_are_mapped_or_refused_by_name(
    bundle: Path, model: CrossEncoder, pairs: list[tuple[str, str]]
) -> None:
    expected = model.predict(pairs)
    np.testing.assert_array_equal(model.predict(sentences=pairs, num_workers=0, prompt=None), expected)
    with pytest.raises(UnsupportedOptionError, match="one process uses all processors"):
        model.predict(pairs, pool={"processes": 2})
    with pytest.raises(TypeError, match=r"unknown keyword 'window'; did you mean 'windows'\?"):
        model.predict(pairs, window=None)
    with pytest.raises(TypeError, match=r"unknown keyword 'topk'; did you mean 'top_k'\?"):
        model.rank("a", ["b"], topk=1)
    with pytest.raises(TypeError, match=r"'processing_kwargs'\?"):  # model_kwargs are for the constructor alone
        model.predict(pairs, model_kwargs={})
    with CrossEncoder(
        model_name=str(bundle), default_activation_function="sigmoid", tokenizer_args={"model_max_length": 32}
    ) as old:
        assert old.max_length == 32
        assert old.default_activation_function == "sigmoid"
    with CrossEncoder(bundle, model_kwargs={"torch_dtype": "float32"}, config_kwargs={"num_labels": 1}) as mapped:
        assert mapped.precision.value == "fp32"


def test_what_moves_a_torch_model_leaves_this_one_where_it_is(bundle: Path) -> None:
    with CrossEncoder(bundle, device="cpu") as model:
        assert model.to("cpu").eval() is model
        with pytest.raises(OptionError, match="this model is on cpu: open it with device='cuda'"):
            model.to("cuda")


def test_a_closed_model_says_so_and_may_be_closed_again(bundle: Path) -> None:
    with CrossEncoder(bundle) as model:
        model.predict([("a", "b")])
    with pytest.raises(BackendError, match="closed"):
        model.predict([("a", "b")])
    model.close()


def test_importing_crossrt_brings_no_heavy_library_and_scoring_no_torch(bundle: Path) -> None:
    program = (
        "import sys, crossrt; loaded = set(sys.modules);"
        "assert not loaded & {'onnxruntime', 'torch', 'transformers', 'numpy', 'tokenizers', 'huggingface_hub', 'typer'}, loaded;"
        "from crossrt import CrossEncoder;"
        "assert not set(sys.modules) & {'onnxruntime', 'torch', 'transformers', 'huggingface_hub'};"
        f"CrossEncoder({str(bundle)!r}).rank('a', ['b', 'c']);"
        "assert not set(sys.modules) & {'torch', 'transformers', 'onnx', 'huggingface_hub', 'scipy'}"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr


def test_a_local_bundle_opens_where_the_hub_library_is_missing(bundle: Path) -> None:
    program = (
        "import sys; sys.modules['huggingface_hub'] = None; from crossrt import CrossEncoder;"
        f"CrossEncoder({str(bundle)!r}).predict([('a', 'b')])"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr


def test_without_a_backend_the_error_says_what_to_install(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r'pip install "crossrt\[cpu\]"'):
        CrossEncoder(bundle)


def test_two_onnx_runtimes_in_one_folder_are_an_error(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(name: str, folder: str) -> None:
        described = tmp_path / folder / f"{name.replace('-', '_')}-1.99.dist-info"
        described.mkdir(parents=True)
        (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.99\n")

    install("onnxruntime-gpu", "carried")
    monkeypatch.syspath_prepend(tmp_path / "carried")
    CrossEncoder(bundle).close()  # each is whole
    install("onnxruntime", "carried")
    with pytest.raises(BackendError, match=r"both installed in .*carried and overwrite each other"):
        CrossEncoder(bundle)


def test_a_progress_bar_is_shown_when_asked_for_or_when_logging_says_info(
    model: CrossEncoder,
    pairs: list[tuple[str, str]],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    model.predict(pairs)
    assert capsys.readouterr().err == ""
    model.predict(pairs, show_progress_bar=True)
    assert "Scoring: 100%" in capsys.readouterr().err
    with caplog.at_level(logging.INFO, logger="crossrt"):
        model.predict(pairs)
    assert "Scoring" in capsys.readouterr().err


def test_large_requests_are_taken_in_chunks_with_the_same_scores(
    model: CrossEncoder, pairs: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = model.predict(pairs)
    monkeypatch.setattr(chunks, "CHUNK", 5)
    np.testing.assert_allclose(model.predict(iter(pairs)), expected, rtol=0, atol=ATOL)


def test_a_checkpoint_directory_is_exported_once_and_again_when_it_changes(
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    pairs: list[tuple[str, str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, second = make_checkpoint(seed=11), make_checkpoint(seed=12)
    with CrossEncoder(first, cache_folder=tmp_path) as model:
        scores = model.predict(pairs)
    assert "exporting" in capsys.readouterr().err
    with CrossEncoder(first, cache_folder=tmp_path) as model:
        np.testing.assert_array_equal(model.predict(pairs), scores)
    assert capsys.readouterr().err == ""
    (first / "model.safetensors").write_bytes((second / "model.safetensors").read_bytes())
    with CrossEncoder(first, cache_folder=tmp_path) as model:
        assert np.abs(model.predict(pairs) - scores).max() > 0.01
    assert len(list((tmp_path / "bundles").iterdir())) == 2


def test_a_name_that_is_nothing_is_explained(tmp_path: Path) -> None:
    from crossrt.engine.errors import SourceError

    with pytest.raises(SourceError, match="is not a directory that exists, nor a hub id"):
        CrossEncoder("/no/such/directory")
    (tmp_path / "model.onnx").touch()
    with pytest.raises(SourceError, match="is a file; give the directory of a bundle or of a checkpoint, or a hub id"):
        CrossEncoder(tmp_path / "model.onnx")
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(SourceError, match="could not be downloaded from the hub"):
        CrossEncoder("nobody/nothing", local_files_only=True, cache_folder=tmp_path)
    with pytest.raises(SourceError, match="holds no checkpoint"):
        CrossEncoder(tmp_path)
    for step in ("500", "1000", "oops"):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "config.json").write_text("{}") if step.isdigit() else None
    with pytest.raises(SourceError, match=r"training run: give its newest checkpoint, .*checkpoint-1000$"):
        CrossEncoder(tmp_path)
    with pytest.raises(OptionError, match="model_name_or_path is missing"):
        CrossEncoder()
    with pytest.raises(OptionError, match="model_name_or_path is missing"):
        CrossEncoder("")  # such as an unset variable of the environment


def test_a_checkpoint_that_cannot_be_exported_says_why(checkpoint: Path, tmp_path: Path) -> None:
    from crossrt.engine.errors import SourceError

    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text((checkpoint / "config.json").read_text())
    with pytest.raises(SourceError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        CrossEncoder(tmp_path / "broken", cache_folder=tmp_path / "cache")


def broken(bundle: Path, to: Path, number: float) -> Path:
    """Return a copy of a bundle in which the last bias of the head is `number`."""
    onnx = pytest.importorskip("onnx")
    shutil.copytree(bundle, to)
    file = to / "onnx/model.onnx"
    graph = onnx.load(file)
    (bias,) = (each for each in graph.graph.initializer if each.name.startswith("head.1") and list(each.dims) == [1])
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([number], dtype=np.float32), bias.name))
    onnx.save(graph, file)
    fields = json.loads((to / "manifest.json").read_text())
    (entry,) = (each for each in fields["files"] if each["name"] == "onnx/model.onnx")
    # Another hash, so that the manifest differs from the original's.
    entry.update(size=file.stat().st_size, sha256=f"{'nan' if number != number else 'inf':0>64}")
    (to / "manifest.json").write_text(json.dumps(fields))
    return to


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_model_that_gives_nan_is_named_when_it_scores(
    backend: str, number: float, bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip(backend)
    copied = broken(bundle, tmp_path / "broken", number)
    with CrossEncoder(copied, backend=backend) as model:
        said = rf"broken gives NaN or Inf in fp32 on {backend} for 2 of 2 pairs, the first of which is pair 0"
        with pytest.raises(BackendError, match=said):
            model.predict([("a", "b"), ("c", "d")])
        with pytest.raises(BackendError, match=said):
            model.rank("a", ["b", "c"])
        ids = np.ones((2, 5), dtype=np.int64)
        with pytest.raises(BackendError, match=said):
            AutoModelForSequenceClassification(model)(ids)
        assert not np.isfinite(model.logits([("a", "b")])).any(), "raw logits are as they are"


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "native"])
@pytest.mark.parametrize(
    ("name", "number", "known"),
    [
        ("input_ids", -1, "has 0 to"),
        ("input_ids", 2**31, "has 0 to"),
        ("input_ids", None, "has 0 to"),
        ("token_type_ids", -1, "has 0 to 1"),
        ("token_type_ids", 2, "has 0 to 1"),
        ("token_type_ids", 256, "has 0 to 1"),
    ],
)
def test_ids_that_the_model_does_not_have_are_refused_alike(
    backend: str, name: str, number: int | None, known: str, bundle: Path, native_bundle: Path | None
) -> None:
    if backend not in installed_backends():
        pytest.skip(f"{backend} does not run here")
    path = native_bundle if backend == "native" else bundle
    assert path is not None
    with CrossEncoder(path, backend=backend) as model:
        vocab = model.bundle.manifest.vocab_size
        assert vocab is not None
        arrays = {each: np.ones((2, 5), dtype=np.int64) for each in ("input_ids", "attention_mask", "token_type_ids")}
        scorer = AutoModelForSequenceClassification(model)
        before = scorer(**arrays).logits
        arrays[name][1, 4] = vocab if number is None else number
        with pytest.raises(InputError, match=rf"{name} holds {arrays[name][1, 4]}, and the model {known}"):
            scorer(**arrays)
        arrays[name][1, 4] = 1
        np.testing.assert_array_equal(scorer(**arrays).logits, before)


@pytest.fixture(scope="module")
def native_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """The bundle with weights for the native kernels; None where they do not run."""
    if why_not_native():
        return None
    from crossrt.export.checkpoint.checkpoint import Checkpoint
    from crossrt.export.export import export_bundle

    out = tmp_path_factory.mktemp("native") / "bundle"
    export_bundle(Checkpoint.read(checkpoint), out)
    return out


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("noise of a library\ncrossrt: no head\n  found  x\n", ["crossrt: no head", "  found  x"]),
        ("Traceback\nKeyError: 1\n", ["Traceback", "KeyError: 1"]),
    ],
)
def test_a_failed_export_shows_crossrts_own_words_alone(
    written: str, shown: list[str], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossrt.engine.bundle import resolve
    from crossrt.engine.errors import SourceError

    failed = subprocess.CompletedProcess([], 1, "", written)
    monkeypatch.setattr(resolve.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SourceError) as error:
        CrossEncoder(checkpoint, cache_folder=tmp_path)
    assert str(error.value).splitlines() == [f"{checkpoint} could not be exported:", *(f"  {line}" for line in shown)]
