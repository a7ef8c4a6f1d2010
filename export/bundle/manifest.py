"""Writing the manifest of a bundle under construction."""

import importlib.metadata
import platform
from dataclasses import replace
from pathlib import Path

from ...engine.bundle.manifest import MANIFEST, Manifest, listed

TOOLS = ("crossrt", "torch", "transformers", "onnx", "onnxruntime", "tokenizers", "numpy", "optimum-onnx")


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest of a bundle under construction, listing the files that are there."""
    manifest = replace(manifest, files=listed(directory))
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
