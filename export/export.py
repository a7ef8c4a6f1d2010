"""`export_bundle`: a checkpoint becomes a bundle, and nothing that fails parity is published."""

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from ..calibration.calibration_set import CalibrationSet
from ..calibration.judging_set import JudgingSet
from ..calibration.ranking import Judge
from ..calibration.recipe import Recipe
from ..calibration.tensor_stats import TensorStats
from ..engine.backends.registry import ONNX_BACKENDS, installed_backends
from ..engine.bundle.bundle import Bundle
from ..engine.bundle.manifest import ONNX_FILES, TOKENIZER, BundleModel, Manifest
from ..engine.cross_encoder import CrossEncoder
from ..engine.errors import OptionError, ParityError
from ..engine.files.publish import check_target, published_directory
from ..engine.kernels.support import why_not_native
from ..engine.labels import need_label
from ..engine.precision import Precision
from ..engine.text.pair_tokenizer import PairTokenizer, without_truncation_and_padding
from .bundle.hub_files import write_hub_files
from .bundle.manifest import tool_versions, write_manifest
from .checkpoint.checkpoint import Checkpoint
from .checkpoint.reference import Expected, Reference, completed_config, special_tokens_of, tokenizer_of
from .graph.numerics import Numerics
from .graph.writer import ONNX_RUNTIME, OPSET, graph_of, onnx_from_checkpoint, save
from .parity.pairs import builtin_pairs
from .parity.parity import ParityReport, judge_of, parity
from .precision.fp16 import batches_of, half_precision, rounded, rounded_where_stored
from .precision.int8 import eight_bit
from .precision.native_weights import can_be_native, native_from_checkpoint
from .precision.picture import can_draw, draw
from .precision.tolerance import TOLERANCE

logger = logging.getLogger("crossrt")

FIRST = ONNX_BACKENDS[0]
"""Whose report speaks for a precision."""
EXPORTERS = ("crossrt", "optimum")
PRECISIONS = (Precision.FP32, Precision.BF16, Precision.FP16, Precision.INT8)
FP16_FUSED = "model.fp16.fused.onnx"
INT8_FOR_GPUS = "model.int8.gpu.onnx"
FP32_FOR_NATIVE = "model.fp32.native"
FP16_FOR_NATIVE = "model.fp16.native"
INT8_FOR_NATIVE = "model.int8.native"
BF16_FOR_NATIVE = "model.bf16.native"
MAGNITUDE_PAIRS = 200
"""Calibration pairs on which FP16's tensors are looked at, besides the built-in ones."""
CALIBRATION_PAIRS = 2000
"""The most that INT8's ranges are chosen on; more changes little and takes longer."""

Pairs = Sequence[tuple[str, str]]


