"""A bundle on a real GPU, with any backend that can run it: `pytest tests/gpu -m gpu --gpu-bundle BUNDLE`."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrt.engine.cross_encoder import CrossEncoder
from crossrt.engine.cuda.bindings import open_cuda
from crossrt.engine.errors import BackendError
from crossrt.engine.hardware.gpus import gpus

pytestmark = pytest.mark.gpu

PAIRS = [("play chess", "a chess program " * repeats) for repeats in range(1, 30)]


@pytest.fixture
def opened(pytestconfig: pytest.Config) -> Callable[[], CrossEncoder]:
    """Return a function that opens the bundle on the GPU; skip, with the reason, where nothing can run it."""
    bundle: Path | None = pytestconfig.option.gpu_bundle
    if bundle is None or not gpus():
        pytest.skip("no bundle: give --gpu-bundle" if gpus() else "no GPU: there is no NVIDIA driver here")

    def open_one() -> CrossEncoder:
        backend = pytestconfig.option.gpu_backend
        return CrossEncoder(bundle, device="cuda", precision="auto", backend=backend, trust_engines=True)

    try:
        open_one().close()
    except BackendError as error:
        pytest.skip(str(error))
    return open_one


def test_the_device_gets_its_memory_back(opened: Callable[[], CrossEncoder]) -> None:
    cuda = open_cuda(0)  # holds the context, which has memory of its own
    free = []
    for _ in range(100):
        with opened() as model:
            model.logits(PAIRS)
        with cuda.current():
            free.append(cuda.memory()[0])
    cuda.close()
    assert free[0] - free[-1] <= 1 << 20


def test_threads_share_a_model_and_scores_stay_the_same(opened: Callable[[], CrossEncoder]) -> None:
    with opened() as model:
        expected, found = model.logits(PAIRS), {}

        def score(number: int) -> None:
            found[number] = [model.logits(PAIRS[number:]) for _ in range(20)]

        threads = [threading.Thread(target=score, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number, scores in found.items():
        for each in scores:
            np.testing.assert_allclose(each, expected[number:], atol=0.03)
    assert len(found) == 4


def test_torch_goes_on_beside_it(opened: Callable[[], CrossEncoder]) -> None:
    torch: Any = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    ours = torch.arange(1 << 20, device="cuda", dtype=torch.float32)
    with opened() as model:
        before = model.logits(PAIRS)
        assert (ours * 2).sum().item() == pytest.approx(float((1 << 20) * ((1 << 20) - 1)), rel=1e-6)
        np.testing.assert_allclose(model.logits(PAIRS), before, atol=0.03)
    assert (ours + 1).max().item() == 1 << 20, "closing it has left the context alone"
