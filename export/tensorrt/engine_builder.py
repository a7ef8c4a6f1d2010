"""`EngineBuilder`: builds TensorRT engines of a bundle, checks them and publishes them."""

import dataclasses
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...calibration.judging_set import JudgingSet
from ...engine.backends.tensorrt import checked_plan
from ...engine.bundle.bundle import Bundle
from ...engine.bundle.engine_file import EngineFile
from ...engine.bundle.manifest import MANIFEST
from ...engine.bundle.profiles import Profile
from ...engine.errors import BackendError, BundleError, ParityError
from ...engine.files.digests import content_sha256
from ...engine.files.publish import link_or_copy, published_directory
from ...engine.hardware.gpus import Gpu
from ...engine.precision import Precision
from ..bundle.manifest import write_manifest
from .attention import UNMEASURED, fused_attention
from .build import BuildOptions, Progress, engine_from_onnx, layer_information, refitted
from .engine_check import EngineCheck, check_engine
from .tensorrt8 import takes_file_for_gpus

UNFUSED_HINT = (
    "; if TensorRT's fused attention is at fault, as 8.6.0's is on an H200, --unfused-attention builds without it"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBuilder:
    """Builds engines of a bundle, or refits engines of another bundle with its weights. Checks and publishes them."""

    bundle: Bundle
    gpu: Gpu
    library: str
    version: str
    device: int
    profiles: tuple[Profile, ...]
    options: BuildOptions
    refit_from: Bundle | None
    judging: JudgingSet | None
    progress: Progress

    def publish(
        self, target: Path, precisions: Sequence[Precision], *, replace_engines: bool
    ) -> tuple[EngineCheck, ...]:
        """Put engines that have passed into the bundle at `target`, atomically.

        With `replace_engines`, that bundle then has only these precisions and engines. Raises ParityError for an engine that
        fails; `target` then stays as it was.
        """
        manifest = self.bundle.manifest
        left_out = {MANIFEST}
        if replace_engines:
            wanted = {precision.value for precision in precisions}
            models = {name: model for name, model in manifest.models.items() if name in wanted}
            # Two precisions may share a file: BF16 shares FP32's.
            files = {file for model in manifest.models.values() for file in model.files}
            files -= {file for model in models.values() for file in model.files}
            left_out |= (
                {engine.file for engine in manifest.engines}
                | files
                | {f"{file}{end}" for file in files for end in (".data", "_data")}
            )
            manifest = replace(manifest, models=models, engines=())
        checks = []
        with published_directory(target, force=True) as partial:
            _link(self.bundle.path, partial, left_out)
            for precision in precisions:
                engine, plan = self.engine(precision)
                (partial / engine.file).unlink(
                    missing_ok=True
                )  # a hard link to the old engine, whose content must not change
                (partial / engine.file).write_bytes(plan)
                kept = tuple(other for other in manifest.engines if other.file != engine.file)
                # Of otherwise equal engines the runtime prefers the first, so the newest is listed first.
                manifest = replace(manifest, engines=(engine, *kept))
                write_manifest(partial, manifest)
                self.progress(f"{engine.file}: comparing its scores with the ONNX model's")
                check = check_engine(
                    Bundle.open(partial), engine, device=f"cuda:{self.device}", fp32=self.bundle, judging=self.judging
                )
                if not check.passed:
                    fused = self.refit_from is None and not self.options.unfused_attention
                    hint = UNFUSED_HINT if fused else ""
                    raise ParityError(f"{target} stays as it was: {check}{hint}", check)
                checks.append(check)
        return tuple(checks)

    def engine(self, precision: Precision) -> tuple[EngineFile, bytes]:
        """Build or refit an engine. Return its entry for the manifest, and its plan."""
        model = self.bundle.model_file(precision, gpu=takes_file_for_gpus(self.version))
        # The name contains the GPU and the version to which the engine is bound, so that a bundle can have engines for several.
        bound = f"{slug(self.gpu.name)}-{self.gpu.capability}.{slug(self.library)}-{self.version}"
        file = f"model.{precision.value}.{bound}.engine"
        begin = time.perf_counter()
        profiles, options = self.profiles, _described(self.options)
        if self.refit_from is None:
            self.progress(f"{file}: building by {self.library} {self.version} for {self.gpu.name}, which takes minutes")
            plan = engine_from_onnx(
                model,
                profiles,
                library=self.library,
                options=self.options,
                progress=lambda text: self.progress(f"{file}: {text}"),
            )
        else:
            old = self.refittable(self.refit_from, precision)
            self.progress(f"{file}: weights into {self.refit_from.path / old.file}")
            plan = refitted(checked_plan(self.refit_from, old), model, library=self.library)
            profiles, options = old.profiles, {**old.options, "refitted_from": old.onnx_sha256}
        layers = self.bundle.manifest.architecture.get("layers")
        attention = UNMEASURED
        if isinstance(layers, int):
            attention = fused_attention(layer_information(plan, library=self.library), layers)
        engine = EngineFile(
            file=file,
            precision=precision.value,
            library=self.library,
            version=self.version,
            gpu=self.gpu.name,
            capability=self.gpu.capability,
            profiles=profiles,
            onnx_sha256=content_sha256(model),
            build_seconds=round(time.perf_counter() - begin, 1),
            options=options,
            attention=attention,
        )
        return engine, plan

    def refittable(self, other: Bundle, precision: Precision) -> EngineFile:
        """Return an engine of another bundle that can take this one's weights. Raises BackendError if there is none."""
        # Manifests of older versions lack the number of token types.
        theirs, ours = ({**each.manifest.architecture, "token_types": None} for each in (other, self.bundle))
        if theirs != ours:
            raise BackendError(f"{other.path} holds a model of another shape than {self.bundle.path}; build an engine")
        reason = f"{other.path} holds no {precision.value} engine"
        for engine in other.manifest.engines:
            if engine.precision != precision.value:
                continue
            here = {"gpu": self.gpu.name, "capability": self.gpu.capability}
            reason = engine.mismatch(library=self.library, version=self.version, **here)
            if not reason and engine.options.get("refittable"):
                return engine
            reason = reason or f"{engine.file} was not built with --refittable"
        raise BackendError(f"no weights can be replaced: {reason}; build an engine of {self.bundle.path} instead")

    def is_made(self, entry: Path) -> bool:
        """Tell whether the bundle at `entry` is complete and has an engine that was built with these options."""
        try:
            [engine] = Bundle.open(entry, verify=True).manifest.engines
        except (BundleError, ValueError):
            return False
        return _described(BuildOptions()) | dict(engine.options) == _described(self.options)


def _described(options: BuildOptions) -> dict[str, Any]:
    """Return the options for an engine's entry in the manifest."""
    return {key: value for key, value in dataclasses.asdict(options).items() if key != "timing_cache"}


def _link(source: Path, target: Path, left_out: Collection[str]) -> None:
    """Hard-link a bundle's files into another folder, or copy them if that fails."""
    for path in source.rglob("*"):
        name = path.relative_to(source)
        if name.as_posix() in left_out or not path.is_file():
            continue
        copy = target / name
        copy.parent.mkdir(exist_ok=True)
        link_or_copy(path, copy)


def slug(name: str) -> str:
    """Return a name reduced to lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
