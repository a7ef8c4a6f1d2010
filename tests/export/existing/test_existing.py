"""A directory that somebody else exported becomes a bundle without torch, and scores as transformers and ONNX Runtime do."""

import dataclasses
import json
import logging
import os
import random
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
transformers = pytest.importorskip("transformers")

from crossrt import CrossEncoder
from crossrt.__main__ import main
from crossrt.engine.bundle import resolve as sources
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.bundle.manifest import MANIFEST, ONNX_FILES, Manifest
from crossrt.engine.errors import BundleError, CheckpointError, OptionError, SourceError
from crossrt.engine.precision import Precision
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.existing.existing import bundle_from_onnx
from crossrt.export.existing.onnx_file import OnnxFile
from crossrt.export.export import export_bundle

ODD_PAIRS = [
    ("How long does it take", "BERLIN is a City"),
    ("where is the Rivér", "the ríver is long and green [SEP] [MASK] eggs"),
    ("what is in the water [PAD]", "eggs and salt " * 30),
    ("東京 river", "people 東京 live in paris"),
    ("<extra> light", "the <extra>mountain"),
]


@pytest.fixture
def exported(bundle: Path, checkpoint: Path, tmp_path: Path) -> Path:
    """Lay out a directory as sentence-transformers does: the model in onnx/, the rest beside it, no weights."""
    path = tmp_path / "exported"
    (path / "onnx").mkdir(parents=True)
    shutil.copyfile(bundle / "onnx/model.onnx", path / "onnx/model.onnx")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copyfile(checkpoint / name, path / name)
    return path


def edit(path: Path, **fields: Any) -> None:
    """Change fields of a JSON file; None removes one."""
    found = json.loads(path.read_text(encoding="utf-8")) | fields
    path.write_text(json.dumps({name: value for name, value in found.items() if value is not None}), encoding="utf-8")