def export_bundle(
    checkpoint: Checkpoint,
    out: Path,
    *,
    source_id: str | None = None,
    revision: str | None = None,
    activation: str | None = None,
    relevant_label: int | str | None = None,
    exporter: str = "crossrt",
    precisions: Sequence[Precision] = (Precision.FP32,),
    pairs: Pairs | None = None,
    calibration: CalibrationSet | None = None,
    judging: JudgingSet | None = None,
    recipe: Recipe | None = None,
    keep_going: bool = False,
    force: bool = False,
    progress: bool = False,
) -> tuple[Bundle, tuple[ParityReport, ...]]:
    """Export a checkpoint, check each precision against PyTorch, and publish them as a bundle at `out`.

    FP32 is always among them, since the others are judged beside it. `activation` names the one that the caller chose
    over the checkpoint's own. `relevant_label`, an index or a name, is the label to rank by instead of the checkpoint's own
    choice; a model with more than two has none unless it is given.

    `pairs` are checked besides the built-in ones; `calibration` are the pairs on which the
    other precisions decide what they can hold, the built-in ones for INT8 unless given. Every precision is judged on
    `judging`, or else, for INT8, on lists pooled from the calibration pairs; pairs of judged queries are left out of
    calibration. INT8 follows `recipe`; where FP16 is wanted too, a second INT8 file for GPUs has its rest in FP16. Such further
    files have reports of their own: FP32 and INT8 for the native kernels, where they run here, and FP16 in ONNX Runtime's
    fused operators; these are left out where they fail.

    An existing bundle is kept unless `force`, and then replaced in one step. Raises ParityError, with the report, when
    a precision differs beyond its tolerance; `out` is then as it was. With `keep_going` the bundle is published with
    that precision marked as failed, unless it is FP32, and without a second INT8 file that failed. What the checkpoint's
    files ask for and crossrt does not know is logged as a warning and kept in the manifest's `source`. Raises OptionError
    where rankings are to be judged and no label is known to be the relevant one.
    """
    if exporter not in EXPORTERS:
        raise OptionError(f"unknown exporter {exporter!r}; one of {', '.join(EXPORTERS)}")
    wanted = [precision for precision in PRECISIONS if precision in (Precision.FP32, *precisions)]
    if len(wanted) > 1 and exporter == "optimum":
        raise OptionError("Optimum's graph is exported in fp32 alone; leave out --exporter for other precisions")
    if Precision.BF16 in wanted and (
        "native" not in installed_backends(Precision.BF16) or not can_be_native(checkpoint)
    ):
        why = why_not_native(Precision.BF16) or "they do not know such a model"
        raise OptionError(
            f"bf16 is exported for the native kernels, and cannot be checked here: {why}. Leave it out: where a processor "
            "computes in BF16, OpenVINO does so with the FP32 file"
        )
    check_target(out, force=force)
    checkpoint = checkpoint.with_relevant_label(relevant_label)
    if judging is not None or Precision.INT8 in wanted:
        need_label(checkpoint.relevant_label, checkpoint.label_names, checkpoint.labels)
    tokenizer = tokenizer_of(checkpoint)
    # Without types from its tokenizer, transformers takes every token for one of type 0.
    given = "token_type_ids" in tokenizer("a", "b")
    checkpoint = replace(checkpoint, token_types=checkpoint.token_types and given)
    for warning in checkpoint.warnings:
        logger.warning("%s", warning)
    with published_directory(out, force=force) as partial:
        making = _Making(checkpoint, partial, exporter, pairs or (), calibration, judging, recipe or Recipe(), progress)
        (partial / TOKENIZER).write_text(
            without_truncation_and_padding(tokenizer.backend_tokenizer.to_str()), encoding="utf-8"
        )
        source = {
            "id": source_id or checkpoint.path.name,
            "revision": revision,
            "exporter": exporter,
            "opset": OPSET,
            "chosen_activation": activation or checkpoint.chosen_activation,
            "chosen_relevant_label": None if relevant_label is None else checkpoint.relevant_label,
            "unused_tensors": list(checkpoint.leftover),
            "warnings": list(checkpoint.warnings),
        }
        manifest = manifest_of(checkpoint, source)
        if Precision.INT8 in wanted:
            making.share_out()
        models: dict[str, BundleModel] = {}
        reports: list[ParityReport] = []

        def passed(report: ParityReport, name: str, *, needed: bool = not keep_going) -> bool:
            if needed and not report:
                raise ParityError(f"{out} was not published: {'; '.join(report.failures)}", report)
            (partial / f"parity.{name}.json").write_text(report.to_json(), encoding="utf-8")
            reports.append(report)
            return bool(report)

        def added(report: ParityReport | None, name: str, *, needed: bool = False, **file: str) -> bool:
            """Name a precision's further file in the manifest where it passed, and else leave it out."""
            kept = report is not None and passed(report, name, needed=needed)
            [(field, path)] = file.items()
            if kept:
                precision = name.partition(".")[0]
                models[precision] = replace(models[precision], **{field: path})  # type: ignore[arg-type]
            else:
                (partial / path).unlink(missing_ok=True)
            return kept

        for precision in wanted:
            if precision is Precision.BF16:
                model = replace(models["fp32"], native_file=BF16_FOR_NATIVE)
            else:
                model = BundleModel(file=ONNX_FILES[precision.value])
            making.manifest = replace(manifest, models=models | {precision.value: model})
            report, numerics = making.make(precision)
            passed(report, precision.value, needed=precision is Precision.FP32 or not keep_going)
            models[precision.value] = replace(model, parity=report.summary(), numerics=numerics)
            if precision is Precision.FP32:
                added(making.full_by_native(), "fp32.native", native_file=FP32_FOR_NATIVE)
            if precision is Precision.FP16 and report:
                added(making.half_fused(), "fp16.fused", fused_file=FP16_FUSED)
                added(making.half_by_native(), "fp16.native", native_file=FP16_FOR_NATIVE)
        if Precision.INT8 in wanted and reports[-1]:
            backends = {FIRST: True} | {
                backend: passed(report, f"int8.{backend}") for backend, report in making.int8_by_others().items()
            }
            if added(making.int8_by_native(), "int8.native", native_file=INT8_FOR_NATIVE):
                backends["native"] = True
            models["int8"] = replace(models["int8"], backends=backends)
            if Precision.FP16 in wanted:
                added(making.int8_for_gpus(), "int8.gpu", needed=not keep_going, gpu_file=INT8_FOR_GPUS)
        write_hub_files(
            partial,
            manifest,
            source=checkpoint.path,
            config=completed_config(checkpoint),
            tokenizer_class=type(tokenizer).__name__,
            special_tokens=special_tokens_of(tokenizer),
            token_types="token_type_ids" in tokenizer.model_input_names,
        )
        write_manifest(partial, replace(manifest, models=models))
    return Bundle.open(out), tuple(reports)


