"""A wheel is for all versions of Python and one platform, and holds the libraries of its architecture."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.kernels.instruction_sets import PROCESSOR_KINDS
from crossrt.engine.kernels.support import native_kind, why_not_native
from crossrt.engine.native_functions import FUNCTIONS
from tests.conftest import REPOSITORY

NEEDED = ("ziglang", "lief", "wheel", "build", "auditwheel")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
needs_zig = pytest.mark.skipif(
    bool(MISSING), reason=f"{', '.join(MISSING)} not installed: pip install crossrt[release]"
)


@pytest.fixture(scope="module")
def wheels(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("wheels")


def platform_of(wheels: ModuleType, tag: str) -> object:
    return next(platform for platform in wheels.PLATFORMS if platform.tag == tag)


def test_a_wheel_has_every_kind_of_its_architecture(wheels: ModuleType) -> None:
    for platform in wheels.PLATFORMS:
        names = [library.name for library in wheels.libraries(platform)]
        kinds = [kind.library for kind in PROCESSOR_KINDS if platform.machine in kind.machines]
        assert names == ["native_wordpiece", "native_processor", *kinds]
    assert kinds, "Windows on x86-64 has kernels"


def test_flags_of_gcc_are_spelled_as_zig_does(wheels: ModuleType) -> None:
    assert list(wheels.zig_flags(["-march=x86-64", "-mavx2", "-mamx-tile"])) == ["-mavx2", "-mamx-tile"]
    assert list(wheels.zig_flags(["-march=armv8-a+simd"])) == ["-mcpu=generic+v8a+neon"]
    assert list(wheels.zig_flags(["-march=armv8.2-a+dotprod+bf16"])) == ["-mcpu=generic+v8_2a+dotprod+bf16"]


def test_a_tag_says_which_glibc_suffices(wheels: ModuleType) -> None:
    tags = ["manylinux_2_5_x86_64", "manylinux_2_28_x86_64", "manylinux_2_34_x86_64", "linux_x86_64"]
    assert [wheels.glibc(tag) for tag in tags] == [(2, 5), (2, 28), (2, 34), (99,)]


def test_files_are_packed_that_git_does_not_ignore_and_no_folders(
    wheels: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link to a folder and a repository inside the checkout are left out."""
    checkout = tmp_path / "checkout"
    for repository in (checkout, checkout / "other"):
        subprocess.run(["git", "init", "--quiet", repository], check=True)
    for name in (".gitignore", "kept.py", "removed.py", "new.py", "ignored.so", "other/foreign.py"):
        (checkout / name).write_text("*.so\n")
    subprocess.run(["git", "add", ".gitignore", "kept.py", "removed.py"], cwd=checkout, check=True)
    (checkout / "removed.py").unlink()
    (checkout / ".venv").symlink_to(tmp_path)
    monkeypatch.setattr(wheels, "ROOT", checkout)
    copied = wheels.copied_sources(tmp_path / "copied")
    assert {path.name for path in copied.rglob("*")} == {".gitignore", "kept.py", "new.py"}


