"""`ModelConfig`: a bundle in one precision, with the options it runs with here."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..engine.backends.registry import backend_version
from ..engine.bundle.bundle import Bundle
from ..engine.bundle.manifest import MANIFEST
from ..engine.bundle.resolve import bundle_from_source
from ..engine.cross_encoder import CrossEncoder
from ..engine.errors import OptionError
from ..engine.files.digests import content_sha256, sha256_of
from ..engine.kernels.support import NARROW, parity_key
from ..engine.labels import label_number, need_label
from ..engine.precision import Precision
from ..engine.runtime.exact_ranking import score_error
from ..engine.selection.execution_config import CpuConfig, ExecutionConfig
from ..engine.selection.select import choose_execution
from ..engine.text.windows import Windows

CANDIDATES = "candidates"
"""Label of the row with the original order of the candidates."""

EXACT_NEEDS_CHEAPER_PRECISION = "--exact: FP32 is exact; name a cheaper precision too, as in --precision fp32,int8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How models are opened and called: arguments of `CrossEncoder` and of `rank`."""

    backend: str = "auto"
    device: str | None = None
    threads: int | None = None
    max_length: int | None = None
    batch_size: int = 32
    relevant_label: int | str | None = None
    trust_engines: bool = False
    windows: Windows | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A row of an evaluation or a benchmark. `label` is the bundle's name and the precision, such as `minilm-l6.fp32`.

    With `top_k` the row is an exact ranking, which finds the best `top_k` of a list as FP32 ranks them; see `with_exact_top_k`.
    Otherwise the model scores the whole list. `rest_label` is the label of the row that ranks the passages that this one leaves
    out.
    """

    label: str
    bundle: Bundle
    execution: ExecutionConfig
    options: Options
    top_k: int | None = None
    rest_label: str | None = None

    def with_exact_top_k(self, top_k: int) -> "ModelConfig":
        """Return the row in which this model makes exact rankings of the best `top_k`.

        Raises OptionError for FP32, and BundleError if the bundle has no FP32 model or lacks the model's score errors.
        """
        if self.precision is Precision.FP32:
            raise OptionError(EXACT_NEEDS_CHEAPER_PRECISION)
        score_error(self.bundle, self.execution)
        name, space, backend = self.label.partition(" ")  # a benchmark's label ends with the backend
        return replace(self, label=f"{name}.exact{top_k}{space}{backend}", top_k=top_k, rest_label=self.label)

    @property
    def method(self) -> str | None:
        """A short description of how it ranks, or None if the model scores the whole list."""
        return None if self.top_k is None else f"exact top {self.top_k}"

    @property
    def models(self) -> "Sequence[ModelConfig]":
        """The models that score. The last one decides the order."""
        return [self]

    @property
    def precision(self) -> Precision:
        """The precision that it computes in."""
        return self.execution.precision

    @property
    def relevant_label(self) -> int | None:
        """Index of the label to rank by, or None for more than two labels of which none was chosen.

        Raises OptionError for a label that the model does not have.
        """
        manifest, chosen = self.bundle.manifest, self.options.relevant_label
        if chosen is None:
            return manifest.relevant_label
        return label_number(chosen, manifest.label_names, manifest.labels)

    @property
    def bundle_sha256(self) -> str:
        """The sha256 of the bundle's manifest, which lists that of every other file."""
        return sha256_of(self.bundle.path / MANIFEST)

    @property
    def runs_on(self) -> str:
        """Backend, version and device, such as `openvino 2026.4.1, cpu`."""
        return f"{self.execution.backend} {backend_version(self.execution.backend)}, {self.execution.device}"

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Everything that the exact scores depend on, as JSON."""
        manifest = self.bundle.manifest
        file = self.bundle.model_file(Precision.FP32 if self.precision is Precision.BF16 else self.precision)
        weights = self.bundle.weights_sha256(self.bundle.name_of(file))
        return {
            "model": content_sha256(file),
            # Left out if there are none, so that runs begun by earlier versions can be continued.
            **({"weights": weights} if weights else {}),
            **self._native_int8,
            "tokenizer": self.bundle.tokenizer_sha256,
            "head": f"label {self.relevant_label} of {manifest.labels}, {manifest.activation}",
            "precision": self.precision.value,
            **({} if manifest.prompt is None else {"prompt": manifest.prompt}),
            "max_length": self.options.max_length or manifest.max_length,
            # Left out for the usual side, so that runs begun by earlier versions can be continued.
            **({} if manifest.truncation_side == "right" else {"truncation_side": manifest.truncation_side}),
            "runs on": self.runs_on,
            **self._batching,
            **({} if self.options.windows is None else {"windows": str(self.options.windows)}),
            **({} if self.top_k is None else {"method": self.method, "bundle": self.bundle_sha256}),
        }

    @property
    def _native_int8(self) -> dict[str, str]:
        """What the scores of the native kernels in INT8 depend on too.

        These are the kernels' own weights, which another export may round differently from the graph's, and the number of bits
        that activations have on this processor.
        """
        execution = self.execution
        if not (isinstance(execution, CpuConfig) and execution.native and self.precision is Precision.INT8):
            return {}
        narrow = parity_key(execution.backend, self.precision) == NARROW
        return {
            "native weights": content_sha256(self.bundle.native_file(self.precision)),
            **({"activations": "7 bits"} if narrow else {}),
        }

    @property
    def _batching(self) -> dict[str, int]:
        """The options that batches depend on. The last bits of a score depend on the batch of its pair."""
        execution = self.execution
        if not isinstance(execution, CpuConfig):  # earlier versions wrote ones, and their runs can be continued
            return {"threads": 1, "streams": 1, "batch size": 1}
        return {
            "threads": execution.threads,
            "streams": execution.streams,
            "batch size": min(execution.batch_size, self.options.batch_size),
        }

    @property
    def scoring_options(self) -> dict[str, Any]:
        """The options of `rank` that every scoring gets."""
        return {
            "windows": self.options.windows,
            "batch_size": self.options.batch_size,
            "show_progress_bar": False,
        }

    @property
    def rank_options(self) -> dict[str, Any]:
        """The options of the opened model's `rank`."""
        return {**self.scoring_options, "top_k": self.top_k, "exact": self.top_k is not None}

    def open(self) -> CrossEncoder:
        """Open the model. The caller closes it."""
        options = self.options
        return CrossEncoder(
            self.bundle.path,
            precision=self.precision,
            backend=options.backend,
            device=options.device,
            threads=options.threads,
            max_length=options.max_length,
            relevant_label=options.relevant_label,
            trust_engines=options.trust_engines,
        )


