"""The calls that known clients of sentence-transformers and transformers make give the same answers on crossrt.

There is a function per client, which opens a model and scores with it as the client's source does. Each runs on
sentence-transformers with the checkpoint and on crossrt with the bundle.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sentence_transformers = pytest.importorskip("sentence_transformers")
transformers = pytest.importorskip("transformers")

import crossrt
from crossrt.engine import compatibility, cross_encoder
from crossrt.engine.attributes import Device
from crossrt.engine.errors import BackendError, OptionError, UnsupportedOptionError
from crossrt.engine.log import warn_once
from crossrt.engine.selection import select_cpu

ATOL = 1e-4
QUERY = "where is the river"
DOCUMENTS = ["the river is long and green", "berlin is a city", "people live in paris", "", "salt " * 20]
PAIRS = [(QUERY, document) for document in DOCUMENTS]

THEIRS = SimpleNamespace(
    CrossEncoder=sentence_transformers.CrossEncoder,
    AutoModelForSequenceClassification=transformers.AutoModelForSequenceClassification,
)
OURS = SimpleNamespace(
    CrossEncoder=crossrt.CrossEncoder,
    AutoModelForSequenceClassification=crossrt.AutoModelForSequenceClassification,
)


@pytest.fixture(scope="module")
def long_checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    """Return a checkpoint with 512 positions, as clients expect it of a published model."""
    return make_checkpoint(max_position_embeddings=512)


@pytest.fixture(scope="module")
def long_bundle(make_bundle: Callable[..., Path], long_checkpoint: Path) -> Path:
    return make_bundle(long_checkpoint)


@pytest.fixture(autouse=True)
def nothing_warned() -> None:
    """Let every test see the warnings that are logged once per process."""
    warn_once.cache_clear()


def haystack(library: Any, path: str, checkpoint: Path) -> Any:
    model = library.CrossEncoder(
        model_name_or_path=path,
        device="cpu",
        token=None,
        trust_remote_code=False,
        model_kwargs=None,
        tokenizer_kwargs=None,
        config_kwargs=None,
        backend="torch",
    )
    return model.rank(
        query=QUERY,
        documents=DOCUMENTS,
        batch_size=16,
        activation_fn=torch.nn.Sigmoid(),
        convert_to_numpy=True,
        return_documents=False,
    )


def open_webui(library: Any, path: str, checkpoint: Path) -> Any:
    model = library.CrossEncoder(path, device="cpu", trust_remote_code=True, backend="torch", model_kwargs=None)
    assert model.model.config.pad_token_id == 0
    return model.predict(PAIRS, activation_fn=torch.nn.Sigmoid())


def llama_index(library: Any, path: str, checkpoint: Path) -> Any:
    model = library.CrossEncoder(path, max_length=512, device="cpu", trust_remote_code=True)
    return model.predict(PAIRS)


def lancedb(library: Any, path: str, checkpoint: Path) -> Any:
    model = library.CrossEncoder(path, device="cpu", trust_remote_code=True)
    return model.predict([[QUERY, passage] for passage in DOCUMENTS])


def langchain(library: Any, path: str, checkpoint: Path) -> Any:
    model = library.CrossEncoder(path, **{"device": "cpu"})
    assert model.tokenizer.pad_token == "[PAD]"
    return model.predict(PAIRS)


def rerankers(library: Any, path: str, checkpoint: Path) -> Any:
    model = library.AutoModelForSequenceClassification.from_pretrained(path, torch_dtype=torch.float32).to("cpu")
    model.eval()
    inputs = transformers.AutoTokenizer.from_pretrained(checkpoint)(
        PAIRS, return_tensors="pt", padding=True, truncation=True
    ).to("cpu")
    return model(**inputs).logits.squeeze().detach().cpu().numpy().tolist()


def flag_embedding(library: Any, path: str, checkpoint: Path) -> Any:
    model = library.AutoModelForSequenceClassification.from_pretrained(path, trust_remote_code=False, cache_dir=None)
    model.to("cpu")
    model.eval()
    inputs = transformers.AutoTokenizer.from_pretrained(checkpoint, cache_dir=None)(
        PAIRS, padding=True, truncation=True, max_length=64, return_tensors="pt"
    ).to("cpu")
    with torch.no_grad():
        return model(**inputs, return_dict=True).logits.view(-1).float()


def infinity(library: Any, path: str, checkpoint: Path) -> Any:
    model = library.CrossEncoder(
        path,
        revision=None,
        tokenizer_args={"trust_remote_code": True},
        automodel_args={"trust_remote_code": True},
        device="cpu",
    )
    model.model.eval()
    features = model.tokenizer(
        [[query, text.strip()] for query, text in PAIRS], padding=True, truncation="longest_first", return_tensors="pt"
    )
    with torch.no_grad():
        features = {name: tensor.to(model.model.device) for name, tensor in features.items()}
        return model.model(**features, return_dict=True)["logits"].detach().cpu().flatten()


def khoj(library: Any, path: str, checkpoint: Path) -> Any:
    model = library.CrossEncoder(model_name=path, device=torch.device("cpu"))
    return model.predict([[QUERY, document] for document in DOCUMENTS], activation_fct=torch.nn.Sigmoid())


def beir(library: Any, path: str, checkpoint: Path) -> Any:
    return library.CrossEncoder(path).predict(sentences=PAIRS, batch_size=32, show_progress_bar=True)


def mteb(library: Any, path: str, checkpoint: Path) -> Any:
    return library.CrossEncoder(path, revision="main", device="cpu").predict(PAIRS, convert_to_numpy=True, batch_size=8)


def ragas(library: Any, path: str, checkpoint: Path) -> Any:
    return library.CrossEncoder(path, **{}).predict(PAIRS, **{"convert_to_tensor": True}).tolist()


def hard_negatives(library: Any, path: str, checkpoint: Path) -> Any:
    return library.CrossEncoder(path, device="cpu").predict(
        list(zip([QUERY] * 5, DOCUMENTS, strict=True)), batch_size=32, convert_to_tensor=True, show_progress_bar=False
    )


def sentence_transformers_3(library: Any, path: str, checkpoint: Path) -> Any:
    model = library.CrossEncoder(path, 1, 512, torch.nn.Sigmoid(), "cpu")
    return model.predict(PAIRS)


def sentence_transformers_6_by_position(library: Any, path: str, checkpoint: Path) -> Any:
    model = library.CrossEncoder(path, device="cpu")
    return (
        model.rank(QUERY, DOCUMENTS, 3),
        model.rank(QUERY, DOCUMENTS, 3, True, None, None, 8, False, torch.nn.Sigmoid()),
        model.predict(PAIRS, None, None, 8, False, torch.nn.Sigmoid(), False, False, True),
    )


def half_precision(library: Any, path: str, checkpoint: Path) -> Any:
    # The documentation of sentence-transformers recommends it for GPUs; on a CPU ours stays in FP32, or computes in BF16.
    model = library.CrossEncoder(
        path, device="cpu", model_kwargs={"torch_dtype": "bfloat16", "attn_implementation": "sdpa"}
    )
    return model.predict(PAIRS, activation_fn=torch.nn.Sigmoid())


def shorter_for_one_call(library: Any, path: str, checkpoint: Path) -> Any:
    model = library.CrossEncoder(path, device="cpu")
    options = {"text": {"max_length": 9, "truncation": True}}
    return model.predict(PAIRS, processing_kwargs=options), model.predict(PAIRS)


def tokenizer_options(library: Any, path: str, checkpoint: Path) -> Any:
    model = library.CrossEncoder(
        path,
        device="cpu",
        tokenizer_kwargs={"use_fast": True, "model_max_length": 12},
        model_kwargs={"low_cpu_mem_usage": True, "use_safetensors": True},
        config_kwargs={"classifier_dropout": 0.1},
    )
    return model.predict(PAIRS), model.max_seq_length


CLIENTS = [
    haystack,
    open_webui,
    llama_index,
    lancedb,
    langchain,
    rerankers,
    flag_embedding,
    infinity,
    khoj,
    beir,
    mteb,
    ragas,
    hard_negatives,
    sentence_transformers_3,
    sentence_transformers_6_by_position,
    half_precision,
    shorter_for_one_call,
    tokenizer_options,
]


def assert_close(theirs: Any, ours: Any, atol: float) -> None:
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        theirs, ours = list(theirs.values()), list(ours.values())
    if isinstance(theirs, (list, tuple)):
        assert type(ours) is type(theirs)
        assert len(ours) == len(theirs)
        for their_item, our_item in zip(theirs, ours, strict=True):
            assert_close(their_item, our_item, atol)
    elif isinstance(theirs, str):
        assert ours == theirs
    else:
        assert type(ours) is type(theirs)
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=0, atol=atol)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_a_client_gets_the_scores_that_it_got(
    client: Callable[[Any, str, Path], Any], long_checkpoint: Path, long_bundle: Path
) -> None:
    theirs = client(THEIRS, str(long_checkpoint), long_checkpoint)
    ours = client(OURS, str(long_bundle), long_checkpoint)
    assert_close(theirs, ours, atol=0.05 if client is half_precision else ATOL)  # PyTorch itself errs by 0.01 in BF16


BGE_CARD = """
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained('BAAI/bge-reranker-base')
model = AutoModelForSequenceClassification.from_pretrained('BAAI/bge-reranker-base')
model.eval()

