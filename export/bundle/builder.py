"""`BundleBuilder`: a bundle under construction."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ...engine.bundle.bundle import Bundle
from ...engine.bundle.manifest import MANIFEST, BundleFile, BundleModel, Manifest
from ...engine.files.digests import sha256_of
from ...engine.precision import Precision


class BundleBuilder:
    """A bundle under construction in `directory`, which nothing else may write to.

    Every file is hashed once, when it is written. A model can therefore be judged many times without reading all weights again.
    Not thread-safe.
    """

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        """Start with a manifest that has neither models nor files."""
        self.directory = directory
        self.manifest = manifest
        self.models: dict[str, BundleModel] = {}
        """The manifest's entry for each precision, by its name."""
        self._files: dict[str, BundleFile] = {}

    def write(self, name: str, writer: Callable[[Path], None]) -> None:
        """Call `writer` to write the file `name`, and hash it and its external weights, `<name>_data`, if there are any."""
        self.remove(name)  # onnx appends to an existing file of external weights
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        writer(path)
        for each in (name, _weights_of(name)):
            if (self.directory / each).is_file():
                self._files[each] = self._hashed(each)

    def write_text(self, name: str, text: str) -> None:
        """Write a UTF-8 text file."""

        def writer(path: Path) -> None:
            path.write_text(text, encoding="utf-8")

        self.write(name, writer)

    def remove(self, name: str) -> None:
        """Remove a file and its external weights, if they are there."""
        for each in (name, _weights_of(name)):
            (self.directory / each).unlink(missing_ok=True)
            self._files.pop(each, None)

    def bundle_with(self, precision: Precision, model: BundleModel) -> Bundle:
        """Return the bundle so far, with `model` as the entry of a precision, for the runtime to open. No manifest is written."""
        models = {**self.models, precision.value: model}
        files = tuple(self._files[name] for name in sorted(self._files))
        return Bundle(self.directory, replace(self.manifest, models=models, files=files))

    def finish(self) -> None:
        """Write the manifest. It lists all files in the directory, also those that were not written by this builder."""
        names = (path.relative_to(self.directory).as_posix() for path in self.directory.rglob("*") if path.is_file())
        files = tuple(self._files.get(name) or self._hashed(name) for name in sorted(names) if name != MANIFEST)
        manifest = replace(self.manifest, models=self.models, files=files)
        (self.directory / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")

    def _hashed(self, name: str) -> BundleFile:
        path = self.directory / name
        return BundleFile(name=name, size=path.stat().st_size, sha256=sha256_of(path))


def _weights_of(name: str) -> str:
    """Return the name of the file for external weights of an ONNX model, which is needed if protobuf cannot hold them."""
    return f"{name}_data"
