"""A bundle opens when its files are complete; otherwise the error names the file."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossrt import Bundle, CrossEncoder
from crossrt.engine.bundle.manifest import MANIFEST, Manifest
from crossrt.engine.errors import BundleError
from crossrt.engine.files import publish
from crossrt.engine.files.publish import published_directory, published_file
from crossrt.engine.precision import Precision
from crossrt.engine.text.tokenizer import explained
from crossrt.engine.text.wordpiece import WordPiece


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    fields = json.loads((path / MANIFEST).read_text())
    change(fields)
    (path / MANIFEST).write_text(json.dumps(fields))


def test_a_manifest_survives_its_own_json(bundle: Path) -> None:
    manifest = Bundle.open(bundle, verify=True).manifest
    assert Manifest.from_json(manifest.to_json(), where=bundle) == manifest
    there = {file.relative_to(bundle).as_posix() for file in bundle.rglob("*") if file.is_file()}
    assert {file.name for file in manifest.files} == there - {MANIFEST}


def test_no_bundle_holds_a_pickle(bundle: Path) -> None:
    for file in (path for path in bundle.rglob("*") if path.is_file()):
        assert file.suffix in (".json", ".onnx")
        assert not file.read_bytes().startswith((b"\x80", b"PK"))


def test_a_missing_or_truncated_file_is_named_on_opening(copied: Path) -> None:
    model = copied / "onnx/model.onnx"
    whole = model.read_bytes()
    model.write_bytes(whole[:-1])
    with pytest.raises(BundleError, match=r"onnx/model\.onnx is damaged: .* bytes where the manifest says"):
        Bundle.open(copied)
    model.unlink()
    with pytest.raises(BundleError, match=r"onnx/model\.onnx is missing"):
        CrossEncoder(copied)


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_a_checkpoint_is_told_from_an_empty_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=f"Make one with: crossrt export CHECKPOINT {tmp_path}"):
        Bundle.open(tmp_path)
    (tmp_path / name).write_text("{}")
    with pytest.raises(BundleError, match=f"Make one with: crossrt export {tmp_path} OUT"):
        Bundle.open(tmp_path)


def test_an_altered_file_of_the_same_size_is_found_by_verifying(copied: Path) -> None:
    model = copied / "onnx/model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    Bundle.open(copied)
    with pytest.raises(BundleError, match=r"onnx/model\.onnx was altered"):
        Bundle.open(copied, verify=True)


def test_an_unreadable_file_is_named(copied: Path) -> None:
    (copied / "tokenizer.json").unlink()
    (copied / "tokenizer.json").symlink_to("tokenizer.json")  # a loop, which even root cannot open
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be read"):
        Bundle.open(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields.update(schema=99), "schema 99, and this crossrt reads up to 3"),
        (lambda fields: fields.pop("schema"), "no schema number"),
        (lambda fields: fields.pop("labels"), "does not have the fields"),
        (lambda fields: fields.update(surprise=1), "does not have the fields"),
        (lambda fields: fields["files"][0].update(name="../../etc/passwd"), "at its top or in its folder onnx"),
        (lambda fields: fields["models"]["fp32"].update(file="other.onnx"), r"names other\.onnx for fp32"),
        (lambda fields: fields["models"]["fp32"].update(gpu_file="g.onnx"), r"names g\.onnx for fp32"),
        (lambda fields: fields["models"].update(fp7=fields["models"]["fp32"]), "unknown precision 'fp7'"),
        (lambda fields: fields.update(relevant_label=1), "relevant_label is 1, expected 0 to 0"),
        (lambda fields: fields.update(labels="one"), 'labels is "one", expected a whole number'),
        (lambda fields: fields.update(labels=True), "labels is true, expected a whole number"),
        (lambda fields: fields.update(labels=10**15), "labels is 1000000000000000, expected 1 to"),
        (lambda fields: fields.update(max_length=65), "max_length is 65, expected 1 to 64"),
        (lambda fields: fields.update(max_length=0), "max_length is 0"),
        (lambda fields: fields.update(max_positions=2**40), "max_positions is"),
        (lambda fields: fields.update(pad_token_id=-1), "pad_token_id is -1"),
        (lambda fields: fields.update(activation="eval"), "activation 'eval' is none of identity"),
        (lambda fields: fields.update(source=[]), "source is a list of 0, expected an object"),
        (lambda fields: fields.update(models=[]), "models is a list of 0, expected an object"),
        (lambda fields: fields["models"]["fp32"].update(parity="passed"), r'models\[.fp32.\]\.parity is "passed"'),
        (lambda fields: fields["models"]["fp32"].update(backends={"native": 1}), "backends.* is 1, expected true"),
        (lambda fields: fields["files"][0].update(size="5"), r'files\[0\]\.size is "5", expected a whole number'),
        (lambda fields: fields["files"][0].update(name="a\0b"), "at its top or in its folder onnx"),
        (lambda fields: fields.update(files=[]), r"does not list tokenizer\.json"),
        (lambda fields: fields.update(schema=True), "no schema number"),
        (lambda fields: fields.update(tools={"python": 3}), "tools.* is 3, expected a text"),
        (lambda fields: fields.update(truncation_side="top"), 'truncation_side is "top", expected right or left'),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_in_words(copied: Path, change: Any, message: str) -> None:
    edit(copied, change)
    with pytest.raises(BundleError, match=message):
        Bundle.open(copied)


ENGINE = {
    "file": "e.engine",
    "precision": "fp32",
    "library": "tensorrt",
    "version": "9" * 5000,
    "gpu": "A GPU",
    "capability": "9.0",
    "profiles": [{"min": [1, 1], "opt": [1, 2], "max": [1, 4]}],
    "onnx_sha256": "0",
    "build_seconds": 1,
    "options": {},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"library": "antigravity"}, "is of 'antigravity', which is none of tensorrt, tensorrt_rtx"),
        ({"profiles": [{"min": [1, 1], "opt": [1, 2], "max": [1]}]}, r"profiles\[0\]\.max is a list of 1"),
        ({"profiles": [{"min": [2, 1], "opt": [1, 2], "max": [1, 4]}]}, "rows contradict each other"),
        ({"build_seconds": "1"}, r"build_seconds is"),
        ({}, r"names? the engine|has the engine e\.engine but does not list"),
    ],
)
def test_an_engine_that_is_wrong_is_refused_in_words(copied: Path, change: dict[str, Any], message: str) -> None:
    edit(copied, lambda fields: fields.update(engines=[ENGINE | change]))
    with pytest.raises(BundleError, match=message):
        Bundle.open(copied)


def test_a_file_that_the_manifest_does_not_list_is_named(bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json does not list model\.fp7\.onnx"):
        Bundle.open(bundle).sha256("model.fp7.onnx")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "onnx/",
        "onnx/..",
        "onnx/../tokenizer.json",
        "onnx/onnx/model.onnx",
        "/etc/passwd",
        "other/model.onnx",
        "onnx\\..\\x",
        "C:model.onnx",
        "a\0b",
        MANIFEST,
    ],
)
def test_a_file_name_that_may_lead_out_of_the_bundle_is_refused(copied: Path, name: str) -> None:
    edit(copied, lambda fields: fields["files"][0].update(name=name))
    with pytest.raises(BundleError, match="at its top or in its folder onnx"):
        Bundle.open(copied)


def test_a_bundle_without_fp32_says_what_it_holds_and_auto_opens_it(copied: Path) -> None:
    edit(copied, lambda fields: fields.update(models={"fp16": fields["models"]["fp32"]}))
    for precision in (None, "fp32"):
        with pytest.raises(BundleError, match=r"holds no fp32 model; it holds fp16\..*precision='fp16'"):
            CrossEncoder(copied, precision=precision)
    with CrossEncoder(copied, precision="auto") as model:
        assert model.precision is Precision.FP16


def test_a_bundle_from_before_files_for_gpus_opens_as_it_did(copied: Path) -> None:
    edit(copied, lambda fields: fields["models"]["fp32"].pop("gpu_file"))
    opened = Bundle.open(copied)
    assert opened.model_file(Precision.FP32, gpu=True) == opened.model_file(Precision.FP32)


def test_what_is_no_manifest_is_refused(copied: Path, tmp_path: Path) -> None:
    for content in (b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"schema":' + b"1" * 5000, b"NaN"):
        (copied / MANIFEST).write_bytes(content)
        with pytest.raises(BundleError, match=MANIFEST):
            Bundle.open(copied)
    with pytest.raises(BundleError, match="is not a bundle: it has no manifest"):
        Bundle.open(tmp_path / "nothing")
    with pytest.raises(BundleError, match=f"{MANIFEST} is a file, and a bundle is a directory"):
        Bundle.open(copied / MANIFEST)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_manifest_with_any_byte_changed_opens_or_raises_a_bundle_error(
    bundle: Path, tmp_path: Path, position: int, value: int
) -> None:
    data = bytearray((bundle / MANIFEST).read_bytes())
    data[position % len(data)] = value
    if not (tmp_path / MANIFEST).exists():
        shutil.copytree(bundle, tmp_path, copy_function=os.link, dirs_exist_ok=True)
    (tmp_path / MANIFEST).unlink()
    (tmp_path / MANIFEST).write_bytes(data)
    with contextlib.suppress(BundleError):  # any other exception fails the test
        Bundle.open(tmp_path)


def test_a_model_file_that_is_no_model_is_named(copied: Path) -> None:
    size = (copied / "onnx/model.onnx").stat().st_size
    (copied / "onnx/model.onnx").write_bytes(b"\0" * size)
    with pytest.raises(BundleError, match=r"onnx/model\.onnx cannot be opened by ONNX Runtime"):
        CrossEncoder(copied)


def test_a_tokenizer_that_is_no_tokenizer_is_named(copied: Path) -> None:
    size = (copied / "tokenizer.json").stat().st_size
    (copied / "tokenizer.json").write_text("{}".ljust(size))
    with pytest.raises(BundleError, match=r"tokenizer\.json is not a tokenizer"):
        CrossEncoder(copied)


def written(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a bundle's tokenizer, and its size in the manifest."""
    file = path / "tokenizer.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    change(fields)
    file.write_text(json.dumps(fields, separators=(",", ":")), encoding="utf-8")

    def resize(manifest: dict[str, Any]) -> None:
        (entry,) = (each for each in manifest["files"] if each["name"] == file.name)
        entry["size"] = file.stat().st_size

    edit(path, resize)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields["model"]["vocab"].update(far=4_294_967_294), "token id 4294967294, and 16777215 is the"),
        (lambda fields: fields["model"]["vocab"].update(late=5_000), "has the token id 5000, and the model has"),
        (
            lambda fields: fields["post_processor"]["special_tokens"]["[CLS]"].update(ids=[9_999]),
            "has the token id 9999, and the model has",
        ),
        (
            lambda fields: fields["post_processor"]["special_tokens"]["[CLS]"].update(ids=[4_294_967_294]),
            "token id 4294967294, and 16777215 is the",
        ),
        (
            lambda fields: fields["post_processor"]["pair"][-1]["SpecialToken"].update(type_id=2),
            "has the token type 2, and the model has 2",
        ),
        (
            lambda fields: fields["post_processor"]["pair"][-1]["SpecialToken"].update(type_id=256),
            "it gives the token type 256",
        ),
    ],
)
def test_a_tokenizer_that_is_not_the_models_is_refused_when_opened(copied: Path, change: Any, message: str) -> None:
    written(copied, change)
    with pytest.raises(BundleError, match=message):
        CrossEncoder(copied)


