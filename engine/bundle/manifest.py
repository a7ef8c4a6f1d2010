"""`Manifest`: the content of a bundle's `manifest.json`."""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..activation import NAMED
from ..errors import BundleError
from ..files.digests import sha256_of
from ..files.record import parsed, record
from ..precision import Precision
from ..text.encoded_pairs import TruncationSide
from ..text.tokenizer import MAX_TOKENS
from .engine_file import EngineFile
from .score_error import ScoreErrorStats

SCHEMA = 3
"""The schema that is written. Schema 1, without label names and prompts, and schema 2, without score errors, can also be
read."""
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
MAX_LABELS, MAX_POSITIONS = 1 << 16, 1 << 20
"""Largest accepted numbers of labels and positions. No model has this many, but a damaged manifest might."""
ONNX_FILES = {"fp32": "onnx/model.onnx", "fp16": "onnx/model_fp16.onnx", "int8": "onnx/model_quantized.onnx"}
"""Precision -> name of its ONNX file in a new bundle."""
FILE_NAME = re.compile(r"(onnx/)?(?!\.{1,2}$)[^/\\:\0]+")
"""Allowed file names: at the bundle's top or in its folder `onnx`. Other paths could lead out of the bundle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFile:
    """A file of the bundle: `size` in bytes and `sha256` in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleModel:
    """The files and the parity results of one precision.

    `file` is the ONNX file. `gpu_file` is the variant for GPUs, if there is one: INT8 with all other operators in FP16 instead
    of FP32. `fused_file` is a variant that only ONNX Runtime's CUDA provider can run. `native_file` holds the weights for the
    backend `native`: on GPUs in FP16, on CPUs in the other precisions. The `file` of BF16 is the FP32 file, which other
    backends compute in BF16.

    `parity` is the summary of the parity check, or None before it has run. `backends` says for each CPU backend that was checked
    whether the model passed. `numerics` is information for people: which tensors stayed in another precision, and why.
    `score_errors` are the measured errors of the scores, by CPU backend or `gpu`.
    """

    file: str
    gpu_file: str | None = None
    fused_file: str | None = None
    native_file: str | None = None
    parity: Mapping[str, Any] | None = None
    backends: Mapping[str, bool] = field(default_factory=dict)
    numerics: Mapping[str, Any] | None = None
    score_errors: Mapping[str, ScoreErrorStats] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        """The names of all files of this precision."""
        return tuple(name for name in (self.file, self.gpu_file, self.fused_file, self.native_file) if name is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of `manifest.json`; docs/bundle.md has every field.

    `source` and `architecture` are information for people. To run a model, only these fields of `architecture` are read:
    `hidden_size` and `model_type`, to choose a backend; `vocab_size` and `token_types`, to check token ids and types; and
    `head`, to refuse old native weights of RoBERTa.

    `relevant_label` is None for a model with more than two labels if none was chosen to rank by. `label_names` has a name for
    each label, or is empty. `prompts` are the checkpoint's saved prompts by name; `prompt` is the text of its default prompt,
    which is put before every query. `truncation_side` is the side on which texts that are too long lose tokens.
    """

    schema: int = SCHEMA
    source: Mapping[str, Any]
    architecture: Mapping[str, Any]
    labels: int
    relevant_label: int | None
    activation: str
    max_length: int
    max_positions: int
    pad_token_id: int
    inputs: Mapping[str, str]
    models: Mapping[str, BundleModel]
    label_names: tuple[str, ...] = ()
    prompt: str | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    files: tuple[BundleFile, ...] = ()
    engines: tuple[EngineFile, ...] = ()
    tools: Mapping[str, str] = field(default_factory=dict)
    truncation_side: TruncationSide = "right"

    def to_json(self) -> str:
        """Return indented JSON that `from_json` reads back to an equal manifest."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: Path) -> "Manifest":
        """Parse and check a manifest. Raises BundleError, naming the file `where`, for anything unexpected."""
        try:
            fields = parsed(text)
        except ValueError as error:
            raise BundleError(f"{where} is not JSON ({error}); export the bundle again") from error
        if not isinstance(fields, dict) or type(fields.get("schema")) is not int:
            raise BundleError(f"{where} has no schema number, so it is not a manifest of crossrt")
        if fields["schema"] > SCHEMA:
            raise BundleError(
                f"{where} has schema {fields['schema']}, and this crossrt reads up to {SCHEMA}: "
                "install a newer crossrt, or export the bundle again with this one"
            )
        try:
            manifest = record(cls, {**fields, "schema": SCHEMA})  # written again, it has the current schema
        except ValueError as error:
            raise BundleError(f"{where} does not have the fields of schema {SCHEMA} ({error}); export again") from error
        manifest._check(where)
        return manifest

    def _check(self, where: Path) -> None:
        names = {file.name for file in self.files}
        for name in [
            *names,
            *(file for model in self.models.values() for file in model.files),
            *(engine.file for engine in self.engines),
        ]:
            if not FILE_NAME.fullmatch(name) or name == MANIFEST or not name.isprintable():
                raise BundleError(
                    f"{where} lists the file name {name!r}; a bundle's files lie at its top or in its folder onnx"
                )
        if TOKENIZER not in names:
            raise BundleError(f"{where} does not list {TOKENIZER}, which every bundle has; export the bundle again")
        for precision, model in self.models.items():
            if precision not in {p.value for p in Precision}:
                raise BundleError(f"{where} holds a model of unknown precision {precision!r}")
            for file in model.files:
                if file not in names:
                    raise BundleError(f"{where} names {file} for {precision} but does not list that file")
        for engine in self.engines:
            if engine.file not in names:
                raise BundleError(f"{where} has the engine {engine.file} but does not list that file")
        for what, number, least, most in (
            ("labels", self.labels, 1, MAX_LABELS),
            ("relevant_label", self.relevant_label or 0, 0, self.labels - 1),
            ("max_positions", self.max_positions, 1, MAX_POSITIONS),
            ("max_length", self.max_length, 1, self.max_positions),
            ("pad_token_id", self.pad_token_id, 0, MAX_TOKENS),
        ):
            if not least <= number <= most:
                raise BundleError(f"{where}: {what} is {number}, expected {least} to {most}; export the bundle again")
        if self.relevant_label is None and self.labels <= 2:
            raise BundleError(f"{where}: relevant_label is null, and a model with {self.labels} labels has one")
        if len(self.label_names) not in (0, self.labels):
            raise BundleError(
                f"{where}: {self.labels} labels have the names {self.label_names}; give each one, or none"
            )
        if self.activation not in NAMED:
            raise BundleError(f"{where}: the activation {self.activation!r} is none of {', '.join(NAMED)}")

    @property
    def vocab_size(self) -> int | None:
        """Number of token ids of the model; None if the manifest does not say."""
        return self._count("vocab_size")

    @property
    def token_types(self) -> int | None:
        """Number of token types of the model, 0 if it takes none; None if the manifest does not say."""
        return self._count("token_types")

    def _count(self, name: str) -> int | None:
        number = self.architecture.get(name)
        return number if type(number) is int and number >= 0 else None


def listed(directory: Path) -> tuple[BundleFile, ...]:
    """Return the manifest's entries for all files of a directory except the manifest itself, sorted by name."""
    names = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
    return tuple(
        BundleFile(name=name, size=path.stat().st_size, sha256=sha256_of(path))
        for name, path in sorted(names.items())
        if name != MANIFEST
    )