def logits_by_transformers(
    directory: Path, pairs: list[tuple[str, str]], *, max_length: int = 64
) -> npt.NDArray[np.float32]:
    """Score with the directory's tokenizer and ONNX file; inputs that the tokenizer does not give are zeros, as in Optimum."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    session = onnxruntime.InferenceSession(directory / "onnx/model.onnx", providers=["CPUExecutionProvider"])
    rows = []
    for query, passage in pairs:
        encoded = tokenizer([query], [passage], truncation=True, max_length=max_length, return_tensors="np")
        feeds = {
            field.name: np.asarray(encoded.get(field.name, np.zeros_like(encoded["input_ids"])), dtype=np.int64)
            for field in session.get_inputs()
        }
        rows.append(session.run(["logits"], feeds)[0][0])
    return np.array(rows)


@pytest.mark.parametrize("tokenizer", ["tokenizer.json", "vocab.txt"])
def test_it_scores_as_the_checkpoints_own_bundle(
    exported: Path, bundle: Path, tmp_path: Path, pairs: list[tuple[str, str]], tokenizer: str
) -> None:
    (exported / ({"tokenizer.json", "vocab.txt"} - {tokenizer}).pop()).unlink()
    made = bundle_from_onnx(exported, tmp_path / "bundle")
    assert made.manifest.models["fp32"].parity is None
    with CrossEncoder(made.path) as ours, CrossEncoder(bundle) as theirs:
        np.testing.assert_array_equal(ours.predict(pairs), theirs.predict(pairs))


ADDED = {"content": "<extra>", "single_word": False, "lstrip": False, "rstrip": True, "normalized": False}
SETTINGS: dict[str, dict[str, Any]] = {
    "as saved": {},
    "cased": {"do_lower_case": False},
    "accents kept, nothing said of case": {"strip_accents": False, "do_lower_case": None},
    "accents stripped, cased": {"strip_accents": True, "do_lower_case": False},
    "Chinese characters not parted": {"tokenize_chinese_chars": False},
    "no token types": {"model_input_names": ["input_ids", "attention_mask"]},
    "DistilBERT's class, which gives no types": {"tokenizer_class": "DistilBertTokenizerFast", "do_lower_case": False},
    "ELECTRA's class": {"tokenizer_class": "ElectraTokenizerFast", "do_lower_case": False},
    "the generic class, with types": {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "do_lower_case": False,
    },
    "the generic class, without": {"tokenizer_class": "PreTrainedTokenizerFast"},
    "no class": {"tokenizer_class": None, "do_lower_case": False},
    "other special tokens": {"cls_token": "the", "sep_token": "of", "unk_token": "salt"},
    "an added token": {"added_tokens_decoder": {"20": {**ADDED, "content": "a", "special": False}}},
}


@pytest.mark.parametrize("vocabulary", ["tokenizer.json", "vocab.txt"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_tokenizer_settings_act_as_in_transformers(
    exported: Path, tmp_path: Path, settings: dict[str, Any], vocabulary: str
) -> None:
    (exported / ({"tokenizer.json", "vocab.txt"} - {vocabulary}).pop()).unlink()
    if vocabulary == "vocab.txt" and settings.get("tokenizer_class") == "PreTrainedTokenizerFast":
        edit(exported / "tokenizer_config.json", **settings)
        with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
            bundle_from_onnx(exported, tmp_path / "bundle")
        return
    edit(exported / "tokenizer_config.json", **settings)
    expected = logits_by_transformers(exported, ODD_PAIRS)
    made = bundle_from_onnx(exported, tmp_path / "bundle")
    with CrossEncoder(made.path, backend="onnxruntime") as model:
        np.testing.assert_allclose(model.logits(ODD_PAIRS), expected, atol=1e-5)
    # What others are told must give the same once more.
    np.testing.assert_allclose(logits_by_transformers(made.path, ODD_PAIRS), expected, atol=1e-5)


def test_a_tokenizer_json_that_disagrees_is_overruled_as_in_transformers(exported: Path, tmp_path: Path) -> None:
    fields = json.loads((exported / "tokenizer.json").read_text())
    fields["normalizer"]["lowercase"] = False
    fields["truncation"] = {"max_length": 9, "strategy": "OnlySecond", "direction": "Right", "stride": 0}
    (exported / "tokenizer.json").write_text(json.dumps(fields))
    expected = logits_by_transformers(exported, ODD_PAIRS)
    with CrossEncoder(bundle_from_onnx(exported, tmp_path / "bundle").path) as model:
        np.testing.assert_allclose(model.logits(ODD_PAIRS), expected, atol=1e-5)


def test_an_older_special_tokens_map_counts_as_in_transformers(exported: Path, tmp_path: Path) -> None:
    (exported / "special_tokens_map.json").write_text(json.dumps({"cls_token": {"content": "the"}, "sep_token": "of"}))
    expected = logits_by_transformers(exported, ODD_PAIRS)
    with CrossEncoder(bundle_from_onnx(exported, tmp_path / "bundle").path) as model:
        np.testing.assert_allclose(model.logits(ODD_PAIRS), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        ("tokenizer_config.json", {"truncation_side": "top"}, "truncation_side is .top.; right or left is expected"),
        ("tokenizer_config.json", {"tokenizer_class": "BertJapaneseTokenizer"}, "written in Python"),
        ("tokenizer_config.json", {"tokenizer_class": "RobertaTokenizer", "cls_token": "<s>"}, "cls_token '<s>'"),
        (
            "tokenizer_config.json",
            {"fast_tokenizer_files": ["tokenizer.5.0.json"]},
            "fast_tokenizer_files = .*not apply",
        ),
        ("config.json", {"vocab_size": 20}, "153 tokens and the model 20"),
        ("config.json", {"pad_token_id": 153}, "pad_token_id is 153, and the model has 153 token ids"),
        ("config.json", {"type_vocab_size": 1}, "gives the token type 1, and the model has 1;"),
        ("config.json", {"id2label": {"0": "a", "1": "b", "2": "c"}}, "declares 3 labels, and the ONNX file gives 1"),
        ("config.json", {"max_position_embeddings": None}, "max_position_embeddings"),
    ],
)
def test_what_is_not_applied_is_refused_by_name(
    exported: Path, tmp_path: Path, file: str, fields: dict[str, Any], message: str
) -> None:
    edit(exported / file, **fields)
    with pytest.raises(CheckpointError, match=message):
        bundle_from_onnx(exported, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


ODD_VALUES: tuple[Any, ...] = (
    True, False, 0, 1, -1, 64, 10**6, 2**63, 10**30, 0.5, -1.5, 1e30, float("nan"), float("inf"), "", "64", "gelu", "\ud800",
    [], ["a"], {}, {"0": "a"}, {"0": 0, "1": 1}, {"a": {"b": [None]}},
)  # fmt: skip
MORE = (
    "num_labels", "id2label", "label2id", "tokenizer_class", "sentence_transformers", "sbert_ce_default_activation_function",
    "truncation_side", "model_max_length", "max_len", "added_tokens_decoder", "extra_special_tokens", "model_input_names",
    "cls_token", "sep_token", "unk_token", "pad_token", "transformers.js_config",
)  # fmt: skip


@pytest.mark.parametrize("seed", range(60))
def test_odd_fields_are_refused_in_words_or_do_no_harm(exported: Path, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    file = exported / chance.choice(["config.json", "tokenizer_config.json"])
    known = [*json.loads(file.read_text()), *MORE]
    edit(file, **{key: chance.choice(ODD_VALUES) for key in chance.sample(known, k=chance.choice([1, 1, 2]))})
    out = tmp_path / "bundle"
    try:
        with CrossEncoder(bundle_from_onnx(exported, out).path, backend="onnxruntime") as model:
            assert np.isfinite(model.logits(ODD_PAIRS)).all()
    except CheckpointError as error:
        assert str(exported) in str(error), "it names the directory"  # noqa: PT017
        assert not out.exists()
    except OptionError:  # of an activation, or a length that leaves no room for text
        assert not out.exists()


def test_the_truncation_side_is_carried_over(exported: Path, tmp_path: Path) -> None:
    edit(exported / "tokenizer_config.json", truncation_side="left", model_max_length=16)
    pairs = [("where is the river", "people live in paris and in berlin " * 4), ("eggs and salt " * 9, "a city")]
    expected = logits_by_transformers(exported, pairs, max_length=16)
    made = bundle_from_onnx(exported, tmp_path / "bundle")
    assert made.manifest.truncation_side == "left"
    with CrossEncoder(made.path, backend="onnxruntime") as model:
        np.testing.assert_allclose(model.logits(pairs), expected, atol=1e-5)


def test_a_saved_default_prompt_is_applied_where_sentence_transformers_reads_it(exported: Path, tmp_path: Path) -> None:
    settings = {"model_type": "CrossEncoder", "prompts": {"query": "find: "}, "default_prompt_name": "query"}
    (exported / "config_sentence_transformers.json").write_text(json.dumps(settings))
    unread = bundle_from_onnx(exported, tmp_path / "unread")
    assert unread.manifest.prompt is None
    assert any("prompts" in warning for warning in unread.manifest.source["warnings"])
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.Transformer"}]
    (exported / "modules.json").write_text(json.dumps(modules))
    made = bundle_from_onnx(exported, tmp_path / "bundle")
    expected = logits_by_transformers(exported, [(f"find: {query}", passage) for query, passage in ODD_PAIRS])
    with CrossEncoder(made.path, backend="onnxruntime") as model:
        np.testing.assert_allclose(model.logits(ODD_PAIRS), expected, atol=1e-5)


@pytest.fixture(scope="module")
def quantized(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the model with its matrices in 8 bits, behind DequantizeLinear."""
    model = onnx.load(bundle / "onnx/model.onnx")
    nodes = []
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2:
            values, name = onnx.numpy_helper.to_array(tensor), tensor.name
            scale = np.float32(np.abs(values).max() / 127)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{name}.integers"))
            model.graph.initializer.append(onnx.numpy_helper.from_array(scale, f"{name}.scale"))
            nodes.append(onnx.helper.make_node("DequantizeLinear", [f"{name}.integers", f"{name}.scale"], [name]))
    nodes += model.graph.node
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path = tmp_path_factory.mktemp("quantized") / "model_quantized.onnx"
    onnx.save(model, path)
    return path


