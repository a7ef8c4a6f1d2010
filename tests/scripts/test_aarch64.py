"""crossrt scores on aarch64 as it does here: the machine code of its kernels, and Python with all that it needs, in QEMU."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.kernels.instruction_sets import AARCH64, PROCESSOR_KINDS
from crossrt.engine.kernels.support import why_not_native
from tests.conftest import REPOSITORY

NEEDED = ("aarch64-linux-gnu-g++", "qemu-aarch64", "apt-get", "dpkg-deb")
MISSING = [name for name in NEEDED if shutil.which(name) is None]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed: see scripts/aarch64")
@pytest.mark.skipif(platform.machine() in AARCH64, reason="this machine is one: its own tests say more")
@pytest.mark.skipif(bool(why_not_native()), reason=why_not_native() or "they run")
def test_every_kind_for_aarch64_scores_the_demo_bundle_as_this_machine_does(demo_bundle: Path) -> None:
    """Fetches Debian's Python for aarch64, and wheels from the package index; KEEP=FOLDER keeps them."""
    child = subprocess.run(
        [REPOSITORY / "scripts/aarch64", demo_bundle],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stdout + child.stderr
    scored = set(re.findall(r"^(\w+) by (\w+) and \w+: \d+ logits", child.stdout, re.MULTILINE))
    models = Bundle.open(demo_bundle).manifest.models
    assert scored == {
        (precision, kind.name)
        for kind in PROCESSOR_KINDS
        if kind.machines == AARCH64
        for precision in kind.precisions
        if precision in models and models[precision].native_file
    }, child.stdout
