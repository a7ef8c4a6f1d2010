"""The manifest of a bundle under construction."""

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...engine.bundle.manifest import MANIFEST, Manifest, listed
from ..checkpoint.checkpoint import Checkpoint

TOOLS = ("crossrt", "torch", "transformers", "onnx", "onnxruntime", "tokenizers", "numpy", "optimum-onnx")


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write a manifest that lists the files in the directory with their hashes."""
    manifest = replace(manifest, files=listed(directory))
    (directory / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def tool_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages in `TOOLS`, for the manifest."""
    versions = {"python": platform.python_version()}
    for tool in TOOLS:
        try:
            versions[tool] = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def manifest_of(checkpoint: Checkpoint, source: Mapping[str, Any]) -> Manifest:
    """Return the manifest of a checkpoint's bundle, still without models and files."""
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
        max_positions=checkpoint.dimensions.positions,
        pad_token_id=checkpoint.pad_token_id,
        truncation_side=checkpoint.truncation_side,
        inputs=dict.fromkeys(inputs, "int64"),
        models={},
        tools=tool_versions(),
    )