def test_a_quantized_file_named_model_onnx_is_int8_and_never_runs_unasked(
    exported: Path,
    quantized: Path,
    tmp_path: Path,
    pairs: list[tuple[str, str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copyfile(quantized, exported / "onnx/model.onnx")
    made = bundle_from_onnx(exported, tmp_path / "bundle")
    assert {name: model.file for name, model in made.manifest.models.items()} == {"int8": ONNX_FILES["int8"]}
    for unasked in (None, "fp32"):
        with pytest.raises(BundleError, match=r"holds no fp32 model; it holds int8.*precision='int8'"):
            CrossEncoder(made.path, precision=unasked)
    status, text = said(monkeypatch, capsys, "info", made.path)
    assert status == 0
    assert "fp32          none: nothing runs unless its precision is named" in text
    expected = logits_by_transformers(exported, pairs)
    for asked in ("int8", "auto"):
        with CrossEncoder(made.path, precision=asked, backend="onnxruntime") as model:
            assert model.precision is Precision.INT8
            np.testing.assert_allclose(model.logits(pairs), expected, atol=1e-5)


def test_each_kind_of_8_bit_operator_is_recognised(tmp_path: Path) -> None:
    for operator, domain in (
        ("QLinearMatMul", ""),
        ("MatMulInteger", ""),
        ("DynamicQuantizeLinear", ""),
        ("DequantizeLinear", ""),
        ("QAttention", "com.microsoft"),
        ("DynamicQuantizeMatMul", "com.microsoft"),
    ):
        assert OnnxFile.read(one_node(tmp_path, operator, domain)).precision is Precision.INT8
    with pytest.raises(CheckpointError, match=r"4 bits or so \(MatMulNBits\)"):
        assert OnnxFile.read(one_node(tmp_path, "MatMulNBits", "com.microsoft")).precision
    assert OnnxFile.read(one_node(tmp_path, "MatMul", "")).precision is Precision.FP32


def test_the_precision_is_that_of_most_weights(tmp_path: Path) -> None:
    def read(**counts: int) -> OnnxFile:
        weights = [
            onnx.helper.make_tensor(kind, getattr(onnx.TensorProto, kind), [count], [1.0] * count)
            for kind, count in counts.items()
        ]
        graph = onnx.helper.make_graph([], "weights", [], [], weights)
        (tmp_path / "model.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
        return OnnxFile.read(tmp_path / "model.onnx")

    assert read(FLOAT=2, FLOAT16=3).precision is Precision.FP16
    assert read(FLOAT=3, FLOAT16=2).precision is read(DOUBLE=3, FLOAT16=2).precision is Precision.FP32
    with pytest.raises(CheckpointError, match="holds weights in BF16"):
        assert read(FLOAT=2, BFLOAT16=3).precision


def one_node(folder: Path, operator: str, domain: str) -> Path:
    """Write a model whose only node lies in a branch of an If."""
    inner = onnx.helper.make_graph([onnx.helper.make_node(operator, ["a"], ["b"], domain=domain)], "inner", [], [])
    outer = onnx.helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner)
    path = folder / "one.onnx"
    path.write_bytes(onnx.helper.make_model(onnx.helper.make_graph([outer], "outer", [], [])).SerializeToString())
    return path


@pytest.fixture
def half(exported: Path) -> Path:
    """Turn the directory's weights into FP16, with casts, under the name model_fp16.onnx."""
    model = onnx.load(exported / "onnx/model.onnx")
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2:
            name = tensor.name
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype("f2"), f"{name}.half")
            )
            casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, exported / "onnx/model_fp16.onnx")
    return exported


