"""Options and fixtures of all tests: small models made from a seed, which need no network and no GPU."""

import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from crossrt.engine.bundle.manifest import MANIFEST, ONNX_FILES, BundleFile
from crossrt.engine.bundle.score_error import ScoreErrorStats
from crossrt.engine.cross_encoder import CrossEncoder
from crossrt.engine.files.cache import VARIABLE
from crossrt.engine.files.digests import sha256_of

from . import processors
from .engine.samples import QUERY, passages

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"

WORDS = (
    "the a of to in is what who where how long does it take city people live berlin paris river mountain light "
    "weather climate printing press vitamin passport renew green red blue north south water sun bone eggs salt"
).split()
PIECES = ["##s", "##ing", "##ed", "##er", "##ly", "##tion", "##al"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--engine-rows", type=Path, help="file that gets a line of JSON for every engine that the tests build"
    )
    parser.addoption("--gpu-bundle", type=Path, help="bundle that `-m gpu` runs on the GPU")
    parser.addoption("--gpu-backend", default="auto", help="and by what: tensorrt, native, onnxruntime")
    parser.addoption("--demo-bundle", type=Path, help="bundle of the demo checkpoint, for integrations and distributed")
    parser.addoption("--checkpoints", type=Path, help="directory with the published checkpoints, for `-m network`")
    parser.addoption(
        "--processor",
        choices=list(processors.KINDS),
        help="run as this kind of processor, of those that this machine can run as: crossrt and OpenVINO then see no "
        "more instructions than it has, in child processes too. ONNX Runtime and PyTorch still choose by themselves",
    )


def pytest_configure(config: pytest.Config) -> None:
    with suppress(ImportError):  # an adapter's environment lacks Hypothesis, and runs none of its tests
        from hypothesis import settings

        settings.register_profile("crossrt", deadline=None)  # on a busy machine any call may take long
        settings.load_profile("crossrt")
    kind = config.option.processor
    if kind is None:
        return
    why = processors.lacking(kind)
    if why:
        raise pytest.UsageError(f"--processor {kind}: {why}")
    folder = tempfile.TemporaryDirectory(prefix="crossrt-tests-")
    config.add_cleanup(folder.cleanup)
    processors.run_as(kind, Path(folder.name))


def pytest_report_header(config: pytest.Config) -> str | None:
    kind = config.option.processor
    return None if kind is None else f"processor: seen as {kind}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests marked slow, network or gpu unless -m selects them; --checkpoints replaces the network."""
    if config.option.markexpr:
        return
    local = config.option.checkpoints is not None
    for item in items:
        for marker in ("slow", "network", "gpu"):
            # By its marker, not its keywords: these include the names of its folders, such as gpu.
            if item.get_closest_marker(marker) and not (marker == "network" and local):
                item.add_marker(pytest.mark.skip(reason=f"{marker}: run with `pytest -m {marker}`"))


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give the tests and their child processes a cache of their own instead of the user's."""
    os.environ[VARIABLE] = str(tmp_path_factory.mktemp("cache"))


def script(name: str) -> ModuleType:
    """Import scripts/<name>.py, which is not part of the package and may import its neighbours."""
    if str(REPOSITORY / "scripts") not in sys.path:
        sys.path.append(str(REPOSITORY / "scripts"))
    loader = SourceFileLoader(name, str(REPOSITORY / "scripts" / f"{name}.py"))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module there
    loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load_script() -> Callable[[str], ModuleType]:
    return script


@pytest.fixture(scope="session")
def load_benchmark() -> Callable[[str], ModuleType]:
    """Return a function that imports benchmarks/<name>.py, which may import its neighbours and scripts."""

    def load(name: str) -> ModuleType:
        for folder in ("scripts", "benchmarks"):
            if str(REPOSITORY / folder) not in sys.path:
                sys.path.append(str(REPOSITORY / folder))
        return importlib.import_module(name)

    return load


