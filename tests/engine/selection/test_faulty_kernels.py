"""Where a library of the native kernels cannot be used, what comes next computes instead, with a warning."""

import itertools
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from crossrt import CrossEncoder
from crossrt.__main__ import app
from crossrt.engine import native_library as module
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.errors import BackendError
from crossrt.engine.files.cache import VARIABLE
from crossrt.engine.hardware.cpus import instructions
from crossrt.engine.kernels.encoder import WRONG_ARRAYS
from crossrt.engine.kernels.instruction_sets import PROCESSOR_KINDS, ProcessorKind
from crossrt.engine.kernels.support import INTERFACE
from crossrt.engine.native_functions import FUNCTIONS
from crossrt.engine.native_library import native_library
from crossrt.engine.runtime import autotune
from crossrt.engine.selection.select import choose_execution

pytestmark = [
    pytest.mark.processor,
    pytest.mark.skipif(platform.system() != "Linux", reason="other systems' loaders have other words"),
]


def damaged(file: Path) -> None:
    file.write_bytes(b"\x7fELF and nothing else")


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:20_000])


OTHER = "x86_64" if platform.machine() == "aarch64" else "aarch64"


def of_another_architecture(file: Path) -> None:
    content = bytearray(file.read_bytes())
    (number,) = (number for number, name in module.ELF_MACHINES.items() if name == OTHER)
    content[18:20] = number.to_bytes(2, "little")
    file.write_bytes(content)


def compiled(file: Path, code: str) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no g++ here, which compiles the library")
    source = file.with_suffix(".cpp")
    source.write_text(f'extern "C" {{ {code} }}')
    subprocess.run(["g++", "-shared", "-fPIC", source, "-o", file], check=True)


def of_another_interface(file: Path) -> None:
    compiled(file, "int crossrt_interface() { return 99; }")


def of_other_weights(file: Path) -> None:
    """It expects an array more or less of every model, and its interface's number was not raised."""
    others = (name for name in FUNCTIONS["crossrt_interface"] if name != "crossrt_open")
    code = f"int crossrt_interface() {{ return {INTERFACE}; }} int crossrt_open() {{ return {WRONG_ARRAYS}; }}"
    compiled(file, " ".join((code, *(f"void {name}() {{}}" for name in others))))


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "damaged": (damaged, "cannot be loaded (file too short)"),
    "cut off": (cut_off, "cannot be loaded (it is shorter than its header says)"),
    "of another architecture": (
        of_another_architecture,
        f"cannot be loaded (it is for {OTHER}, and this is {platform.machine()})",
    ),
    "of another interface": (
        of_another_interface,
        f"was compiled for another version of crossrt (interface 99, expected {INTERFACE})",
    ),
    "of other weights": (of_other_weights, "was compiled for another version of crossrt (it expects other weights)"),
}
"""What happened to a library, and what is said of it."""


@pytest.fixture
def kinds() -> list[ProcessorKind]:
    """The kinds that can compute FP32 here, the fastest first."""
    return [
        kind
        for kind in PROCESSOR_KINDS
        if kind.tried
        and platform.machine() in kind.machines
        and {*kind.instructions} <= instructions()
        and native_library(kind.library)
    ]


Break = Callable[[list[ProcessorKind], str], list[str]]


@pytest.fixture
def break_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Break:
    """Return a function that breaks the libraries of some kinds, and returns what is to be said of each.

    Each call has new copies of all libraries, because the system's loader keeps what it has loaded from a path.
    """
    folders = itertools.count()
    originals = [*module.FOLDER.glob("native_*.so")]

    def copy_and_break(kinds: list[ProcessorKind], fault: str) -> list[str]:
        folder = tmp_path / f"kernels{next(folders)}"
        folder.mkdir()
        for file in originals:
            shutil.copy(file, folder)
        monkeypatch.setattr(module, "FOLDER", folder)
        change, words = FAULTS[fault]
        said = []
        for kind in kinds:
            library = native_library(kind.library)
            assert library is not None
            change(library)
            said.append(f"{library} {words}; install crossrt again")
        return said

    return copy_and_break


