"""A machine whose ceilings are measured in moments."""

import pytest

from crossrt.speed.ceiling import kernels


def make_small(monkeypatch: pytest.MonkeyPatch, *, seconds: float) -> None:
    """Measure ceilings on small matrices and a small array, in stretches of `seconds`."""
    monkeypatch.setattr(kernels, "SHAPES", ((256, 256, 256), (256, 128, 256)))
    monkeypatch.setattr(kernels, "read_bytes", lambda: 1 << 22)
    for module in ("bench", "ceiling.shares"):
        monkeypatch.setattr(f"crossrt.speed.{module}.SECONDS", seconds)
