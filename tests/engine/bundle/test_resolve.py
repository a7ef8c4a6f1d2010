"""From a checkpoint to its cached bundle."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crossrt.engine.bundle import resolve
from crossrt.engine.bundle.resolve import bundle_from_source
from crossrt.engine.errors import SourceError
from crossrt.engine.files import cache


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> list[str]:
    """The names of the exported sources. Each export is replaced by a copy of `bundle`."""
    found: list[str] = []

    def export(checkpoint: Path, target: Path, name: str, *_: Any) -> None:
        found.append(name)
        shutil.copytree(bundle, target)

    monkeypatch.setattr(resolve, "_export", export)
    return found


@pytest.mark.parametrize(
    "file",
    [
        *(
            "config.json",
            "vocab.txt",
            "vocab.json",
            "merges.txt",
            "spiece.model",
            "sentencepiece.bpe.model",
            "bpe.codes",
        ),
        *("tokenizer_config.json", "config_sentence_transformers.json", "model-00002-of-00002.safetensors"),
        *("pytorch_model.bin", "onnx/model.onnx"),
    ],
)
def test_checkpoints_that_differ_in_one_file_share_no_bundle(
    checkpoint: Path, tmp_path: Path, exports: list[str], file: str
) -> None:
    for name in ("one", "two", "three"):
        copy = tmp_path / name
        shutil.copytree(checkpoint, copy)
        (copy / file).parent.mkdir(exist_ok=True)
        (copy / file).write_text("of two" if name == "two" else "of others")
        bundle_from_source(str(copy), cache_folder=tmp_path / "cache")
    assert [Path(name).name for name in exports] == ["one", "two"]


def test_a_bundle_of_another_version_is_not_used_again(
    checkpoint: Path, tmp_path: Path, exports: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        (None, None),
        ("__version__", "0.0.9"),
        ("SCHEMA", 99),
        ("EXPORTS", 99),
        ("can_export", lambda: False),
    ):
        with monkeypatch.context() as patch:
            if name:
                patch.setattr(resolve, name, value)
            for _ in range(2):
                bundle_from_source(str(checkpoint), cache_folder=tmp_path)
    assert len(exports) == 5


def test_a_roberta_from_the_hub_brings_its_vocabulary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exports: list[str]
) -> None:
    from huggingface_hub.utils import filter_repo_objects

    whole = [
        *("config.json", "vocab.json", "merges.txt", "model.safetensors", "tokenizer_config.json"),
        *("model-00001-of-00002.safetensors", "pytorch_model-00001-of-00002.bin", "spiece.model", "bpe.codes"),
    ]
    left = ["tf_model.h5", "README.md", "flax_model.msgpack", "training_args.bin", "openvino/openvino_model.bin"]
    asked: dict[str, Any] = {}

    def download(repository: str, **options: Any) -> str:
        asked.update(options)
        for name in filter_repo_objects(whole + left, allow_patterns=options["allow_patterns"]):
            (tmp_path / "snapshot" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "snapshot" / name).write_text(name)
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    bundle_from_source("some/roberta", cache_folder=tmp_path / "cache")
    assert sorted(path.name for path in (tmp_path / "snapshot").iterdir()) == sorted(whole)
    assert asked["cache_dir"] == tmp_path / "cache"
    assert exports == ["some/roberta"]


def test_three_processes_that_open_one_new_checkpoint_export_it_once(checkpoint: Path, tmp_path: Path) -> None:
    program = f"""
import shutil, time
from pathlib import Path
from crossrt.engine.bundle import resolve
def export(checkpoint, target, *_):
    with open({str(tmp_path / "log")!r}, "a") as log: log.write("exported\\n")
    time.sleep(1)
    (target / "manifest.json").parent.mkdir()
    (target / "manifest.json").write_text("{{}}")