class PanicException(BaseException):  # like the exception of a Rust panic, which is not an Exception
    pass


def test_a_panic_while_tokenizing_ends_in_words(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(*_: object) -> None:
        raise PanicException("index out of bounds")

    with CrossEncoder(bundle, backend="onnxruntime") as model:
        monkeypatch.setattr(WordPiece, "tokens", panic)
        with pytest.raises(
            BundleError, match=r"tokenizer\.json is not a tokenizer that can be used \(index out of bounds"
        ):
            model.predict([("a", "b")])


def test_an_interrupt_while_tokenizing_stays_one() -> None:
    with pytest.raises(KeyboardInterrupt), explained("x"):
        raise KeyboardInterrupt


def test_a_precision_that_the_bundle_lacks_is_named(bundle: Path) -> None:
    with pytest.raises(BundleError, match="holds no int8 model; it holds fp32"):
        CrossEncoder(bundle, precision="int8")


def test_a_model_that_failed_its_parity_check_is_not_run(copied: Path) -> None:
    edit(copied, lambda fields: fields["models"]["fp32"]["parity"].update(passed=False))
    with pytest.raises(BundleError, match=r"failed its check: parity\.fp32\.json says why"):
        CrossEncoder(copied, precision="fp32")


def test_a_directory_is_published_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(RuntimeError, match="half way"), published_directory(target) as partial:
        (partial / "manifest.json").write_text("half")
        raise RuntimeError("half way")
    assert list(tmp_path.iterdir()) == []
    with published_directory(target) as partial:
        (partial / "manifest.json").write_text("whole")
        assert not target.exists()
    assert (target / "manifest.json").read_text() == "whole"
    with pytest.raises(RuntimeError), published_directory(target, force=True) as partial:
        raise RuntimeError
    assert (target / "manifest.json").read_text() == "whole"


@pytest.mark.parametrize("exchange", [True, False])
def test_a_forced_replacement_leaves_the_new_directory_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(publish, "_exchanged", lambda one, other: False)
    target = tmp_path / "out"
    for content in ("old", "new"):
        with published_directory(target, force=True) as partial:
            (partial / "manifest.json").write_text(content)
    assert (target / "manifest.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_is_published_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "run.trec"
    target.write_text("old")
    with pytest.raises(RuntimeError), published_file(target) as file:
        file.write("half")
        raise RuntimeError
    assert target.read_text() == "old"
    with published_file(target) as file:
        file.write("new")
    assert target.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["run.trec"]