@needs_zig
def test_the_wheel_for_linux_on_x86_64_has_its_tag_and_libraries_that_load(
    wheels: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the two libraries that every platform has: the kernels take minutes to compile."""
    monkeypatch.setattr(wheels, "libraries", lambda platform: list(wheels.PLAIN))
    platform = platform_of(wheels, "manylinux_2_28_x86_64")
    source, wheel = wheels.build(tmp_path / "out", [platform])
    assert re.fullmatch(r"crossrt-[\d.]+\.tar\.gz", source.name)
    assert re.fullmatch(r"crossrt-[\d.]+-py3-none-manylinux_2_28_x86_64\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
        described = next(archive.read(name) for name in names if name.endswith(".dist-info/WHEEL")).decode()
        archive.extractall(tmp_path / "content")
    assert "Root-Is-Purelib: false\nTag: py3-none-manylinux_2_28_x86_64\n" in described
    libraries = {name for name in names if name.endswith(".so")}
    assert libraries == {f"crossrt/engine/kernels/native_{name}.so" for name in ("wordpiece", "processor")}
    assert {"crossrt/py.typed", "crossrt/engine/kernels/native/encoder.cu", "crossrt/server/api_page.html"} <= names
    assert not [name for name in names if "demo/checkpoint" in name]
    with tarfile.open(source) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.py", "demo/checkpoint/model.safetensors", "engine/kernels/native/isa/avx2.h"} <= packed
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"crossrt"}
    program = (
        "import crossrt.engine.text.wordpiece as wordpiece\n"
        "from crossrt.engine.hardware import cpus\n"
        "print(wordpiece._library()._name)\n"
        "print(*cpus._named_instructions() or ())\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path / "content",
        capture_output=True,
        text=True,
    )
    loaded, asked = child.stdout.splitlines()
    assert Path(loaded) == tmp_path / "content/crossrt/engine/kernels/native_wordpiece.so", child.stderr
    assert "fma" in asked.split() or "fma" not in Path("/proc/cpuinfo").read_text(encoding="utf-8")


@needs_zig
@pytest.mark.parametrize("tag", ["manylinux_2_28_x86_64", "manylinux_2_28_aarch64", "macosx_11_0_arm64", "win_amd64"])
def test_a_library_must_export_every_function_that_python_calls(wheels: ModuleType, tag: str, tmp_path: Path) -> None:
    """In the formats of Linux, macOS and Windows. The library has the names alone."""
    platform = platform_of(wheels, tag)
    for interface, functions in FUNCTIONS.items():
        names = [interface, *functions]
        for missing in (None, names[0], names[-1]):
            source = tmp_path / f"{interface}.cpp"
            # Without `extern "C"` the function has another name in the library.
            linkage = {name: "" if name == missing else 'extern "C" ' for name in names}
            source.write_text("".join(f"{linkage[name]}int {name}() {{ return 1; }}\n" for name in names))
            # Zig takes minutes to compile the C++ library for a platform, which these functions do not need.
            library = wheels.Library(f"native_{interface}", source, interface, ("-nostdlib++",))
            file = wheels.compile_library(platform, library, tmp_path)
            if missing is None:
                wheels.check_library(platform, library, file)
            else:
                with pytest.raises(SystemExit, match=f"for {tag} does not export {missing}, but"):
                    wheels.check_library(platform, library, file)


@needs_zig
def test_a_library_that_lacks_its_functions_or_loads_others_is_refused(wheels: ModuleType, tmp_path: Path) -> None:
    platform = platform_of(wheels, "manylinux_2_28_x86_64")
    compiled = wheels.compile_library(platform, wheels.PLAIN[1], tmp_path)
    wheels.check_library(platform, wheels.PLAIN[1], compiled)
    with pytest.raises(SystemExit, match="does not export crossrt_wordpiece_add, crossrt_wordpiece_add_token, "):
        wheels.check_library(platform, wheels.PLAIN[0], compiled)
    bound = tmp_path / "bound.so"
    subprocess.run(["patchelf", "--add-needed", "libstdc++.so.6", "--output", bound, compiled], check=True)
    with pytest.raises(SystemExit, match=r"loads libstdc\+\+\.so\.6, which not every system has"):
        wheels.check_library(platform, wheels.PLAIN[1], bound)


@needs_zig
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sysconfig.get_platform() != "linux-x86_64", reason="the wheel is for Linux on x86-64")
@pytest.mark.skipif(bool(why_not_native()), reason=why_not_native() or "they run")
def test_the_wheel_scores_the_demo_bundle_where_there_is_no_compiler(
    wheels: ModuleType, demo_bundle: Path, tmp_path: Path
) -> None:
    """In an empty environment. What crossrt needs besides comes from the package index, as wheels."""
    _, wheel = wheels.build(tmp_path / "out", [platform_of(wheels, "manylinux_2_28_x86_64")])
    venv.create(tmp_path / "environment", with_pip=True)
    python = tmp_path / "environment/bin/python"
    programs = tmp_path / "programs"
    programs.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PATH": str(programs)}

    def run(*words: str | Path) -> str:
        child = subprocess.run([python, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert child.returncode == 0, child.stdout + child.stderr
        return child.stdout

    run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", wheel)
    assert "onnxruntime" not in run("-m", "pip", "list")
    said = run(shutil.copy(REPOSITORY / "scripts/check_installed.py", tmp_path), demo_bundle)
    assert "tokenization: compiled" in said
    models = Bundle.open(demo_bundle).manifest.models
    scored = dict(re.findall(r"^(\w+): (native_\w+), \[", said, re.MULTILINE))
    assert scored.keys() == {name for name, model in models.items() if model.native_file}
    kind = native_kind()
    assert kind is not None
    assert scored["fp32"] == kind.library