def vocabulary() -> list[str]:
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [f"##{letter}" for letter in letters if letter.isalnum()]
    return list(dict.fromkeys([*special, *letters, *pieces, *PIECES, *WORDS]))


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes a two-layer BERT cross-encoder of 32 dimensions and returns its directory.

    Keywords: `labels`, `seed`, `activation` (dotted path, or None to write none), and any field of BertConfig.
    """
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    def make(
        *, labels: int = 1, seed: int = 0, activation: str | None = "torch.nn.modules.linear.Identity", **fields: Any
    ) -> Path:
        path = tmp_path_factory.mktemp("checkpoint")
        tokens = vocabulary()
        (path / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
        torch.manual_seed(seed)
        config = transformers.BertConfig(
            **{
                "vocab_size": len(tokens),
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 64,
                "max_position_embeddings": 64,
                "num_labels": labels,
                **fields,
            }
        )
        model = transformers.BertForSequenceClassification(config)
        with torch.no_grad():  # larger than the initial 0.02, so that every part influences the scores
            for name, parameter in model.named_parameters():
                if name.endswith("LayerNorm.weight"):
                    parameter.add_(torch.randn_like(parameter) * 0.2)
                elif parameter.ndim == 2:
                    parameter.copy_(
                        torch.randn_like(parameter) * (0.5 if "embeddings" in name else parameter.shape[1] ** -0.5)
                    )
                else:
                    parameter.copy_(torch.randn_like(parameter) * 0.2)
            model.classifier.weight.mul_(5)
        model.save_pretrained(path)
        fields_written = json.loads((path / "config.json").read_text())
        if activation is not None:
            fields_written["sbert_ce_default_activation_function"] = activation
        (path / "config.json").write_text(json.dumps(fields_written))
        (path / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64})
        )
        transformers.AutoTokenizer.from_pretrained(path).save_pretrained(path)
        return path

    return make


@contextmanager
def exporting_without_native() -> Iterator[None]:
    from crossrt.export.steps import native

    others = tuple(name for name in native.installed_backends() if name != "native")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "installed_backends", lambda *_: others)
        yield


@pytest.fixture(scope="module")
def portable() -> Iterator[None]:
    """Export the same files on every machine, as `make_bundle` does."""
    with exporting_without_native():
        yield


@pytest.fixture(scope="session")
def make_bundle(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that exports a checkpoint of `make_checkpoint` and returns the bundle's directory.

    It is the same on every machine: it has no weights for the native kernels, which not every processor can run.
    """
    from crossrt.export.checkpoint.checkpoint import Checkpoint
    from crossrt.export.export import export_bundle

    def make(checkpoint: Path | None = None, **fields: Any) -> Path:
        out = tmp_path_factory.mktemp("bundles") / "bundle"
        with exporting_without_native():
            export_bundle(Checkpoint.read(checkpoint or make_checkpoint(**fields)), out)
        return out

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    """Return a checkpoint with one label and identity activation. Not to be changed: copy it first."""
    return make_checkpoint()


@pytest.fixture(scope="session")
def bundle(make_bundle: Callable[..., Path], checkpoint: Path) -> Path:
    """Return the bundle of `checkpoint`. Not to be changed: copy it first."""
    return make_bundle(checkpoint)


@pytest.fixture(scope="session")
def native_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundle of `checkpoint` with weights for the native kernels; skip where they cannot run. Not to be changed."""
    from crossrt.engine.kernels.support import why_not_native
    from crossrt.export.checkpoint.checkpoint import Checkpoint
    from crossrt.export.export import export_bundle

    if why := why_not_native():
        pytest.skip(why)
    out = tmp_path_factory.mktemp("native") / "bundle"
    export_bundle(Checkpoint.read(checkpoint), out)
    return out


@pytest.fixture(scope="session")
def demo_bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundle of the demo checkpoint: the one that is named on the command line, or else a new one."""
    given: Path | None = request.config.option.demo_bundle
    if given is not None:
        return given.resolve()
    pytest.importorskip("torch", reason="without torch the demo bundle has to be given, with --demo-bundle")
    from crossrt.export.checkpoint.checkpoint import Checkpoint
    from crossrt.export.export import export_bundle

    out = tmp_path_factory.mktemp("demo") / "demo-bundle"
    export_bundle(Checkpoint.read(REPOSITORY / "demo/checkpoint"), out)
    return out


