"""Builds a wheel for each platform, all on Linux: `scripts/wheels.py OUT [TAG...]`.

A wheel works with all versions of Python (`py3-none-PLATFORM`), since its libraries are loaded by ctypes and do not use Python's
API. Zig's C++ compiler, from the package ziglang, compiles them. It is Clang with the C and C++ libraries of every platform,
including old versions of glibc. The C++ library is linked into each file. engine/kernels/instruction_sets.py lists the kernels.
"""

import argparse
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KERNELS = Path("engine/kernels")
PROCESSOR_KINDS = runpy.run_path(str(ROOT / KERNELS / "instruction_sets.py"))["PROCESSOR_KINDS"]
FUNCTIONS = runpy.run_path(str(ROOT / "engine/native_functions.py"))["FUNCTIONS"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """The platform of a wheel.

    - `tag`: the last part of the wheel's name.
    - `machine`: what `platform.machine()` returns there.
    - `target`: Zig's name for the platform, with the oldest version of glibc or macOS.
    - `suffix`: the suffix of its libraries.
    - `system_libraries`: the system libraries that these may load. `*` stands for any characters.
    """

    tag: str
    machine: str
    target: str
    suffix: str
    system_libraries: tuple[str, ...]


LINUX = ("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "ld-linux*")
# The Universal C Runtime, which is part of Windows 10 and later.
WINDOWS = ("KERNEL32.dll", "ntdll.dll", "api-ms-win-crt-*")
PLATFORMS = (
    Platform(
        tag="manylinux_2_28_x86_64",
        machine="x86_64",
        target="x86_64-linux-gnu.2.28",
        suffix=".so",
        system_libraries=LINUX,
    ),
    Platform(
        tag="manylinux_2_28_aarch64",
        machine="aarch64",
        target="aarch64-linux-gnu.2.28",
        suffix=".so",
        system_libraries=LINUX,
    ),
    Platform(
        tag="macosx_11_0_arm64",
        machine="arm64",
        target="aarch64-macos.11.0",
        suffix=".dylib",
        system_libraries=("/usr/lib/libSystem.B.dylib",),
    ),
    Platform(
        tag="win_amd64",
        machine="AMD64",
        target="x86_64-windows-gnu",
        suffix=".dll",
        system_libraries=WINDOWS,
    ),
)


@dataclass(frozen=True, slots=True)
class Library:
    """A library of a wheel.

    - `name`: the name of the file without the suffix.
    - `interface`: the function that returns the version of its interface. `FUNCTIONS` has the other functions under this name.
    - `flags`: the compiler's flags for the instructions that the library may use.
    """

    name: str
    source: Path
    interface: str
    flags: tuple[str, ...] = ()


PLAIN = tuple(
    Library(f"native_{name}", KERNELS / "native" / f"{name}.cpp", f"crossrt_{name}_interface")
    for name in ("wordpiece", "processor")
)
"""The libraries that every platform has."""


def libraries(platform: Platform) -> list[Library]:
    """Return the libraries of a platform's wheel: the tokenizer, the processor's flags, and the kernels of its architecture."""
    kernels = (
        Library(kind.library, kind.source, "crossrt_interface", tuple(zig_flags(kind.compiler_flags)))
        for kind in PROCESSOR_KINDS
        if platform.machine in kind.machines
    )
    return [*PLAIN, *kernels]


def zig_flags(flags: Sequence[str]) -> Iterator[str]:
    """Translate GCC's flags for a processor into Zig's spelling.

    `-march=armv8.2-a+dotprod` becomes `-mcpu=generic+v8_2a+dotprod`. `-march=x86-64` is dropped, since it is Zig's default.
    """
    for flag in flags:
        if flag.startswith("-march=arm"):
            features = flag.removeprefix("-march=arm").replace("-", "").replace(".", "_").split("+")
            yield "-mcpu=generic+" + "+".join("neon" if name == "simd" else name for name in features)
        elif flag != "-march=x86-64":
            yield flag


def compile_library(platform: Platform, library: Library, folder: Path) -> Path:
    """Compile a library into `folder`. Raises CalledProcessError."""
    file = folder / f"{library.name}{platform.suffix}"
    subprocess.run(
        [
            *(sys.executable, "-m", "ziglang", "c++", "-target", platform.target, "-shared", "-fPIC", "-s"),
            *("-std=c++20", "-O3", "-g0", "-fno-math-errno", "-pthread", *library.flags),
            *(("-Wl,-install_name,@rpath/" + file.name,) if file.suffix == ".dylib" else ()),
            *("-o", file, ROOT / library.source),
        ],
        check=True,
        cwd=folder,  # the Windows linker leaves a file in the working directory
    )
    return file


def compile_all(platform: Platform, wanted: Sequence[Library], folder: Path) -> list[Path]:
    """Compile libraries into a new folder, as many at a time as there are processors, and check them."""
    folder.mkdir()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        compiled = list(pool.map(lambda library: compile_library(platform, library, folder), wanted))
    for library, file in zip(wanted, compiled, strict=True):
        check_library(platform, library, file)
    return compiled


def copied_sources(to: Path) -> Path:
    """Copy the checkout's files that git does not ignore, so that nothing else is packed. These include uncommitted files."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        # git also lists files that were removed without `git rm`, links to folders, and repositories inside the checkout.
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


def source_distribution(sources: Path, out: Path) -> Path:
    """Pack the sources. When pip installs them, it compiles the libraries if there is a compiler."""
    _run("build", "--sdist", "--no-isolation", "--outdir", out, sources)
    return next(out.glob("crossrt-*.tar.gz"))


def pure_wheel(sources: Path, out: Path) -> Path:
    """Build a wheel without libraries. setup.py only compiles these, so it is removed."""
    (sources / "setup.py").unlink()
    _run("build", "--wheel", "--no-isolation", "--outdir", out, sources)
    return next(out.glob("crossrt-*-py3-none-any.whl"))


def platform_wheel(platform: Platform, pure: Path, compiled: Sequence[Path], out: Path) -> Path:
    """Add a platform's libraries to a wheel without libraries, and return the new wheel in `out`."""
    with tempfile.TemporaryDirectory() as work:
        _run("wheel", "unpack", "--dest", work, pure)
        (content,) = Path(work).iterdir()
        for library in compiled:
            shutil.copy(library, content / "crossrt" / KERNELS)
        (described,) = content.glob("*.dist-info/WHEEL")
        text = described.read_text()
        text = text.replace("Root-Is-Purelib: true", "Root-Is-Purelib: false")
        described.write_text(text.replace("Tag: py3-none-any", f"Tag: py3-none-{platform.tag}"))
        _run("wheel", "pack", "--dest-dir", out, content)
    return next(out.glob(f"crossrt-*-py3-none-{platform.tag}.whl"))


def check_library(platform: Platform, library: Library, file: Path) -> None:
    """Check a compiled library without running it. Raises SystemExit.

    It must export the functions that ctypes calls, and load only libraries that every such system has. For macOS it must be
    signed.
    """
    import lief

    lief.logging.disable()  # it warns about what Zig leaves out of a Mach-O file
    binary = lief.parse(str(file))
    exported = {function.name.lstrip("_") for function in binary.exported_functions}
    missing = {library.interface, *FUNCTIONS[library.interface]} - exported
    if missing:
        others = sorted(exported)[:10]
        sys.exit(f"{file.name} for {platform.tag} does not export {', '.join(sorted(missing))}, but {others}")
    loaded = {each if isinstance(each, str) else each.name for each in binary.libraries}
    loaded -= {f"@rpath/{file.name}"}  # macOS lists the library's own name
    foreign = [name for name in loaded if not any(fnmatch(name, allowed) for allowed in platform.system_libraries)]
    if foreign:
        sys.exit(f"{file.name} for {platform.tag} loads {', '.join(sorted(foreign))}, which not every system has")
    if isinstance(binary, lief.MachO.Binary) and not binary.has_code_signature:
        sys.exit(f"{file.name} for {platform.tag} is not signed, so macOS on ARM would not load it")


def check_wheel(platform: Platform, wheel: Path) -> None:
    """Check with auditwheel that a wheel for Linux needs no newer glibc than its tag says. Raises SystemExit."""
    if "linux" not in platform.tag:
        return
    show = [sys.executable, "-m", "auditwheel", "show", "--json", "--disable-isa-ext-check", wheel]
    said = subprocess.run(show, capture_output=True, text=True, check=True).stdout
    needed = json.loads(said)["overall_tag"]
    if glibc(needed) > glibc(platform.tag):
        sys.exit(f"{wheel.name} needs {needed}, says auditwheel:\n{said}")


def glibc(tag: str) -> tuple[int, ...]:
    """Return the version of glibc in a tag such as `manylinux_2_28_x86_64`, or a very high one for a tag without a version."""
    found = re.match(r"manylinux_(\d+)_(\d+)_", tag)
    return tuple(map(int, found.groups())) if found else (99,)


def build(out: Path, platforms: Sequence[Platform]) -> list[Path]:
    """Build and check the wheels of `platforms` and the source distribution, and return them."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        sources = copied_sources(Path(work) / "sources")
        built = [source_distribution(sources, out)]
        pure = pure_wheel(sources, Path(work))
        for platform in platforms:
            compiled = compile_all(platform, libraries(platform), Path(work) / platform.tag)
            wheel = platform_wheel(platform, pure, compiled, out)
            check_wheel(platform, wheel)
            built.append(wheel)
    return built


def main() -> None:
    """Build the wheels that the command line names."""
    tags = [platform.tag for platform in PLATFORMS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("tags", nargs="*", metavar="TAG", help=f"of {', '.join(tags)}; without any, all of them")
    arguments = parser.parse_args()
    if strange := set(arguments.tags) - set(tags):
        parser.error(f"no platform {', '.join(sorted(strange))}: choose from {', '.join(tags)}")
    chosen = [platform for platform in PLATFORMS if not arguments.tags or platform.tag in arguments.tags]
    for file in build(arguments.out, chosen):
        print(f"{file.stat().st_size / 1e6:6.2f} MB  {file.name}")


def _run(module: str, *words: str | Path) -> None:
    done = subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"python -m {module} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main()