def test_onnx_file_chooses_among_a_directorys_files(
    half: Path, quantized: Path, tmp_path: Path, pairs: list[tuple[str, str]]
) -> None:
    shutil.copyfile(quantized, half / "onnx/model_quantized.onnx")
    wanted = {
        "onnx/model.onnx": "fp32",
        "model_fp16.onnx": "fp16",
        "onnx/model_quantized.onnx": "int8",
    }
    for name, precision in wanted.items():
        made = bundle_from_onnx(half, tmp_path / precision, onnx_file=name)
        assert list(made.manifest.models) == [precision]
        assert made.manifest.source["onnx_file"] == f"onnx/{Path(name).name}"
        with CrossEncoder(made.path, precision=precision, backend="onnxruntime") as model:
            assert np.isfinite(model.predict(pairs)).all()
    for name in ("model_O3.onnx", "../exported/onnx/model.onnx", "/etc/passwd"):
        with pytest.raises(
            CheckpointError, match=r"it holds onnx/model\.onnx, onnx/model_fp16\.onnx, onnx/model_quant"
        ):
            bundle_from_onnx(half, tmp_path / "other", onnx_file=name)
    (half / "onnx/model.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"choose one with --onnx-file: onnx/model_fp16\.onnx"):
        bundle_from_onnx(half, tmp_path / "other")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_unicode_is_refused_in_words(exported: Path, checkpoint: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(CheckpointError, match="the name is not valid UTF-8"):
        bundle_from_onnx(exported, odd)
    with pytest.raises(CheckpointError, match="the name is not valid UTF-8"):
        export_bundle(Checkpoint.read(checkpoint), odd)
    assert not odd.exists()
    shutil.copytree(checkpoint, odd)
    with pytest.raises(CheckpointError, match="the name is not valid UTF-8"):
        Checkpoint.read(odd)
    with pytest.raises(CheckpointError, match="the name is not valid UTF-8"):
        bundle_from_onnx(exported.rename(odd / "exported"), tmp_path / "bundle")


def test_a_bundle_is_not_made_of_a_bundle(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a bundle of crossrt already"):
        bundle_from_onnx(bundle, tmp_path / "again")


def test_a_model_that_was_never_checked_says_so_once(
    exported: Path, bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = bundle_from_onnx(exported, tmp_path / "bundle")
    with caplog.at_level(logging.WARNING, "crossrt"):
        for path in (made.path, made.path, bundle):
            CrossEncoder(path).close()
    [record] = [record for record in caplog.records if "never compared" in record.getMessage()]
    assert str(made.path) in record.getMessage()


def test_the_command_line_needs_no_torch_for_it(exported: Path, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'onnx', 'safetensors')));"
        "sys.argv[0] = 'crossrt'; from crossrt.__main__ import main; main()"
    )
    command = [
        sys.executable,
        "-c",
        program,
        "export",
        str(exported),
        str(tmp_path / "bundle"),
        "--exporter",
        "existing",
    ]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert "was not checked" in child.stdout
    with CrossEncoder(tmp_path / "bundle") as model:
        assert np.isfinite(model.predict([("a", "b")])).all()


def test_the_advice_to_check_parity_works_where_there_are_weights(
    exported: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "a bundle's folder"
    assert said(monkeypatch, capsys, "export", exported, out, "--onnx-file", "model.onnx")[0] == 0
    status, text = said(monkeypatch, capsys, "export", exported, out, "--onnx-file", "model.onnx", "--force")
    assert "holds no PyTorch weights to compare it with" in text
    shutil.copyfile(checkpoint / "model.safetensors", exported / "model.safetensors")
    status, text = said(monkeypatch, capsys, "export", exported, out, "--exporter", "existing", "--force")
    assert status == 0
    advice = shlex.split(text.rpartition("crossrt ")[2])
    assert advice == ["parity", str(out), "--against", str(exported)]
    status, text = said(monkeypatch, capsys, *advice)
    assert status == 0, text
    assert "parity passed" in text


def said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str | Path
) -> tuple[int, str]:
    """Run the command line and return its exit status and what it printed."""
    monkeypatch.setattr(sys, "argv", ["crossrt", *map(str, arguments)])
    status = 0
    try:
        main()
    except SystemExit as ended:
        status = int(ended.code or 0)
    return status, "".join(capsys.readouterr())


# -- hostile and broken files


def changed(exported: Path, change: Callable[[Any], object]) -> None:
    model = onnx.load(exported / "onnx/model.onnx", load_external_data=False)
    change(model.graph)
    (exported / "onnx/model.onnx").write_bytes(model.SerializeToString())


def test_weights_outside_the_directory_are_refused(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * 1_000_000)
    for location in ("../../secret", str(tmp_path / "secret"), "..", "folder/data", "C:data", ""):
        changed(exported, lambda graph, location=location: external(graph, location))
        with pytest.raises(CheckpointError, match="may lie beside the model alone"):
            bundle_from_onnx(exported, tmp_path / "bundle")
    changed(exported, lambda graph: external(graph, "data"))
    (exported / "onnx/data").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match=r"is a link to .*secret, outside"):
        bundle_from_onnx(exported, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def external(graph: Any, location: str, tensor: int = 0) -> None:
    stored = graph.initializer[tensor]
    stored.ClearField("raw_data")
    stored.data_location = onnx.TensorProto.EXTERNAL
    del stored.external_data[:]
    for key, value in {"location": location, "offset": "0", "length": "64"}.items():
        stored.external_data.add(key=key, value=value)


def test_weights_beside_the_model_come_along_under_their_name(
    exported: Path, tmp_path: Path, bundle: Path, pairs: list[tuple[str, str]]
) -> None:
    model = onnx.load(exported / "onnx/model.onnx")
    onnx.save_model(
        model, exported / "onnx/model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=1024
    )
    made = bundle_from_onnx(exported, tmp_path / "bundle")
    assert {"onnx/model.onnx", "onnx/weights.bin"} <= {file.name for file in made.manifest.files}
    with CrossEncoder(made.path, backend="onnxruntime") as ours, CrossEncoder(bundle, backend="onnxruntime") as theirs:
        np.testing.assert_array_equal(ours.predict(pairs), theirs.predict(pairs))
    with (exported / "onnx/weights.bin").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(CheckpointError, match=r"weights\.bin is truncated"):
        bundle_from_onnx(exported, tmp_path / "other")
    (exported / "onnx/weights.bin").unlink()
    with pytest.raises(CheckpointError, match=r"weights in weights\.bin, which cannot be read"):
        bundle_from_onnx(exported, tmp_path / "other")


def test_weights_that_would_take_the_place_of_the_model_are_refused(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported / "onnx/model.onnx")
    onnx.save_model(model, exported / "graph.onnx", save_as_external_data=True, location="model.onnx")
    with pytest.raises(CheckpointError, match=r"has weights in model\.onnx, which is the model's name in a bundle"):
        bundle_from_onnx(exported, tmp_path / "bundle", onnx_file="graph.onnx")
    assert not (tmp_path / "bundle").exists()


def test_a_file_from_the_hubs_cache_is_a_link_that_is_followed(exported: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b/snapshots/0123"
    snapshot.parent.mkdir(parents=True)
    shutil.move(exported, snapshot)
    blobs = tmp_path / "models--a--b/blobs"
    blobs.mkdir()
    shutil.move(snapshot / "onnx/model.onnx", blobs / "4567")
    (snapshot / "onnx/model.onnx").symlink_to("../../../blobs/4567")
    assert not (bundle_from_onnx(snapshot, tmp_path / "bundle").path / "onnx/model.onnx").is_symlink()


def test_what_is_no_whole_onnx_file_is_refused_in_words(exported: Path, tmp_path: Path) -> None:
    whole = (exported / "onnx/model.onnx").read_bytes()
    chance = np.random.default_rng(0)
    for content in (b"", b"not a model", whole[:-1], whole[: len(whole) // 2], b"\xff" * 100, chance.bytes(5000)):
        (exported / "onnx/model.onnx").write_bytes(content)
        with pytest.raises(
            CheckpointError, match=r"not an ONNX file, or not a whole one|cannot be opened by ONNX Runtime"
        ):
            bundle_from_onnx(exported, tmp_path / "bundle")
    (exported / "onnx/model.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        bundle_from_onnx(exported, tmp_path / "bundle")


def test_a_damaged_onnx_file_is_read_or_refused_and_raises_nothing_else(exported: Path, tmp_path: Path) -> None:
    whole = bytearray((exported / "onnx/model.onnx").read_bytes())
    chance = np.random.default_rng(1)
    file = tmp_path / "damaged.onnx"
    refused = 0
    for _ in range(200):
        content = bytearray(whole)
        for place in chance.integers(0, len(content), 3):
            content[place] ^= int(chance.integers(1, 256))
        file.write_bytes(content[: chance.integers(0, len(content))] if chance.random() < 0.3 else content)
        try:
            assert OnnxFile.read(file).precision
        except CheckpointError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("kind", ["f4", "f2"])
@pytest.mark.parametrize("beside", [False, True])
def test_weights_with_nan_are_refused(exported: Path, tmp_path: Path, kind: str, beside: bool) -> None:
    model = onnx.load(exported / "onnx/model.onnx")
    values = np.zeros((40, 3), dtype=kind)
    values[30, 1] = np.nan
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "spoilt"))
    onnx.save_model(
        model, exported / "onnx/model.onnx", save_as_external_data=beside, location="data", size_threshold=0
    )
    with pytest.raises(CheckpointError, match="the tensor 'spoilt' holds NaN"):
        bundle_from_onnx(exported, tmp_path / "bundle")


@pytest.mark.parametrize("kind", ["FLOAT", "FLOAT16", "DOUBLE"])
def test_nan_in_the_typed_fields_of_a_tensor_is_found(exported: Path, tmp_path: Path, kind: str) -> None:
    """Weights are mostly in `raw_data`. The fields for each type, such as `int32_data` for FP16, are as good."""
    model = onnx.load(exported / "onnx/model.onnx")
    values = [0.0] * 90 + [float("nan")] + [0.0] * 29
    spoilt = onnx.helper.make_tensor("spoilt", getattr(onnx.TensorProto, kind), (40, 3), values)
    assert not spoilt.HasField("raw_data")
    model.graph.initializer.append(spoilt)
    onnx.save_model(model, exported / "onnx/model.onnx")
    with pytest.raises(CheckpointError, match="the tensor 'spoilt' holds NaN"):
        bundle_from_onnx(exported, tmp_path / "bundle")


def test_infinite_weights_are_found_by_scoring_a_pair(exported: Path, tmp_path: Path) -> None:
    def spoil(graph: Any) -> None:
        [bias] = [tensor for tensor in graph.initializer if list(tensor.dims) == [1]][-1:]
        bias.raw_data = np.full(1, np.inf, dtype=np.float32).tobytes()

    changed(exported, spoil)
    with pytest.raises(CheckpointError, match=r"scores a pair of [0-9]+ tokens with NaN or Inf"):
        bundle_from_onnx(exported, tmp_path / "bundle")


def insert(graph: Any, *nodes: Any, **constants: Any) -> None:
    """Put nodes and named int64 constants before the others, which then read `X_` of the nodes instead of the input `X`."""
    replaced = {name.removesuffix("_"): name for node in nodes for name in node.output if name.endswith("_")}
    for node in graph.node:
        node.input[:] = [replaced.get(name, name) for name in node.input]
    rest = [*nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(rest)
    for name, value in constants.items():
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, dtype=np.int64), name))


def maskless(graph: Any) -> None:
    """Let every token attend to padding too."""
    one = onnx.numpy_helper.from_array(np.ones(1, dtype=np.int64))
    insert(
        graph,
        onnx.helper.make_node("Shape", ["input_ids"], ["size"]),
        onnx.helper.make_node("ConstantOfShape", ["size"], ["attention_mask_"], value=one),
    )


def without_mask_input(graph: Any) -> None:
    maskless(graph)
    graph.input.remove(next(field for field in graph.input if field.name == "attention_mask"))


def reshaped(*shape: int) -> Callable[[Any], None]:
    """Give the inputs a shape with constants, as a graph has that was traced with them."""

    def change(graph: Any) -> None:
        nodes = [
            onnx.helper.make_node("Reshape", [name, "traced"], [f"{name}_"])
            for name in [field.name for field in graph.input]
        ]
        insert(graph, *nodes, traced=shape)

    return change


def one_row(graph: Any) -> None:
    """Give the logits a batch size of one."""
    for node in graph.node:
        node.output[:] = ["any_rows" if name == "logits" else name for name in node.output]
    graph.node.append(onnx.helper.make_node("Reshape", ["any_rows", "one_row"], ["logits"]))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, -1], dtype=np.int64), "one_row"))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (maskless, "apart alone and in a batch, so it attends to padding: it uses no attention_mask"),
        (without_mask_input, "apart alone and in a batch, so it attends to padding: it uses no attention_mask"),
        (reshaped(1, -1), "cannot score 3 pairs of 64 tokens"),
        (one_row, r"gives logits of shape \[1, 3\] for 3 pairs of 64 tokens"),
        (reshaped(0, 5), "cannot score a pair of [0-9]+ tokens"),
        (reshaped(0, 16), "cannot score a pair of [0-9]+ tokens"),
    ],
    ids=["mask ignored", "no mask", "one pair", "one row", "five tokens", "sixteen tokens"],
)
def test_a_graph_that_scores_only_the_shape_it_was_traced_with_is_refused(
    exported: Path, quantized: Path, tmp_path: Path, change: Callable[[Any], None], said: str, precision: str
) -> None:
    if precision == "int8":
        shutil.copyfile(quantized, exported / "onnx/model.onnx")
    changed(exported, change)
    with pytest.raises(CheckpointError, match=said):
        bundle_from_onnx(exported, tmp_path / "bundle")