pairs = [['what is panda?', 'hi'], ['what is panda?', 'The giant panda is a bear species endemic to China.']]
with torch.no_grad():
    inputs = tokenizer(pairs, padding=True, truncation=True, return_tensors='pt', max_length=512)
    scores = model(**inputs, return_dict=True).logits.view(-1, ).float()
    print(scores)
"""


def test_the_snippet_of_bges_card_runs_unchanged(
    long_checkpoint: Path, long_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With transformers' class replaced by ours; the name on the hub is a local directory here."""

    def scores(directory: Path) -> Any:
        text = BGE_CARD.replace("BAAI/bge-reranker-base", str(directory), 1)  # of the tokenizer, which is transformers'
        names: dict[str, Any] = {}
        exec(compile(text, "card", "exec"), names)
        return names["scores"]

    theirs_open = transformers.AutoModelForSequenceClassification.from_pretrained
    their_model = theirs_open(long_checkpoint)
    monkeypatch.setattr(
        transformers.AutoModelForSequenceClassification, "from_pretrained", lambda name: their_model, raising=True
    )
    theirs = scores(long_checkpoint)

    class Ours(crossrt.AutoModelForSequenceClassification):
        @classmethod
        def from_pretrained(cls, name: str, **options: Any) -> Any:
            return super().from_pretrained(long_bundle, **options)

    monkeypatch.setattr(transformers, "AutoModelForSequenceClassification", Ours)
    ours = scores(long_checkpoint)
    assert isinstance(ours, torch.Tensor)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=0, atol=ATOL)