def model_configs(sources: Sequence[str], precisions: Sequence[str], options: Options, **hub: Any) -> list[ModelConfig]:
    """Return a config for every bundle in every precision, without opening models. `hub` are options of `bundle_from_source`.

    Raises BundleError for a bundle that lacks a precision, OptionError for a bundle that is named twice or that has several
    labels and none to rank by, and the errors of `choose_execution` and `bundle_from_source`.
    """
    configs: dict[str, ModelConfig] = {}
    for source, name in zip(sources, names_of(sources), strict=True):
        bundle = bundle_from_source(source, **hub)
        for precision in precisions:
            execution = choose_execution(
                bundle,
                precision=precision,
                backend=options.backend,
                device=options.device,
                threads=options.threads,
                trust_engines=options.trust_engines,
            )
            label = f"{name}.{execution.precision.value}"
            if label in configs:
                raise OptionError(f"{source} in {execution.precision.value} is asked for twice; name each once")
            config = configs[label] = ModelConfig(label=label, bundle=bundle, execution=execution, options=options)
            need_label(config.relevant_label, bundle.manifest.label_names, bundle.manifest.labels)
    return list(configs.values())


def names_of(sources: Sequence[str]) -> list[str]:
    """Return a one-word name for each path: its last part, or as many of its last parts as make different paths distinct."""
    paths = [Path(source).absolute() if Path(source).is_dir() else Path(source) for source in sources]
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["_".join("-".join(path.parts[-parts:]).replace("/", "").split()) for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    # The name of a directory need not be UTF-8, and these names are written into UTF-8 files.
    return [os.fsencode(name).decode(errors="replace") for name in names]