@pytest.mark.parametrize("fault", FAULTS)
def test_the_next_kind_computes_and_after_the_last_the_next_backend(
    fault: str,
    native_bundle: Path,
    kinds: list[ProcessorKind],
    break_kernels: Break,
    loaded_kernels: list[str],
    pairs: list[tuple[str, str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with CrossEncoder(native_bundle, device="cpu", backend="onnxruntime") as model:
        expected = model.predict(pairs)
    for count in range(1, len(kinds) + 1):
        said = break_kernels(kinds[:count], fault)
        following = kinds[count] if count < len(kinds) else None
        caplog.clear()
        with CrossEncoder(native_bundle, device="cpu") as model:
            assert model.backend == ("native" if following else "onnxruntime")
            np.testing.assert_allclose(model.predict(pairs), expected, atol=1e-4)
        instead = f"the kernels for {following.name}" if following else "onnxruntime"
        assert caplog.messages == [f"{each}. fp32 is computed by {instead} instead" for each in said]
    assert loaded_kernels == [kind.library for kind in kinds[1:]]


def test_asking_for_the_native_kernels_takes_the_next_kind_and_without_one_is_an_error(
    native_bundle: Path,
    kinds: list[ProcessorKind],
    break_kernels: Break,
    loaded_kernels: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    *first, last = kinds
    said = break_kernels(first, "cut off")
    CrossEncoder(native_bundle, device="cpu", backend="native").close()
    assert loaded_kernels == [last.library]
    assert caplog.messages == [f"{each}. fp32 is computed by the kernels for {last.name} instead" for each in said]
    said = break_kernels(kinds, "cut off")
    words = f"native cannot run here in fp32: {re.escape(said[0])}; use another backend"
    with pytest.raises(BackendError, match=words):
        CrossEncoder(native_bundle, device="cpu", backend="native")


def test_asking_for_another_backend_warns_of_nothing(
    native_bundle: Path, kinds: list[ProcessorKind], break_kernels: Break, caplog: pytest.LogCaptureFixture
) -> None:
    break_kernels(kinds, "cut off")
    CrossEncoder(native_bundle, device="cpu", backend="onnxruntime").close()
    assert not caplog.messages


@pytest.mark.parametrize("command", ["tune", "info"])
def test_commands_that_say_what_runs_here_warn_in_the_same_words(
    command: str,
    native_bundle: Path,
    kinds: list[ProcessorKind],
    break_kernels: Break,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(autotune, "ROUNDS", 1)
    said = break_kernels(kinds[:1], "cut off")
    done = CliRunner().invoke(app, [command, str(native_bundle), "--threads", "1"])
    assert done.exit_code == 0, done.output
    instead = f"the kernels for {kinds[1].name}" if len(kinds) > 1 else "onnxruntime"
    assert caplog.messages == [f"{each}. fp32 is computed by {instead} instead" for each in said]


def test_where_no_other_backend_is_installed_the_error_names_the_library(
    native_bundle: Path, kinds: list[ProcessorKind], break_kernels: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = break_kernels(kinds, "cut off")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendError, match=f"is not installed.*native cannot run here in fp32: {re.escape(said[0])}"):
        CrossEncoder(native_bundle, device="cpu")


def test_int8_of_7_bits_takes_the_place_of_8_bits_only_where_it_was_judged(
    native_bundle: Path, kinds: list[ProcessorKind], break_kernels: Break
) -> None:
    exact = [kind for kind in kinds if kind.int8 == "exact"]
    if len(exact) == len(kinds) or not exact:
        pytest.skip("this processor does not have both kinds of INT8")
    said = break_kernels(exact, "cut off")
    bundle = Bundle.open(native_bundle)
    model = replace(bundle.manifest.models["fp32"], native_file="model.int8.native")

    def chosen(backend: str = "auto", **judged: bool) -> str:
        models = {**bundle.manifest.models, "int8": replace(model, backends={"onnxruntime": True, **judged})}
        changed = replace(bundle, manifest=replace(bundle.manifest, models=models))
        return choose_execution(changed, precision="int8", device="cpu", backend=backend, tuned=False).backend

    assert chosen(native=True, native_narrow=True) == "native"
    assert chosen(native=True) == "onnxruntime"
    with pytest.raises(BackendError, match=re.escape(said[0])):
        chosen("native", native=True)