@pytest.fixture(scope="session")
def make_rounded(
    make_bundle: Callable[..., Path], make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Return a function that makes a bundle whose int8 model has weights rounded to 5 bits, and scores that lie apart.

    The manifest holds the errors of its scores. Keywords are those of `make_checkpoint`.
    """
    import numpy as np

    torch_files = pytest.importorskip("safetensors.numpy")

    def make(**fields: Any) -> Path:
        checkpoint = make_checkpoint(**fields)
        folder = tmp_path_factory.mktemp("rounded")
        path = folder / "rounded"
        shutil.copytree(make_bundle(checkpoint), path)
        weights = torch_files.load_file(checkpoint / "model.safetensors")
        for name, weight in weights.items():
            if weight.ndim == 2 and "embeddings" not in name:
                scale = np.abs(weight).max() / 15
                weights[name] = np.round(weight / scale) * scale
        shutil.copytree(checkpoint, folder / "checkpoint")
        torch_files.save_file(weights, folder / "checkpoint/model.safetensors", metadata={"format": "pt"})
        file = path / ONNX_FILES["int8"]
        shutil.copy(make_bundle(folder / "checkpoint") / ONNX_FILES["fp32"], file)
        manifest = json.loads((path / MANIFEST).read_text())
        manifest["models"]["int8"] = {**manifest["models"]["fp32"], "file": ONNX_FILES["int8"]}
        manifest["files"].append(
            asdict(BundleFile(name=ONNX_FILES["int8"], size=file.stat().st_size, sha256=sha256_of(file)))
        )
        (path / MANIFEST).write_text(json.dumps(manifest))
        options: dict[str, Any] = {"relevant_label": 1} if fields.get("labels") == 3 else {}
        scores = []
        for precision in ("fp32", "int8"):
            with CrossEncoder(path, precision=precision, backend="onnxruntime", device="cpu", **options) as model:
                scores.append(
                    model.relevance(model.logits([(QUERY, text) for text in passages(500, seed=99)]), "identity")
                )
        manifest["models"]["int8"]["score_errors"] = {"onnxruntime": asdict(ScoreErrorStats.of(*scores))}
        (path / MANIFEST).write_text(json.dumps(manifest))
        return path

    return make


@pytest.fixture(scope="session")
def rounded(make_rounded: Callable[..., Path]) -> Path:
    """Return the bundle of `make_rounded`. Not to be changed: copy it first."""
    return make_rounded()


@pytest.fixture(scope="session")
def two_label_checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint(labels=2, activation=None, seed=1)


@pytest.fixture(scope="session")
def two_label_bundle(make_bundle: Callable[..., Path], two_label_checkpoint: Path) -> Path:
    return make_bundle(two_label_checkpoint)


@pytest.fixture
def see_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Return a function that makes crossrt see a lesser kind of processor in this process."""
    from crossrt.engine.hardware import cpus

    def see(kind: str) -> None:
        file = tmp_path / f"cpuinfo-{kind}"
        file.write_text(processors.restricted(processors.DESCRIBED.read_text(), kind))
        monkeypatch.setattr(cpus, "CPUINFO", file)

    return see


@pytest.fixture
def describe_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Return a function that makes crossrt see the processor that a text like /proc/cpuinfo describes, and ask no real one.

    None is a system without that file.
    """
    from crossrt.engine.hardware import cpus

    def describe(text: str | None, machine: str = "x86_64") -> None:
        file = Path(tempfile.mkdtemp(dir=tmp_path)) / "cpuinfo"  # a new name, since each file is read once
        if text is not None:
            file.write_text(text)
        monkeypatch.setattr(cpus, "CPUINFO", file)
        monkeypatch.setattr(cpus, "native_library", lambda name: None)
        monkeypatch.setattr("platform.machine", lambda: machine)

    return describe


@pytest.fixture
def loaded_kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the name of the library, such as `native_avx2`, of every session that opens with native kernels."""
    from crossrt.engine.backends import native_cpu

    names: list[str] = []
    real = native_cpu.kernel_library

    def load(file: Path) -> Any:
        names.append(file.name.partition(".")[0])
        return real(file)

    monkeypatch.setattr(native_cpu, "kernel_library", load)
    return names


@pytest.fixture(scope="session")
def model(bundle: Path) -> CrossEncoder:
    """Return an opened model of `bundle`, shared by all tests."""
    return CrossEncoder(bundle)


@pytest.fixture
def pairs() -> list[tuple[str, str]]:
    """Return twelve pairs of uneven length."""
    queries = ("how long does it take", "where is the river", "what is in the water")
    passages = ("berlin is a city", "the river is long and green", "people live in paris", "eggs and salt " * 6)
    return [(query, passage) for query in queries for passage in passages]


@pytest.fixture(scope="session")
def as_another_user() -> list[str]:
    """Return a command prefix that runs a command under an unused user id, which may read every file but not write.

    Only root can do that. The user may read every file because Python may be installed in root's home directory.
    """
    capability = "+dac_read_search"
    words = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups"]
    words += ["--inh-caps", capability, "--ambient-caps", capability]
    if shutil.which("setpriv") is None or subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("this user cannot run commands under another user id")
    return words


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder with MS MARCO lists and trained weights; skip where it is absent."""
    if not (SHARED / "data/msmarco-dl19").is_dir():
        pytest.skip("../shared with MS MARCO lists and trained weights is not here")
    return SHARED
