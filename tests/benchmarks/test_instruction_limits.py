"""Instructions that are hidden from a process, as `benchmarks/processors.py` hides them from other runtimes."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

# Prints which instructions the main thread and another see.
ASKS = r"""
#include <cpuid.h>
#include <pthread.h>
#include <stdio.h>
static void* ask(void* name) {
    unsigned a, b, c, d;
    __get_cpuid_count(7, 0, &a, &b, &c, &d);
    printf("\"%s\": {\"avx2\": %u, \"avx512f\": %u, \"avx512_vnni\": %u", (char*)name, b >> 5 & 1, b >> 16 & 1, c >> 11 & 1);
    __get_cpuid_count(7, 1, &a, &b, &c, &d);
    printf(", \"avx_vnni\": %u, \"avx512_bf16\": %u}", a >> 4 & 1, a >> 5 & 1);
    return 0;
}
int main(void) {
    pthread_t other;
    printf("{");
    ask("main");
    printf(", ");
    fflush(stdout);
    pthread_create(&other, 0, ask, "other");
    pthread_join(other, 0);
    printf("}");
}
"""


@pytest.fixture(scope="module")
def limits(load_benchmark: Any) -> Any:
    module = load_benchmark("instruction_limits")
    if not module.hides():
        pytest.skip("CPUID does not fault on this processor or system")
    return module


@pytest.fixture(scope="module")
def asks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asks")
    (folder / "asks.c").write_text(ASKS)
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-pthread", "-o", str(folder / "asks"), str(folder / "asks.c")], check=True)
    return folder / "asks"


def seen(asks: Path, environment: Mapping[str, str]) -> dict[str, dict[str, int]]:
    done = subprocess.run([asks], env={**os.environ, **environment}, check=True, capture_output=True, text=True)
    found: dict[str, dict[str, int]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("kind", ["avx2", "avx2_vnni", "avx512", "avx512_bf16"])
def test_all_threads_see_a_kind_s_instructions_and_no_further_ones(
    limits: Any, asks: Path, kind: str, tmp_path: Path
) -> None:
    whole, limited = seen(asks, {}), seen(asks, limits.limits(kind, tmp_path))
    assert whole["main"] == whole["other"]
    expected = {name: has and int(name == "avx2" or name in limits.SEEN[kind]) for name, has in whole["main"].items()}
    assert limited == {"main": expected, "other": expected}


def test_another_fault_ends_the_process(limits: Any, tmp_path: Path) -> None:
    environment = {**os.environ, **limits.limits("avx2", tmp_path)}
    done = subprocess.run([sys.executable, "-c", "import ctypes; ctypes.string_at(0)"], env=environment, check=False)
    assert done.returncode == -11


def test_without_faults_of_cpuid_only_settings_are_given(
    load_benchmark: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = load_benchmark("instruction_limits")
    monkeypatch.setattr(module, "hides", lambda: False)
    found = module.limits("avx2", tmp_path)
    assert found["ONEDNN_MAX_CPU_ISA"] == found["OV_CPU_MAX_ISA"] == "AVX2"
    assert "LD_PRELOAD" not in found
    assert not [*tmp_path.iterdir()]
