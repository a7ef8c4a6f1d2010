"""`Bundle`: a directory with a manifest, a tokenizer, one model file per precision and the parity reports.

manifest.json      model, source and settings, with size and sha256 of every other file
tokenizer.json     the tokenizer, without the checkpoint's own truncation and padding
onnx/model.onnx, onnx/model_fp16.onnx, onnx/model_quantized.onnx
                   the FP32, FP16 and INT8 graphs, under the names that Optimum, sentence-transformers and transformers.js
                   look for
config.json, tokenizer_config.json, config_sentence_transformers.json
                   for those three libraries; crossrt never reads them
parity.fp32.json   the report of the parity check that FP32 passed before it was published; INT8 has one per CPU backend
model.int8.gpu.onnx
                   the INT8 graph for GPUs, if there is FP16 too: the same 8-bit products, everything else in FP16
model.fp16.fused.onnx
                   the FP16 graph with attention as ONNX Runtime's own operator, for its CUDA provider
model.fp32.native, model.bf16.native, model.int8.native
                   weights in the layout of the native CPU kernels, if they passed their parity check
model.fp16.native  weights in the layout of the native GPU kernels
*.engine           TensorRT engines, each for one kind of GPU and one TensorRT version

Older bundles have model.fp32.onnx, model.fp16.onnx and model.int8.onnx at the top. They open too, since the manifest names
every file.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from ..errors import BundleError, ReplacedError
from ..files.digests import content_sha256, sha256_of
from ..files.record import MAX_BYTES, read_text
from ..precision import Precision
from ..text.pair_tokenizer import PairTokenizer
from .manifest import MANIFEST, TOKENIZER, Manifest


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk whose files were checked. Holds no file open; any number of threads may use it.

    `path` is the directory as it was given, for messages. `opened_at` is the directory when it was opened, absolute and without
    symbolic links, since a program may change its working directory, and a link may later point to another bundle. It is None
    for a bundle that an export is making, whose directory has no manifest yet.
    """

    path: Path
    manifest: Manifest
    opened_at: Path | None = None

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False) -> "Bundle":
        """Read the manifest and check every file's size, and with `verify` also its sha256.

        Raises BundleError, naming the file, if one is missing, truncated, altered or unreadable, or if the schema is newer than
        this crossrt.
        """
        path = Path(path)
        manifest_file = path / MANIFEST
        try:
            text = read_text(manifest_file, max_bytes=MAX_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            if path.is_file():
                raise BundleError(
                    f"{path} is a file, and a bundle is a directory; give the directory that `crossrt export` wrote"
                ) from None
            given = shlex.quote(str(path))
            checkpoint = any((path / name).is_file() for name in ("config.json", "adapter_config.json"))
            words = f"{given} OUT" if checkpoint else f"CHECKPOINT {given}"
            raise BundleError(
                f"{path} is not a bundle: it has no {MANIFEST}. Make one with: crossrt export {words}"
            ) from None
        except (OSError, ValueError) as error:
            raise BundleError(f"{manifest_file} cannot be read ({error})") from error
        bundle = cls(path, Manifest.from_json(text, where=manifest_file), opened_at=path.resolve())
        bundle._check_files(verify)
        return bundle

    @property
    def folder(self) -> Path:
        """The directory that the bundle's files are read from."""
        return self.opened_at or self.path

    def model_file(self, precision: Precision, *, gpu: bool = False, fused: bool = False) -> Path:
        """Return the ONNX file of a precision. Raises BundleError, naming the available ones, for a precision that is missing.

        `gpu` and `fused` prefer the variants for GPUs and for ONNX Runtime's CUDA provider, if the bundle has them.
        """
        model = self.manifest.models.get(precision.value)
        if model is None:
            held = ", ".join(self.manifest.models)
            if precision is Precision.FP32:
                first = next(iter(self.manifest.models), "fp16")
                raise BundleError(
                    f"{self.path} holds no fp32 model; it holds {held}. Ask for what it holds, with precision={first!r} "
                    f"(--precision {first}), or export the checkpoint"
                )
            raise BundleError(
                f"{self.path} holds no {precision.value} model; it holds {held}. "
                f"Make one that does with: crossrt export CHECKPOINT OUT --precision fp32,{precision.value}"
            )
        return self.folder / ((fused and model.fused_file) or (gpu and model.gpu_file) or model.file)

    def native_file(self, precision: Precision) -> Path:
        """Return the weights file of the backend `native` in a precision. Raises BundleError for a bundle without one."""
        model = self.manifest.models.get(precision.value)
        if model is None or model.native_file is None:
            raise BundleError(
                f"{self.path} has no {precision.value} weights for the backend native; export it again with --precision "
                f"{precision.value}"
            )
        return self.folder / model.native_file

    def pair_tokenizer(self, *, max_length: int | None = None) -> PairTokenizer:
        """Read the tokenizer. It truncates pairs to `max_length` tokens, by default the bundle's, on the checkpoint's side.

        Raises BundleError for a file that is not a tokenizer, and OptionError for a `max_length` that leaves no room for text.
        """
        manifest = self.manifest
        return PairTokenizer.from_file(
            self.tokenizer_file,
            max_length=manifest.max_length if max_length is None else max_length,
            truncation_side=manifest.truncation_side,
            prompt=manifest.prompt,
        )

    @property
    def tokenizer_file(self) -> Path:
        """The path of `tokenizer.json`."""
        return self.folder / TOKENIZER

    @property
    def tokenizer_sha256(self) -> str:
        """The sha256 of the tokenizer file's content, in hex. Stores of prepared passages record it.

        Raises BundleError for a file that cannot be read, and ReplacedError as `check_same` does.
        """
        try:
            digest = content_sha256(self.tokenizer_file)
        except OSError as error:
            raise BundleError(f"{self.tokenizer_file} cannot be read ({error.strerror})") from error
        if self.opened_at is not None and digest != self.sha256(TOKENIZER):
            self.check_same()
        return digest

    def check_same(self) -> None:
        """Raise ReplacedError if the directory no longer holds the weights and the tokenizer that it held when it was opened.

        Some files are opened later than the rest, for example at the first small request or in a forked process. Without this
        check they could belong to another model. Precisions, engines and reports may be added meanwhile.
        """
        if self.opened_at is None:
            return
        try:
            now = Bundle.open(self.opened_at)._contents()
        except BundleError as error:
            raise ReplacedError(f"{self.path} was removed or altered since it was opened: {error}") from error
        if not self._contents().items() <= now.items():
            raise ReplacedError(
                f"{self.path} was replaced by another bundle since it was opened; open the model again to score with that one"
            )

    def _contents(self) -> dict[str, str]:
        """Return the manifest's sha256 of the tokenizer and of each weights file, by file name."""
        engines = {engine.file for engine in self.manifest.engines}
        return {
            file.name: file.sha256
            for file in self.manifest.files
            if file.name == TOKENIZER or not (file.name.endswith((".json", ".svg")) or file.name in engines)
        }

    def sha256(self, name: str) -> str:
        """Return the sha256 that the manifest has for a file, in hex. `name` is as in the manifest, such as `onnx/model.onnx`.

        Raises BundleError for a file that the manifest does not list.
        """
        for file in self.manifest.files:
            if file.name == name:
                return file.sha256
        raise BundleError(f"{self.path / MANIFEST} does not list {name}; export the bundle again")

    def model_sha256(self, file: str) -> dict[str, str]:
        """Return the content sha256, by name, of the files that `model_files` returns."""
        return {name: content_sha256(self.folder / name) for name in self.model_files(file)}

    def weights_sha256(self, file: str) -> dict[str, str]:
        """Return the content sha256, by name, of the files that may hold an ONNX file's external weights, usually none."""
        return {name: digest for name, digest in self.model_sha256(file).items() if name != file}

    def model_files(self, file: str) -> tuple[str, ...]:
        """Return the names of an ONNX file and of all files that may hold its external weights, which may have any name."""
        models = self.manifest.models.values()
        others = {name for model in models for name in model.files} | {each.file for each in self.manifest.engines}
        others -= {file}
        beside = {f"{name}{ending}" for name in others for ending in (".data", "_data")}
        names = [each.name for each in self.manifest.files if not each.name.endswith((".json", ".svg"))]
        return tuple(name for name in names if name not in others | beside)

    def name_of(self, path: Path) -> str:
        """Return the manifest's name of a file of the bundle."""
        return path.relative_to(self.folder).as_posix()

    def _check_files(self, verify: bool) -> None:
        for file in self.manifest.files:
            path = self.path / file.name
            try:
                size = path.stat().st_size
                if size != file.size:
                    raise BundleError(
                        f"{path} is damaged: {size:,} bytes where the manifest says {file.size:,}; export or copy again"
                    )
                if verify and sha256_of(path) != file.sha256:
                    raise BundleError(f"{path} was altered: its sha256 is not the manifest's; export or copy again")
            except FileNotFoundError:
                raise BundleError(f"{path} is missing though the manifest lists it; export or copy again") from None
            except OSError as error:
                raise BundleError(f"{path} cannot be read ({error})") from error