@dataclass(slots=True)
class _Making:
    """A bundle under construction. Each precision has a method that writes its model file and judges it."""

    checkpoint: Checkpoint
    directory: Path
    exporter: str
    pairs: Pairs
    calibration: CalibrationSet | None
    judging: JudgingSet | None
    recipe: Recipe
    progress: bool
    manifest: Manifest = field(init=False)
    _numerics: dict[Precision, Numerics] = field(default_factory=dict)
    _seen: Mapping[str, TensorStats] = field(default_factory=dict)
    _judge: Judge | None = None
    _expected: Expected | None = None

    def share_out(self) -> None:
        """Part the pairs into those that calibrate and those that judge, before hours are spent on anything else."""
        calibration = self.calibration or CalibrationSet.builtin()
        if self.judging is None:
            self.judging = JudgingSet.pooled(calibration.pairs, source=calibration.source, seed=calibration.seed)
        self.calibration = calibration.without_queries(self.judging.texts_of_queries, size=CALIBRATION_PAIRS)

    def make(self, precision: Precision) -> tuple[ParityReport, dict[str, Any] | None]:
        """Write the model file of a precision; return its report and what the manifest says of its numerics."""
        if precision is Precision.FP32:
            return self.full(), None
        if precision is Precision.BF16:
            native_from_checkpoint(self.checkpoint, self.directory / BF16_FOR_NATIVE, precision)
            return self._judged(self.directory, precision, backend="native"), None
        return self.half() if precision is Precision.FP16 else self.int8()

    def full(self) -> ParityReport:
        """FP32."""
        file = self.directory / self.manifest.models["fp32"].file
        if self.exporter == "optimum":
            from .graph.optimum import onnx_by_optimum

            self.checkpoint.check_finite()  # crossrt's own exporter reads each tensor, and so checks it
            onnx_by_optimum(self.checkpoint, file)
        else:
            onnx_from_checkpoint(self.checkpoint, file)
        return self._judged(self.directory, Precision.FP32)

    def full_by_native(self) -> ParityReport | None:
        """FP32 as the native kernels compute it, from a file of their own; None where they cannot run it."""
        return self._by_native(Precision.FP32, FP32_FOR_NATIVE)

    def half(self) -> tuple[ParityReport, dict[str, Any]]:
        """FP16, judged twice: as it runs here, and as it runs where every operator rounds.

        The first shows that the file loads and takes the same inputs; the second, whose report is returned unless the
        first fails, is what a GPU's arithmetic does to the scores.
        """
        file = self.directory / self.manifest.models["fp16"].file
        watched = list(builtin_pairs(self.manifest.max_length))
        if self.calibration is not None:
            watched += self.calibration.pairs[:MAGNITUDE_PAIRS]
        batches = list(batches_of(self._encoder(), watched, pad_id=self.manifest.pad_token_id))
        limit = TOLERANCE[Precision.FP16].max_abs
        half = half_precision(self.checkpoint, batches, max_abs=limit, progress=self.progress)
        self._numerics[Precision.FP16] = half.numerics
        onnx_from_checkpoint(self.checkpoint, file, half.numerics)
        report = self._judged_twice(Precision.FP16, half.numerics)
        source = self.calibration
        kept = tuple(f"  stays in FP32        {kept.name}: {kept.reason}" for kept in half.kept)
        return replace(report, notes=kept), {
            "float32": [asdict(kept) for kept in half.kept],
            "chosen_on": source and {"source": source.source, "seed": source.seed, "sha256": source.sha256},
        }

    def half_fused(self) -> ParityReport | None:
        """FP16 with attention as ONNX Runtime's own operator, for its CUDA; judged twice, like FP16. None where nothing fuses."""
        numerics = replace(self._numerics[Precision.FP16], fused=True)
        if not any(node.domain == ONNX_RUNTIME for node in graph_of(self.checkpoint, numerics).graph.node):
            return None
        onnx_from_checkpoint(self.checkpoint, self.directory / FP16_FUSED, numerics)
        with self._with_file(Precision.FP16, file=FP16_FUSED):
            report = self._judged_twice(Precision.FP16, numerics)
        return replace(report, backend=f"{report.backend}, in its fused operators, for GPUs")

    def half_by_native(self) -> ParityReport | None:
        """FP16 as the native kernels compute it on GPUs, from a file of their own; None where they cannot.

        What they round is rounded on the CPU, as no GPU need be here.
        """
        if not can_be_native(self.checkpoint, for_gpus=True):
            return None
        native_from_checkpoint(self.checkpoint, self.directory / FP16_FOR_NATIVE, Precision.FP16)
        return self._judged_graph(
            Precision.FP16, rounded_where_stored(self.checkpoint), "rounded as the native kernels do, for GPUs"
        )

    def int8(self) -> tuple[ParityReport, dict[str, Any]]:
        """INT8: quantised by the recipe, judged by its ranking, and by how much of it really runs in 8 bits."""
        assert self.calibration is not None
        made = eight_bit(
            self.checkpoint,
            self._encoder(),
            self.calibration,
            self._judged_lists(),
            self.recipe,
            TOLERANCE[Precision.INT8],
            progress=self.progress,
        )
        self._numerics[Precision.INT8] = made.numerics
        self._seen = made.activations
        onnx_from_checkpoint(self.checkpoint, self.directory / self.manifest.models["int8"].file, made.numerics)
        (self.directory / "calibration.int8.json").write_text(
            json.dumps(made.to_json(), indent=2) + "\n", encoding="utf-8"
        )
        if can_draw():
            draw(made, self.directory / "calibration.int8.svg")
        report = self._judged(self.directory, Precision.INT8)
        return replace(report, other_failures=tuple(made.failures), notes=tuple(made.lines)), made.summary()

    def int8_by_others(self) -> dict[str, ParityReport]:
        """INT8 as a CPU's other backends compute it, whose arithmetic beside the 8-bit products is their own."""
        return {
            backend: self._judged(self.directory, Precision.INT8, backend=backend)
            for backend in installed_backends()
            if backend in ONNX_BACKENDS and backend != FIRST
        }

    def int8_by_native(self) -> ParityReport | None:
        """INT8 as the native kernels compute it, from a file of their own; None where they cannot run it."""
        return self._by_native(Precision.INT8, INT8_FOR_NATIVE, self._seen)

    def int8_for_gpus(self) -> ParityReport:
        """INT8 as it was quantised, with its rest in FP16 as FP16 has it; judged as both: rounded, and by its ranking."""
        quantized = self._numerics[Precision.INT8].quantized
        numerics = replace(self._numerics[Precision.FP16], quantized=quantized)
        onnx_from_checkpoint(self.checkpoint, self.directory / INT8_FOR_GPUS, numerics)
        report = self._judged_rounded(Precision.INT8, numerics)
        return replace(report, backend=f"{report.backend}, the rest in FP16, for GPUs")

    def _by_native(
        self, precision: Precision, file: str, seen: Mapping[str, TensorStats] | None = None
    ) -> ParityReport | None:
        if "native" not in installed_backends(precision) or not can_be_native(self.checkpoint):
            return None
        native_from_checkpoint(self.checkpoint, self.directory / file, precision, seen)
        with self._with_file(precision, native=file):
            return self._judged(self.directory, precision, backend="native")

    @contextmanager
    def _with_file(self, precision: Precision, *, file: str | None = None, native: str | None = None) -> Iterator[None]:
        """Judge another file than the one that the manifest names for a precision."""
        plain = self.manifest
        model = plain.models[precision.value]
        model = replace(model, file=file or model.file, native_file=native)
        self.manifest = replace(plain, models={**plain.models, precision.value: model})
        try:
            yield
        finally:
            self.manifest = plain

    def _judged_twice(self, precision: Precision, numerics: Numerics) -> ParityReport:
        """Judge a file as it runs here, and as it runs where every operator rounds; see `half`."""
        here = self._judged(self.directory, precision)
        there = self._judged_rounded(precision, numerics)
        return there if here else here

    def _judged_rounded(self, precision: Precision, numerics: Numerics) -> ParityReport:
        """Judge what a GPU's arithmetic makes of a graph."""
        graph = rounded(graph_of(self.checkpoint, numerics))
        return self._judged_graph(precision, graph, "rounded after every operator")

    def _judged_graph(self, precision: Precision, graph: onnx.ModelProto, how: str) -> ParityReport:
        """Judge a graph that is in no bundle."""
        with tempfile.TemporaryDirectory() as twin:
            shutil.copy(self.directory / TOKENIZER, twin)
            save(graph, Path(twin) / self.manifest.models[precision.value].file)
            report = self._judged(Path(twin), precision)
        return replace(report, backend=f"{report.backend}, {how}")

    def _encoder(self) -> PairTokenizer:
        manifest = self.manifest
        return PairTokenizer.from_file(
            self.directory / TOKENIZER,
            max_length=manifest.max_length,
            truncation_side=manifest.truncation_side,
            prompt=manifest.prompt,
        )

    def _judged_lists(self) -> Judge:
        assert self.judging is not None
        if self._judge is None:
            self._judge = judge_of(self.checkpoint, self.judging, progress=self.progress)
        return self._judge

    def _judged(self, directory: Path, precision: Precision, *, backend: str = FIRST) -> ParityReport:
        models = {name: model for name, model in self.manifest.models.items() if (directory / model.file).exists()}
        write_manifest(directory, replace(self.manifest, models=models))
        judged = [*builtin_pairs(self.manifest.max_length), *self.pairs]
        if self._expected is None:
            self._expected = Reference(self.checkpoint).expected(
                judged, max_length=self.manifest.max_length, progress=self.progress
            )
        with CrossEncoder(directory, precision=precision, backend=backend, device="cpu", allow_failed=True) as model:
            judge = None if self.judging is None else self._judged_lists()
            return parity(model, self.checkpoint, judged, expected=self._expected, judge=judge, progress=self.progress)


def manifest_of(checkpoint: Checkpoint, source: Mapping[str, Any]) -> Manifest:
    """Return the manifest of a checkpoint's bundle, without models and files yet."""
    dimensions = checkpoint.dimensions
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if checkpoint.token_types else [])]
    return Manifest(
        source=source,
        architecture=checkpoint.architecture,
        labels=checkpoint.labels,
        label_names=checkpoint.label_names,
        relevant_label=checkpoint.relevant_label,
        prompt=checkpoint.settings.prompt,
        prompts=checkpoint.settings.prompts,
        activation=checkpoint.activation,
        max_length=checkpoint.max_length,
        max_positions=dimensions.positions,
        pad_token_id=checkpoint.pad_token_id,
        truncation_side=checkpoint.truncation_side,
        inputs=dict.fromkeys(inputs, "int64"),
        models={},
        tools=tool_versions(),
    )
