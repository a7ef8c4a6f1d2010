"""A bundle that runs on a lesser processor than it was exported on, as when a container moves to another host."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crossrt import CrossEncoder
from crossrt.engine.hardware.cpus import instructions
from tests import processors


@pytest.mark.skipif(not processors.DESCRIBED.exists(), reason="only Linux describes its processors in a file")
def test_fp32_has_the_same_scores_there(
    bundle: Path, pairs: list[tuple[str, str]], see_processor: Callable[[str], None]
) -> None:
    with CrossEncoder(bundle, device="cpu") as model:
        before = model.predict(pairs)
    for kind in (kind for kind in processors.KINDS if not processors.lacking(kind)):
        see_processor(kind)
        optional = {name for name in instructions() if processors.OPTIONAL.fullmatch(name)}
        assert optional == processors.KINDS[kind].flags, "no other processor is seen"
        with CrossEncoder(bundle, device="cpu") as model:
            np.testing.assert_allclose(model.predict(pairs), before, atol=1e-4, err_msg=kind)
