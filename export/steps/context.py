"""`ExportContext`: what the steps of one export share."""

from dataclasses import dataclass, field

from ...calibration.calibration_set import CalibrationSet
from ...calibration.recipe import Recipe
from ...engine.precision import Precision
from ...engine.text.pair_tokenizer import PairTokenizer
from ..bundle.builder import BundleBuilder
from ..checkpoint.checkpoint import Checkpoint
from ..parity.judge import ParityJudge
from ..parity.report import ParityReport
from ..precision.fp16 import Fp16Choice
from ..precision.int8_result import Int8Result


@dataclass(slots=True, kw_only=True)
class ExportContext:
    """What the steps of one export share: its inputs, and the results that earlier steps leave for later ones.

    `passed` has the names of the steps whose artefacts passed. The step `fp16` sets `fp16`. The step `int8` sets `int8` and
    `int8_reports`, the reports by backend.
    """

    checkpoint: Checkpoint
    exporter: str
    precisions: tuple[Precision, ...]
    tokenizer: PairTokenizer
    builder: BundleBuilder
    judge: ParityJudge
    calibration: CalibrationSet | None
    recipe: Recipe
    progress: bool
    passed: set[str] = field(default_factory=set)
    fp16: Fp16Choice | None = None
    int8: Int8Result | None = None
    int8_reports: dict[str, ParityReport] = field(default_factory=dict)