def test_the_backend_torch_is_taken_as_auto_with_one_warning(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        with crossrt.CrossEncoder(bundle, backend="torch") as model, crossrt.CrossEncoder(bundle) as auto:
            assert model.backend == auto.backend
    said = [record for record in caplog.records if "backend='torch'" in record.message]
    assert [(record.name, record.levelno) for record in said] == [("crossrt", logging.WARNING)]


@pytest.mark.parametrize("dtype", [torch.float16, "float16", "half"])
def test_half_precision_on_a_processor_is_fp32_with_a_warning(
    bundle: Path, dtype: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with crossrt.CrossEncoder(bundle, device="cpu", model_kwargs={"torch_dtype": dtype}) as model:
        assert model.precision.value == "fp32"
        assert model.dtype is torch.float32
    assert "the dtype asks for fp16, which is not available here, so the model runs in fp32" in caplog.text


@pytest.mark.parametrize("computes", [True, False], ids=["where it can", "where it cannot"])
def test_bfloat16_on_a_processor_is_bf16_where_it_can_be_and_else_fp32_with_a_warning(
    bundle: Path, computes: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = []

    def open_scorer(bundle: Any, config: Any) -> Any:
        opened.append(config.precision.value)
        if config.precision.value == "bf16" and not computes:
            raise BackendError("bf16 is not what this processor computes in")
        return SimpleNamespace(config=config, max_length=64, tokenizing_threads=1, close=lambda: None)

    monkeypatch.setattr(select_cpu, "installed_backends", lambda *_: ("openvino", "onnxruntime"))
    monkeypatch.setattr(cross_encoder, "open_scorer", open_scorer)
    crossrt.CrossEncoder(bundle, device="cpu", model_kwargs={"dtype": torch.bfloat16})
    assert opened == (["bf16"] if computes else ["bf16", "fp32"])
    assert ("so the model runs in fp32: bf16 is not what this processor" in caplog.text) is not computes


def test_a_precision_of_crossrts_own_is_never_replaced(bundle: Path) -> None:
    with pytest.raises(crossrt.CrossrtError, match="holds no fp16 model"):
        crossrt.CrossEncoder(bundle, precision="fp16", device="cpu")


@pytest.mark.parametrize(
    "options",
    [
        {"device": "cpu:0"},
        {"device": torch.device("cpu", 0)},
        {"model_kwargs": {"device_map": "cpu"}},
        {"model_kwargs": {"device_map": {"": "cpu"}}},
        {"backend": "onnx", "model_kwargs": {"provider": "CPUExecutionProvider", "file_name": "onnx/model.onnx"}},
        {"model_kwargs": {"provider": "CPUExecutionProvider", "export": True}},
    ],
)
def test_every_way_to_name_the_processor_is_understood(bundle: Path, options: dict[str, Any]) -> None:
    with crossrt.CrossEncoder(bundle, **options) as model:
        assert (model.device, model.device.type, model.device.index) == ("cpu", "cpu", None)
        assert torch.zeros(1).to(model.device).device == model.device == torch.device("cpu")
        assert model.device != torch.device("cuda", 0)
        assert {"cpu": 1}[model.device] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_kwargs": {"load_in_8bit": True}}, r"model_kwargs\['load_in_8bit'\] has no counterpart"),
        ({"model_kwargs": {"file_name": "model_qint8_avx512.onnx"}}, "one model per precision"),
        ({"model_kwargs": {"provider": "no_provider"}}, "unknown provider 'no_provider'; one of CPUExecutionProvider"),
        ({"model_kwargs": {"device_map": {"bert": 0, "classifier": 1}}}, "a model is not split over devices"),
        ({"model_kwargs": {"torch_dtype": "int4"}}, "dtype int4 has no counterpart; one of float32"),
        ({"model_kwargs": ["a"]}, "model_kwargs is a dictionary of options, not list"),
        ({"tokenizer_kwargs": {"padding_side": "left"}}, r"processor_kwargs\['padding_side'\]"),
        ({"config_kwargs": {"hidden_size": 3}}, r"config_kwargs\['hidden_size'\]"),
    ],
)
def test_what_would_change_the_model_is_refused_in_words(bundle: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        crossrt.CrossEncoder(bundle, **options)


def test_an_older_versions_positions_are_told_from_todays(model: crossrt.CrossEncoder) -> None:
    with pytest.raises(OptionError, match="write batch_size= by name"):
        model.predict(PAIRS, 32)


def test_predict_takes_the_device_it_is_on_and_no_other(model: crossrt.CrossEncoder) -> None:
    expected = model.predict(PAIRS)
    for device in ("cpu", torch.device("cpu"), ["cpu", "cpu"]):
        np.testing.assert_array_equal(model.predict(PAIRS, device=device, chunk_size=2), expected)
        assert model.rank(QUERY, DOCUMENTS, device=device)
    with pytest.raises(OptionError, match="this model is on cpu: open it with device='cuda:7'"):
        model.predict(PAIRS, device="cuda:7")


def test_a_model_on_two_gpus_takes_either_or_both() -> None:
    on_two: Any = SimpleNamespace(device=Device("cuda:0, cuda:1"))
    for device in (None, "cuda", "cuda:0", torch.device("cuda:1"), ["cuda:0", "cuda:1"]):
        crossrt.CrossEncoder.check_device(on_two, device)
    for device in ("cpu", "cuda:2", ["cuda:0", "cuda:2"]):
        with pytest.raises(OptionError, match="this model is on cuda:0, cuda:1: open it"):
            crossrt.CrossEncoder.check_device(on_two, device)


def test_nested_options_about_the_source_of_files_are_crossrts_own() -> None:
    nested = {
        "model_kwargs": {"revision": "first", "use_auth_token": "secret"},
        "processor_kwargs": {"revision": "second", "cache_dir": "folder"},
        "config_kwargs": {"local_files_only": True},
    }
    own = {"revision": "first", "token": "secret", "cache_folder": "folder", "local_files_only": True}
    assert compatibility.constructor_options(nested, crossrt.CrossEncoder.__init__) == own


@pytest.mark.parametrize(
    "options",
    [
        {"text": {"stride": 3}},
        {"text": {"return_overflowing_tokens": True}},
        {"text": {"truncation": False}},
        {"image": {"size": 3}},
        {"text": {"truncation": "only_first"}},
        {"max_length": 9},
        ["text"],
    ],
)
def test_what_processing_kwargs_may_not_change_is_refused(model: crossrt.CrossEncoder, options: Any) -> None:
    with pytest.raises(UnsupportedOptionError, match="only max_length may change per call"):
        model.predict(PAIRS, processing_kwargs=options)


# -- AutoModelForSequenceClassification


@pytest.fixture(scope="module")
def auto(bundle: Path) -> crossrt.AutoModelForSequenceClassification:
    return crossrt.AutoModelForSequenceClassification.from_pretrained(bundle)


def test_the_auto_models_attributes_are_those_of_transformers(
    auto: crossrt.AutoModelForSequenceClassification, checkpoint: Path
) -> None:
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint)
    assert auto.dtype is theirs.dtype
    assert auto.device.type == theirs.device.type
    for name in (
        "num_labels", "id2label", "label2id", "pad_token_id", "hidden_size", "num_hidden_layers",
        "num_attention_heads", "intermediate_size", "vocab_size", "max_position_embeddings", "model_type",
    ):  # fmt: skip
        assert getattr(auto.config, name) == getattr(theirs.config, name), name


def test_the_auto_models_output_reads_as_transformers_does(
    auto: crossrt.AutoModelForSequenceClassification, checkpoint: Path
) -> None:
    inputs = transformers.AutoTokenizer.from_pretrained(checkpoint)(PAIRS[:2], padding=True, return_tensors="pt")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        expected, as_tuple = theirs(**inputs), theirs(**inputs, return_dict=False)
    output = auto(**inputs, return_dict=True)
    for logits in (
        output.logits,
        output["logits"],
        output[0],
        output.to_tuple()[0],
        auto(**inputs, return_dict=False)[0],
        auto(inputs["input_ids"], inputs["attention_mask"], inputs["token_type_ids"]).logits,
    ):
        np.testing.assert_allclose(logits.numpy(), expected.logits.numpy(), rtol=0, atol=ATOL)
    assert len(auto(**inputs, return_dict=False)) == len(as_tuple) == 1
    assert (output.loss, output.hidden_states, output.attentions) == (None, None, None)
    assert list(output) == list(expected) == ["logits"]


def test_what_moves_or_converts_a_torch_model_returns_this_one(
    auto: crossrt.AutoModelForSequenceClassification, caplog: pytest.LogCaptureFixture
) -> None:
    assert auto.eval().to("cpu").to(torch.device("cpu")).to(device="cpu").cpu().float().to(torch.float32) is auto
    assert not caplog.records
    assert auto.half().bfloat16().to("cpu", torch.float16).to(dtype=torch.float16) is auto
    assert caplog.text.count("the model stays in fp32: its precision is chosen when it is opened") == 1
    with pytest.raises(OptionError, match="this model is on cpu: open it with device='cuda'"):
        auto.cuda()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"position_ids": np.zeros((1, 3), dtype=int)},
            "position_ids is not supported: the model counts positions itself",
        ),
        ({"labels": np.zeros(1)}, "labels is not supported: there is no loss"),
        ({"output_attentions": True}, "output_attentions is not supported"),
        ({"pixel_values": np.zeros(3)}, "unknown input 'pixel_values'"),
    ],
)
def test_an_input_that_an_exported_model_has_not_is_refused_in_words(
    auto: crossrt.AutoModelForSequenceClassification, inputs: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedOptionError, match=message):
        auto(np.ones((1, 3), dtype=int), **inputs)