def test_a_model_with_other_inputs_or_outputs_is_refused(exported: Path, tmp_path: Path) -> None:
    def renamed(graph: Any) -> None:
        for node in graph.node:
            node.output[:] = ["last_hidden_state" if name == "logits" else name for name in node.output]
        graph.output[0].name = "last_hidden_state"

    def with_positions(graph: Any) -> None:
        graph.input.append(onnx.helper.make_tensor_value_info("position_ids", onnx.TensorProto.INT64, ["batch", "n"]))

    changed(exported, with_positions)
    with pytest.raises(CheckpointError, match=r"position_ids.*a cross-encoder has int64 input_ids, attention_mask"):
        bundle_from_onnx(exported, tmp_path / "bundle")
    changed(exported, lambda graph: (graph.input.pop(), renamed(graph)))
    with pytest.raises(CheckpointError, match="a cross-encoder has logits"):
        bundle_from_onnx(exported, tmp_path / "bundle")


def test_labels_without_a_number_are_counted_and_further_outputs_left_alone(
    exported: Path, tmp_path: Path, bundle: Path, pairs: list[tuple[str, str]]
) -> None:
    def change(graph: Any) -> None:
        shape = graph.output[0].type.tensor_type.shape
        shape.dim[1].ClearField("dim_value")
        shape.dim[1].dim_param = "labels"
        graph.node.append(onnx.helper.make_node("Identity", ["logits"], ["other"]))
        graph.output.append(onnx.helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, ["batch", "labels"]))

    changed(exported, change)
    made = bundle_from_onnx(exported, tmp_path / "bundle")
    assert made.manifest.labels == 1
    with CrossEncoder(made.path) as ours, CrossEncoder(bundle) as theirs:
        np.testing.assert_array_equal(ours.predict(pairs), theirs.predict(pairs))


