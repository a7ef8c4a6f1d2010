"""Writing the manifest of a bundle under construction."""

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..engine.bundle import MANIFEST, BundleModel, Manifest, listed

TOOLS = ("crossrt", "torch", "transformers", "onnx", "onnxruntime", "tokenizers", "numpy", "optimum-onnx")


def write_manifest(directory: Path, manifest: Manifest, models: Mapping[str, BundleModel] | None = None) -> None:
    """Write the manifest of a bundle under construction: the files that are there, and `models` where given."""
    files = listed(path for path in directory.iterdir() if path.name != MANIFEST)
    manifest = replace(manifest, files=files, models=models or manifest.models)
    (directory / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def tool_versions() -> dict[str, str]:
    """Return the versions of what took part, for the manifest."""
    versions = {"python": platform.python_version()}
    for tool in TOOLS:
        try:
            versions[tool] = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