def test_embeddings_in_place_of_ids_are_refused_in_words(auto: crossrt.AutoModelForSequenceClassification) -> None:
    with pytest.raises(UnsupportedOptionError, match=r"inputs_embeds is not supported: .* pass input_ids"):
        auto(inputs_embeds=np.zeros((1, 3, 32)))
    with pytest.raises(crossrt.CrossrtError, match="input_ids is missing"):
        auto()


@pytest.mark.parametrize(
    "options",
    [
        {"attn_implementation": "eager", "low_cpu_mem_usage": True},
        {"torch_dtype": torch.float32, "device_map": "cpu"},
        {"num_labels": 1, "trust_remote_code": True, "use_auth_token": None, "revision": "main"},
        {"precision": "fp32", "threads": 1, "tokenizer_kwargs": {"use_fast": True}, "config_kwargs": {"num_labels": 1}},
    ],
)
def test_from_pretrained_takes_transformers_options_and_ours(bundle: Path, options: dict[str, Any]) -> None:
    model = crossrt.AutoModelForSequenceClassification.from_pretrained(bundle, **options)
    assert model(np.ones((1, 3), dtype=int)).logits.shape == (1, 1)
    model.close()


def test_from_pretrained_refuses_what_would_change_the_model(bundle: Path) -> None:
    with pytest.raises(UnsupportedOptionError, match="load_in_4bit"):
        crossrt.AutoModelForSequenceClassification.from_pretrained(bundle, load_in_4bit=True)
