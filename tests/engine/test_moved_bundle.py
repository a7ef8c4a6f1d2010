"""A bundle that runs on a lesser processor than it was exported on, as when a container moves to another host."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crossrt import CrossEncoder
from crossrt.engine.hardware.cpus import instructions
from tests import processors

pytestmark = pytest.mark.skipif(not processors.X86, reason="the kinds of processor are those of x86-64 on Linux")


def test_fp32_has_the_same_scores_there(
    native_bundle: Path, pairs: list[tuple[str, str]], see_processor: Callable[[str], None], loaded_kernels: list[str]
) -> None:
    with CrossEncoder(native_bundle, device="cpu", backend="onnxruntime") as model:
        expected = model.predict(pairs)
    for kind in (kind for kind in processors.KINDS.values() if not processors.lacking(kind.name)):
        see_processor(kind.name)
        optional = {name for name in instructions() if processors.OPTIONAL.fullmatch(name)}
        assert optional == kind.flags, "no other processor is seen"
        loaded_kernels.clear()
        with CrossEncoder(native_bundle, device="cpu") as model:
            assert model.backend == ("native" if kind.fp32 else "onnxruntime")
            assert loaded_kernels == ([f"native_{kind.fp32}"] if kind.fp32 else [])
            np.testing.assert_allclose(model.predict(pairs), expected, atol=1e-4, err_msg=kind.name)