resolve._export = export
resolve.Bundle = type("Bundle", (), {{"open": staticmethod(lambda path: path)}})
print(resolve.bundle_from_source({str(checkpoint)!r}, cache_folder={str(tmp_path / "cache")!r}))
"""
    command = [sys.executable, "-c", program]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0] * 3, said
    assert (tmp_path / "log").read_text() == "exported\n"
    assert len({out for out, _ in said}) == 1
    waited = [error for _, error in said if "waiting for another process that exports" in error]
    assert len(waited) == 2
    assert len(list((tmp_path / "cache/bundles").iterdir())) == 1, "the lock is gone"


# -- where the cache is


def test_the_cache_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CROSSRT_CACHE", "XDG_CACHE_HOME", "SENTENCE_TRANSFORMERS_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if sys.platform == "linux":
        assert cache.cache_root() == tmp_path / ".cache/crossrt"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache.cache_root() == tmp_path / "xdg/crossrt"
    assert cache.hub_folder(None) is None, "left to huggingface_hub"
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path / "st"))
    assert cache.hub_folder(None) == tmp_path / "st"
    assert cache.bundles_folder(None) == tmp_path / "st/bundles"
    monkeypatch.setenv("CROSSRT_CACHE", "~/own")
    assert cache.cache_root() == tmp_path / "own"
    assert cache.bundles_folder(None) == tmp_path / "own/bundles"
    assert cache.hub_folder(None) == tmp_path / "st"
    assert cache.bundles_folder(tmp_path / "given") == tmp_path / "given/bundles"
    assert cache.hub_folder(tmp_path / "given") == tmp_path / "given"


NOBODY = """
import sys
from crossrt import CrossEncoder, CrossrtError
bundle, checkpoint, *backends = sys.argv[1:]
for backend in backends:
    with CrossEncoder(bundle, backend=backend) as model:
        print("%.3f" % model.predict(("river", "the river")))
try:
    CrossEncoder(checkpoint)
except CrossrtError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("home", [None, "/", "/proc/home"])
def test_a_user_without_a_home_directory_opens_bundles_and_is_told_where_exports_could_go(
    bundle: Path, checkpoint: Path, as_another_user: list[str], home: str | None
) -> None:
    """As in a container with an arbitrary user id, which has no entry in /etc/passwd."""
    names = ("CROSSRT_CACHE", "HOME", "XDG_CACHE_HOME", "SENTENCE_TRANSFORMERS_HOME", "HF_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    if home is not None:
        environment["HOME"] = home
    command = [*as_another_user, sys.executable, "-c", NOBODY, str(bundle), str(checkpoint), "onnxruntime", "openvino"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    one, two, error = done.stdout.split("\n", 2)
    assert float(one) == pytest.approx(float(two), abs=1e-3)
    assert error.startswith(f"SourceError {checkpoint} is no bundle, and its export cannot be kept (")
    assert "give cache_folder=, or set CROSSRT_CACHE" in error
    assert f"cannot be kept ({home or 'this user has no home directory'}" in error


@pytest.mark.parametrize("home", [None, "/proc/home"])
def test_a_hub_id_without_a_folder_for_it_names_what_can_be_set(as_another_user: list[str], home: str | None) -> None:
    """Otherwise huggingface_hub would create a folder named ~ in the working directory."""
    names = ("CROSSRT_CACHE", "HOME", "XDG_CACHE_HOME", "SENTENCE_TRANSFORMERS_HOME", "HF_HOME", "HF_HUB_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9"} | ({} if home is None else {"HOME": home})
    program = """
from crossrt.engine.bundle import resolve
import huggingface_hub
def download(*_, cache_dir, **others):
    open("/etc/crossrt-test", "w")
huggingface_hub.snapshot_download = download
try:
    resolve.bundle_from_source("some/model")
except resolve.SourceError as error:
    print(error)
"""
    command = [*as_another_user, sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/", check=False)
    assert "cache_folder=, or set HF_HOME, to a folder that this user can write" in done.stdout, done.stderr
    assert ("this user has no home directory" in done.stdout) == (home is None)


def test_a_cache_that_is_a_file_is_named(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match=r"cannot be kept \(.*file/bundles: Not a directory\): give cache_folder="):
        bundle_from_source(str(checkpoint), cache_folder=tmp_path / "file")


def test_nothing_here_needs_what_windows_does_not_have() -> None:
    modules = ("store.preparation", "bundle.engine_cache", "bundle.resolve", "bundle.compiled", "cross_encoder")
    program = "import sys; sys.modules['fcntl'] = None\n" + "".join(
        f"import crossrt.engine.{name}\n" for name in modules
    )
    program += "import crossrt.evaluation.evaluate"
    subprocess.run([sys.executable, "-c", program], check=True)