def test_the_label_and_the_activation_that_are_chosen_are_the_bundles(two_label_bundle: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(two_label_bundle, tmp_path / "directory", ignore=shutil.ignore_patterns(MANIFEST)))
    made = bundle_from_onnx(directory, tmp_path / "bundle", relevant_label="LABEL_0", activation="sigmoid").manifest
    assert (made.relevant_label, made.activation) == (0, "sigmoid")
    assert (made.source["chosen_relevant_label"], made.source["chosen_activation"]) == (0, "sigmoid")
    assert bundle_from_onnx(directory, tmp_path / "other").manifest.relevant_label == 1
    with pytest.raises(OptionError, match="relevant_label='none' is none of the model's labels"):
        bundle_from_onnx(directory, tmp_path / "refused", relevant_label="none")


def test_what_is_missing_is_named(exported: Path, tmp_path: Path) -> None:
    (exported / "tokenizer.json").unlink()
    (exported / "vocab.txt").unlink()
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.json nor vocab\.txt"):
        bundle_from_onnx(exported, tmp_path / "bundle")
    (exported / "onnx/model.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"holds no model\.onnx"):
        bundle_from_onnx(exported, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


# -- from the hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Path], list[list[str]]]:
    """Return a function that serves a directory as every repository of the hub, and returns the lists of patterns asked for."""
    import fnmatch

    import huggingface_hub

    def serve(repository: Path) -> list[list[str]]:
        asked: list[list[str]] = []
        snapshot = tmp_path / "hub/snapshots/0123456789"

        def download(name: str, *, allow_patterns: list[str], **others: Any) -> str:
            asked.append(allow_patterns)
            for file in held():
                if any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns):
                    (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(repository / file, snapshot / file)
            return os.fspath(snapshot)

        def held(*_: Any, **others: Any) -> list[str]:
            return [path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()]

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        monkeypatch.setattr(huggingface_hub, "list_repo_files", held)
        return asked

    return serve


def test_onnx_file_of_a_repository_is_downloaded_with_its_weights_and_nothing_else(
    exported: Path, hub: Callable[[Path], list[list[str]]]
) -> None:
    model = onnx.load(exported / "onnx/model.onnx")
    onnx.save_model(
        model,
        exported / "onnx/model_O3.onnx",
        save_as_external_data=True,
        location="model_O3.onnx_data",
        size_threshold=0,
    )
    hub(exported)
    directory, _ = sources.fetched_checkpoint("a/b", onnx_file="model_O3.onnx")
    assert {path.name for path in (directory / "onnx").iterdir()} == {"model_O3.onnx", "model_O3.onnx_data"}
    with pytest.raises(SourceError, match=r"a/b holds no ONNX file 'model_O9\.onnx'; it holds .*onnx/model_O3\.onnx"):
        sources.fetched_checkpoint("a/b", onnx_file="model_O9.onnx")


@pytest.mark.parametrize("weights", ["model.onnx.data", "model.onnx_data", "model.onnx_data_1"])
def test_weights_of_a_repositorys_model_are_downloaded_and_are_in_the_key_of_the_cache(
    exported: Path, hub: Callable[[Path], list[list[str]]], weights: str
) -> None:
    """PyTorch's exporter writes `model.onnx.data`."""
    model = onnx.load(exported / "onnx/model.onnx")
    onnx.save_model(model, exported / "onnx/model.onnx", save_as_external_data=True, location=weights, size_threshold=0)
    hub(exported)
    directory, _ = sources.fetched_checkpoint("a/b", onnx=True)
    assert (directory / "onnx" / weights).is_file()
    before = sources._content_key(directory)
    with (directory / "onnx" / weights).open("ab") as file:
        file.write(b"more")
    assert sources._content_key(directory) != before


def test_a_bundle_on_the_hub_is_downloaded_whole(bundle: Path, hub: Callable[[Path], list[list[str]]]) -> None:
    hub(bundle)
    directory, _ = sources.fetched_checkpoint("a/b")
    assert Bundle.open(directory, verify=True).manifest == Bundle.open(bundle).manifest


def test_a_bundle_of_the_older_flat_layout_still_opens(
    bundle: Path, tmp_path: Path, pairs: list[tuple[str, str]]
) -> None:
    old = Path(shutil.copytree(bundle, tmp_path / "old"))
    shutil.move(old / "onnx/model.onnx", old / "model.fp32.onnx")
    for name in ("onnx", "config.json", "tokenizer_config.json"):
        path = old / name
        path.rmdir() if path.is_dir() else path.unlink()
    manifest = Manifest.from_json((old / MANIFEST).read_text(), where=old)
    files = [
        dataclasses.replace(file, name="model.fp32.onnx") if file.name == "onnx/model.onnx" else file
        for file in manifest.files
        if file.name not in ("config.json", "tokenizer_config.json")
    ]
    models = {"fp32": dataclasses.replace(manifest.models["fp32"], file="model.fp32.onnx")}
    (old / MANIFEST).write_text(dataclasses.replace(manifest, files=tuple(files), models=models).to_json())
    Bundle.open(old, verify=True)
    with CrossEncoder(old) as ours, CrossEncoder(bundle) as theirs:
        np.testing.assert_array_equal(ours.predict(pairs), theirs.predict(pairs))


def test_onnx_file_goes_with_no_other_exporter(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crossrt.commands.export import export

    with pytest.raises(OptionError, match="leave out --exporter crossrt"):
        export(str(exported), tmp_path / "bundle", onnx_file="model.onnx", exporter="crossrt")
