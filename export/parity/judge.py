"""`ParityJudge`: compares the models of one export with their checkpoint in PyTorch."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import onnx

from ...calibration.judge import Judge
from ...calibration.judging_set import JudgingSet
from ...engine.backends.registry import ONNX_BACKENDS
from ...engine.bundle.bundle import Bundle
from ...engine.bundle.manifest import ONNX_FILES, TOKENIZER, BundleModel
from ...engine.cross_encoder import CrossEncoder
from ...engine.precision import Precision
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.reference import Expected, Reference
from ..graph.writer import save
from .parity import judge_of, parity
from .report import ParityReport

DEFAULT_BACKEND = ONNX_BACKENDS[0]
"""The default backend. Its report is the main report of a precision."""


class ParityJudge:
    """Compares models with a checkpoint, always on the same pairs and lists.

    PyTorch scores the pairs and the lists once, at the first comparison. Each comparison opens the runtime once, on the CPU. The
    scores of `pairs` are compared one by one. The lists of `judging`, if given, are ranked.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        pairs: Sequence[tuple[str, str]],
        judging: JudgingSet | None,
        *,
        progress: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self.pairs = pairs
        self.judging = judging
        self.progress = progress

    def report(
        self, bundle: Bundle, precision: Precision, *, backend: str = DEFAULT_BACKEND, ranked: bool = True
    ) -> ParityReport:
        """Compare a model of a bundle, computed by a backend, with PyTorch. Without `ranked` the judging set is skipped."""
        expected, judge = self._reference
        with CrossEncoder(bundle, precision=precision, backend=backend, device="cpu", allow_failed=True) as model:
            return parity(
                model,
                self.checkpoint,
                self.pairs,
                expected=expected,
                judge=judge if ranked else None,
                progress=self.progress,
            )

    def report_of_graph(self, graph: onnx.ModelProto, bundle: Bundle, precision: Precision, how: str) -> ParityReport:
        """Compare a graph that is not in the bundle, using the bundle's tokenizer and settings.

        `how` describes the graph in words and is appended to the report's backend.
        """
        model = BundleModel(file=ONNX_FILES[precision.value])
        with tempfile.TemporaryDirectory() as directory:
            shutil.copy(bundle.path / TOKENIZER, directory)
            save(graph, Path(directory) / model.file)
            del graph  # so that its weights take no memory while the file is computed
            manifest = replace(bundle.manifest, models={precision.value: model}, files=())
            report = self.report(Bundle(Path(directory), manifest), precision)
        return replace(report, backend=f"{report.backend}, {how}")

    @cached_property
    def _reference(self) -> tuple[Expected, Judge | None]:
        """PyTorch's scores of the pairs, and the judging set with PyTorch's scores. The PyTorch model is freed afterwards."""
        reference = Reference(self.checkpoint)
        expected = reference.expected(self.pairs, max_length=self.checkpoint.max_length, progress=self.progress)
        if self.judging is None:
            return expected, None
        return expected, judge_of(self.checkpoint, self.judging, reference=reference, progress=self.progress)
