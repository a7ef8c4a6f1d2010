"""The bundle: a directory with a manifest, a tokenizer, one model file per precision and the parity report.

manifest.json      what it is, where it came from, and size and sha256 of every other file
tokenizer.json     with the checkpoint's own truncation and padding removed
onnx/model.onnx    the FP32 graph; onnx/model_fp16.onnx and onnx/model_quantized.onnx (INT8) lie beside it. Optimum,
                   sentence-transformers and transformers.js look for these names
config.json, tokenizer_config.json, config_sentence_transformers.json
                   for those three; crossrt itself never reads them
parity.fp32.json   the report of the parity check that let it be published; INT8 has one for each backend of a CPU
model.int8.gpu.onnx, where there are INT8 and FP16: the same 8 bits with the rest in FP16, for GPUs
model.fp16.fused.onnx, beside FP16: with attention as ONNX Runtime's own operator, for its CUDA
model.fp32.native, model.bf16.native, model.int8.native: weights as the native kernels want them, where they passed their check
model.fp16.native: the same for GPUs
*.engine           TensorRT engines, each for one kind of GPU and one version

Bundles made before this layout have model.fp32.onnx, model.fp16.onnx and model.int8.onnx at the top; they open as before,
since the manifest names every file.
"""

from dataclasses import dataclass
from pathlib import Path

from ..errors import BundleError
from ..files.digests import content_sha256, sha256_of
from ..files.record import MOST_BYTES
from ..precision import Precision
from ..text.pair_tokenizer import PairTokenizer
from .manifest import MANIFEST, TOKENIZER, Manifest


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk that has been found whole. Holds no file open."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False) -> "Bundle":
        """Read the manifest and check every file's size, and with `verify` its sha256 too.

        Raises BundleError, naming the file, when one is missing, truncated, altered or unreadable, or when the schema
        is newer than this crossrt.
        """
        path = Path(path)
        manifest_file = path / MANIFEST
        try:
            with manifest_file.open("rb") as file:
                text = file.read(MOST_BYTES + 1).decode()
        except FileNotFoundError:
            words = f"{path} OUT" if (path / "config.json").is_file() else f"CHECKPOINT {path}"
            raise BundleError(
                f"{path} is not a bundle: it has no {MANIFEST}. Make one with: crossrt export {words}"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{manifest_file} cannot be read ({error})") from error
        bundle = cls(path, Manifest.from_json(text, where=manifest_file))
        bundle._check_files(verify)
        return bundle

    def model_file(self, precision: Precision, *, gpu: bool = False, fused: bool = False) -> Path:
        """Return the ONNX file of a precision, for a GPU or a CPU; with `fused` the one for ONNX Runtime alone, if there is one.

        Raises BundleError, naming those there are, for one it lacks.
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
        return self.path / ((fused and model.fused_file) or (gpu and model.gpu_file) or model.file)

    def native_file(self, precision: Precision) -> Path:
        """Return the weights of the backend `native` in a precision. Raises BundleError for a bundle without."""
        model = self.manifest.models.get(precision.value)
        if model is None or model.native_file is None:
            raise BundleError(
                f"{self.path} has no {precision.value} weights for the backend native; export it again with --precision "
                f"{precision.value}"
            )
        return self.path / model.native_file

    def pair_tokenizer(self, *, max_length: int | None = None) -> PairTokenizer:
        """Read the tokenizer, which truncates pairs as the checkpoint's does, to the bundle's `max_length` unless given.

        Raises BundleError for a file that is no tokenizer, and OptionError for a `max_length` that leaves no room for text.
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
        """The `tokenizer.json`."""
        return self.path / TOKENIZER

    @property
    def tokenizer_sha256(self) -> str:
        """What a store of prepared passages knows its tokenizer by, in hex: of the file itself, whatever the manifest says."""
        return content_sha256(self.tokenizer_file)

    def sha256(self, name: str) -> str:
        """What the manifest says of a file, in hex. `name` is the manifest's, such as `onnx/model.onnx`.

        Raises BundleError for a file that the manifest does not list.
        """
        for file in self.manifest.files:
            if file.name == name:
                return file.sha256
        raise BundleError(f"{self.path / MANIFEST} does not list {name}; export the bundle again")

    def model_sha256(self, file: str) -> dict[str, str]:
        """Return the hashes, by name, of the content of an ONNX file and of all files that it may read its weights from."""
        models = self.manifest.models.values()
        others = {name for model in models for name in model.files} | {each.file for each in self.manifest.engines}
        others -= {file}
        beside = {f"{name}{ending}" for name in others for ending in (".data", "_data")}
        names = [each.name for each in self.manifest.files if not each.name.endswith(".json")]
        return {name: content_sha256(self.path / name) for name in names if name not in others | beside}

    def name_of(self, path: Path) -> str:
        """Return the name in the manifest of one of its files."""
        return path.relative_to(self.path).as_posix()

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
