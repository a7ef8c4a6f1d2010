"""A bundle is opened by others as it lies, and gives them the same scores."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
onnxruntime = pytest.importorskip("onnxruntime")

import onnx
import tokenizers

from crossrt import CrossEncoder
from crossrt.engine.activation import name_from_config
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.bundle.manifest import MANIFEST
from crossrt.export.existing.existing import bundle_from_onnx

SHORT = [("how long does it take", "Berlin is a city"), ("where is the river", "the river is long and green")]
LONG = ("what is in the water", "eggs and salt " * 30)
SMALL = {"max_position_embeddings": 64, "vocab_size": 153}


def save(path: Path, model: Any, tokenizer_from: Path, config: dict[str, Any], **tensors: Any) -> Path:
    """Write a checkpoint of a head that transformers has no class for."""
    from safetensors.torch import save_file

    path.mkdir()
    prefix = "bert_model." if "_classification_layer.weight" in tensors else "electra."
    state = {prefix + name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state | tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config))
    shutil.copyfile(tokenizer_from / "vocab.txt", path / "vocab.txt")
    return path


def bert_cat(folder: Path, plain: Path, make: Callable[..., Path]) -> Path:
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    torch.manual_seed(0)
    trunk = transformers.DistilBertModel(transformers.DistilBertConfig(**sizes, **SMALL))
    head = {"_classification_layer.weight": torch.randn(1, 32), "_classification_layer.bias": torch.zeros(1)}
    return save(
        folder / "cat",
        trunk,
        plain,
        {"model_type": "BERT_Cat", "architectures": ["BERT_Cat"], **sizes, **SMALL},
        **head,
    )


def capreolus(folder: Path, plain: Path, make: Callable[..., Path]) -> Path:
    sizes = {"hidden_size": 32, "embedding_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.ElectraConfig(**sizes, intermediate_size=64, **SMALL)
    torch.manual_seed(0)
    head = {"classifier.out_proj.weight": torch.randn(2, 32), "classifier.out_proj.bias": torch.zeros(2)}
    return save(folder / "capreolus", transformers.ElectraModel(config), plain, config.to_dict(), **head)


def cased_with_names(folder: Path, plain: Path, make: Callable[..., Path]) -> Path:
    path = Path(shutil.copytree(make(labels=2, activation="torch.nn.modules.activation.Tanh"), folder / "cased"))
    config = json.loads((path / "config.json").read_text())
    config |= {"id2label": {"0": "off topic", "1": "relevant"}, "label2id": {"off topic": 0, "relevant": 1}}
    (path / "config.json").write_text(json.dumps(config))
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "model_max_length": 10**30}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    (path / "tokenizer.json").unlink()
    return path


def roberta(folder: Path, plain: Path, make: Callable[..., Path]) -> Path:
    path = folder / "roberta"
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*special, *letters])}
    transformers.RobertaTokenizer(vocab=vocabulary, merges=[]).save_pretrained(path)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        **sizes, vocab_size=len(vocabulary), max_position_embeddings=66, type_vocab_size=1, num_labels=1
    )
    transformers.RobertaForSequenceClassification(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module", params=[bert_cat, capreolus, cased_with_names, roberta], ids=lambda make: make.__name__)
def odd_bundle(
    request: pytest.FixtureRequest,
    checkpoint: Path,
    make_checkpoint: Callable[..., Path],
    make_bundle: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    return make_bundle(request.param(tmp_path_factory.mktemp("odd"), checkpoint, make_checkpoint))


def test_transformers_tokenizer_and_onnx_runtime_give_the_bundles_logits(odd_bundle: Path) -> None:
    pairs = [*SHORT, LONG, ("Where IS Berlin", "PARIS [SEP] </s> <pad>")]
    tokenizer = transformers.AutoTokenizer.from_pretrained(odd_bundle)
    assert tokenizer.model_max_length == 64
    session = onnxruntime.InferenceSession(odd_bundle / "onnx/model.onnx", providers=["CPUExecutionProvider"])
    names = {field.name for field in session.get_inputs()}
    logits = []
    for query, passage in pairs:
        encoded = tokenizer([query], [passage], truncation=True, return_tensors="np")
        assert names <= set(encoded)
        logits.append(session.run(["logits"], {name: encoded[name].astype(np.int64) for name in names})[0][0])
    with CrossEncoder(odd_bundle, backend="onnxruntime") as model:
        np.testing.assert_allclose(model.logits(pairs), logits, atol=1e-5)


def test_the_config_says_what_sentence_transformers_needs(odd_bundle: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(odd_bundle)
    manifest = Bundle.open(odd_bundle, verify=True).manifest
    assert config.num_labels == manifest.labels
    assert config.model_type in ("bert", "distilbert", "electra", "roberta")
    assert name_from_config(config.to_dict(), None, "none") == manifest.activation
    assert getattr(torch.nn, config.sentence_transformers["activation_fn"].rpartition(".")[2])
    if manifest.labels == 2 and config.model_type == "bert":
        assert config.id2label == {0: "off topic", 1: "relevant"}


def test_the_files_for_others_are_small_and_the_model_lies_there_once(odd_bundle: Path) -> None:
    files = {file.name: file.size for file in Bundle.open(odd_bundle).manifest.files}
    assert [name for name in files if name.endswith(".onnx")] == ["onnx/model.onnx"]
    assert sum(size for name, size in files.items() if "config" in name) < 8000
    assert set(files) == {
        path.relative_to(odd_bundle).as_posix() for path in odd_bundle.rglob("*") if path.is_file()
    } - {MANIFEST}
    assert not any(path.is_symlink() for path in odd_bundle.rglob("*"))


def test_the_files_for_others_make_the_same_bundle_again(odd_bundle: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(odd_bundle, tmp_path / "directory", ignore=shutil.ignore_patterns(MANIFEST)))
    again = bundle_from_onnx(directory, tmp_path / "again")
    before, after = Bundle.open(odd_bundle).manifest, again.manifest
    for name in ("labels", "activation", "max_length", "max_positions", "pad_token_id", "inputs"):
        assert getattr(after, name) == getattr(before, name)
    pairs = [*SHORT, LONG, ("Where IS Berlin", "PARIS [SEP] </s> <pad>")]
    with (
        CrossEncoder(again.path, backend="onnxruntime") as ours,
        CrossEncoder(odd_bundle, backend="onnxruntime") as theirs,
    ):
        np.testing.assert_array_equal(ours.logits(pairs), theirs.logits(pairs))


def test_saved_prompts_and_modules_come_along_for_sentence_transformers(
    make_checkpoint: Callable[..., Path], make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    source = Path(shutil.copytree(make_checkpoint(), tmp_path / "source"))
    saved = {
        "model_type": "CrossEncoder",
        "prompts": {"query": "q: "},
        "default_prompt_name": None,
        "activation_fn": "torch.nn.modules.activation.Tanh",
    }
    (source / "config_sentence_transformers.json").write_text(json.dumps(saved))
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.Transformer"}]
    (source / "modules.json").write_text(json.dumps(modules))
    made = make_bundle(source)
    assert json.loads((made / "modules.json").read_text()) == modules
    assert json.loads((made / "config_sentence_transformers.json").read_text()) == saved
    config = json.loads((made / "config.json").read_text())
    assert config["sentence_transformers"]["activation_fn"] == "torch.nn.modules.activation.Tanh"


def test_weights_beside_the_graph_have_the_name_that_transformers_js_looks_for(
    checkpoint: Path, make_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossrt.export.graph.writer.EXTERNAL_DATA_ABOVE", 1000)
    made = make_bundle(checkpoint)
    assert (made / "onnx/model.onnx_data").is_file()
    config = json.loads((made / "config.json").read_text())
    assert config["transformers.js_config"] == {"use_external_data_format": {"model.onnx": True}}


def test_weights_in_several_files_are_counted_for_transformers_js(
    checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    """It looks for `model.onnx_data`, `model.onnx_data_1` and so on, up to the number that config.json gives."""
    source = Path(shutil.copytree(checkpoint, tmp_path / "source"))
    (source / "onnx").mkdir()
    model = onnx.load(bundle / "onnx/model.onnx")
    onnx.save_model(model, source / "onnx/model.onnx", save_as_external_data=True, location="model.onnx_data")
    model = onnx.load(source / "onnx/model.onnx", load_external_data=False)
    for number, tensor in enumerate(each for each in model.graph.initializer if each.external_data):
        next(entry for entry in tensor.external_data if entry.key == "location").value += ("", "_1", "_2")[number % 3]
    onnx.save_model(model, source / "onnx/model.onnx")
    for end in ("_1", "_2"):  # the whole weights again, of which a third is used
        shutil.copyfile(source / "onnx/model.onnx_data", source / f"onnx/model.onnx_data{end}")
    made = bundle_from_onnx(source, tmp_path / "bundle").path
    assert len(list((made / "onnx").iterdir())) == 4
    config = json.loads((made / "config.json").read_text())
    assert config["transformers.js_config"] == {"use_external_data_format": {"model.onnx": 3}}


@pytest.mark.slow
def test_transformers_js_gives_the_same_logits(bundle: Path, tmp_path: Path) -> None:
    """Install it from npm and run it; it does not truncate pairs as others do, so they are short."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    # Its scripts fetch ONNX Runtime's CUDA libraries; those for the CPU are in the package.
    install = ["npm", "install", "--ignore-scripts", "--prefix", str(tmp_path), "@huggingface/transformers"]
    subprocess.run(install, check=True, capture_output=True)
    shutil.copyfile(Path(__file__).with_name("transformers_js.mjs"), tmp_path / "run.mjs")
    (tmp_path / "pairs.json").write_text(json.dumps(SHORT))
    command = ["node", str(tmp_path / "run.mjs"), str(bundle), "fp32", str(tmp_path / "pairs.json")]
    child = subprocess.run(command, check=True, capture_output=True, text=True)
    with CrossEncoder(bundle, backend="onnxruntime") as model:
        np.testing.assert_allclose(json.loads(child.stdout), model.logits(SHORT), atol=1e-5)
