"""`bundle_from_onnx`: makes a bundle from an ONNX model that another tool exported, without torch.

It reads the folders that Optimum and sentence-transformers write (`model.onnx` or `onnx/model.onnx`, with config.json and a
tokenizer) and folders of hub repositories. Nothing is compared with PyTorch. Because a file's name may be wrong, its precision is
derived from its operators and weights, and its number of labels from a run.
"""

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ...engine.bundle.bundle import Bundle
from ...engine.bundle.manifest import MANIFEST, MAX_POSITIONS, ONNX_FILES, TOKENIZER, BundleModel, Manifest
from ...engine.errors import CheckpointError
from ...engine.files.publish import check_target, published_directory
from ...engine.labels import label_number, relevant_by_name
from ...engine.text.pair_tokenizer import PairTokenizer
from ...engine.text.tokenizer import MAX_TOKENS
from ..bundle.hub_files import write_hub_files
from ..bundle.manifest import tool_versions, write_manifest
from ..checkpoint.files import (
    check_activation,
    check_name,
    default_activation,
    label_names,
    max_length_of,
    read_json,
    truncation_side,
    whole_number,
)
from ..checkpoint.modules import modules_of
from ..checkpoint.settings import Settings
from ..checkpoint.tensor_names import declared_labels
from .onnx_file import OnnxFile
from .onnx_run import inputs_of, labels_of, session_of
from .tokenizer_files import TokenizerFiles

ONNX_PATHS = ("model.onnx", "onnx/model.onnx")
POSITIONS_AFTER_PADDING = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "mpnet",
    "longformer",
    "data2vec-text",
)
"""Values of model_type for models whose positions begin after the padding id."""


def existing_onnx(directory: Path, name: str | None = None) -> Path | None:
    """Return the ONNX file of a directory that `name` denotes. Without `name`, return its `model.onnx`, or None if it has none.

    `name` is a path in the directory, the name of a file in `onnx/`, or the name of a file in any folder if only one file has it.
    Raises CheckpointError, listing the directory's ONNX files, for any other name.
    """
    if name is None:
        return next((directory / place for place in ONNX_PATHS if (directory / place).is_file()), None)
    held = onnx_files(directory)
    found = [file for file in (name, f"onnx/{name}") if file in held]
    found = found or [file for file in held if Path(file).name == name]
    if len(found) != 1 and name not in found:
        there = f"it holds {', '.join(held)}" if held else "it holds no ONNX file"
        raise CheckpointError(f"{directory} has no single ONNX file {name!r}; {there}")
    return directory / found[0]


def onnx_files(directory: Path) -> list[str]:
    """Return the ONNX files of a directory and its direct subfolders, as sorted relative names."""
    return sorted(
        path.relative_to(directory).as_posix()
        for pattern in ("*.onnx", "*/*.onnx")
        for path in directory.glob(pattern)
        if path.is_file()
    )


def bundle_from_onnx(
    directory: Path,
    out: Path,
    *,
    onnx_file: str | None = None,
    source_id: str | None = None,
    revision: str | None = None,
    activation: str | None = None,
    relevant_label: int | str | None = None,
    force: bool = False,
) -> Bundle:
    """Turn a directory with an exported ONNX model into a bundle at `out`. There is no parity check, so its parity is None.

    `onnx_file` names one of the directory's ONNX files, by default `model.onnx`. The bundle has only this model, under the
    precision that its operators and weights show. The tokenizer is the one that transformers builds from the directory's files.

    Raises CheckpointError when there is no ONNX model, when its inputs or output are not those of a cross-encoder, when its
    weights contain NaN or are outside the directory, when there is no tokenizer, and for settings that crossrt does not apply.
    """
    model = _needed_onnx(directory, onnx_file)
    check_name(directory)
    check_name(out.resolve())
    check_target(out, force=force)
    config_file = directory / "config.json"
    config = read_json(config_file)
    _check_inside(directory, model)
    read = OnnxFile.read(model)
    for data in read.external:
        _check_inside(directory, model.parent / data)
    if read.with_nan is not None:
        raise CheckpointError(f"{model}: the tensor {read.with_nan!r} holds NaN; the training or the export went wrong")
    precision = read.precision.value
    name = Path(ONNX_FILES[precision]).name
    if name in read.external:
        raise CheckpointError(
            f"{model} has weights in {name}, which is the model's name in a bundle; save it with its weights in another file"
        )
    session = session_of(model)
    inputs = inputs_of(model, session)
    tokenizer = TokenizerFiles.read(directory, config)
    positions, pad_token_id = _positions(config_file, config), _pad_token_id(config_file, config)
    architecture = _architecture(config_file, config, inputs)
    settings = Settings.read(directory)
    max_length = max_length_of(
        directory / "tokenizer_config.json", tokenizer.config, positions, saved=settings.max_length
    )
    if len(modules_of(directory) or ()) > 1:
        raise CheckpointError(
            f"{directory / 'modules.json'} has a head of Dense modules, which is not in the ONNX file; export "
            "it from PyTorch instead"
        )
    with published_directory(out, force=force) as partial:
        file = partial / ONNX_FILES[precision]
        file.parent.mkdir()
        shutil.copyfile(model, file)
        for data in read.external:
            shutil.copyfile(model.parent / data, file.parent / data)  # under the same name, which the model contains
        types_fit = tokenizer.token_types or "token_type_ids" not in inputs
        text = tokenizer.json if types_fit else tokenizer.without_types()
        (partial / TOKENIZER).write_text(text, encoding="utf-8")
        pair_tokenizer = PairTokenizer.from_file(partial / TOKENIZER, max_length=max_length)
        _check_types(directory, pair_tokenizer, architecture["token_types"])
        labels = labels_of(model, session, inputs, pair_tokenizer, pad_token_id, read.precision)
        _check_declared(directory, config, labels)
        check_activation(activation, labels)
        names = label_names(config, labels)
        chosen = None if relevant_label is None else label_number(relevant_label, names, labels)
        manifest = Manifest(
            source={
                "id": source_id or directory.name,
                "revision": revision,
                "exporter": "existing",
                "onnx_file": model.relative_to(directory).as_posix(),
                "chosen_activation": activation,
                "chosen_relevant_label": chosen,
                "warnings": list(settings.warnings),
            },
            architecture=architecture,
            labels=labels,
            label_names=names,
            relevant_label=relevant_by_name(names, labels) if chosen is None else chosen,
            prompt=settings.prompt,
            prompts=settings.prompts,
            truncation_side=truncation_side(directory, tokenizer.config),
            activation=activation or default_activation(directory, config, labels),
            max_length=max_length,
            max_positions=positions,
            pad_token_id=pad_token_id,
            inputs=dict.fromkeys(inputs, "int64"),
            models={precision: BundleModel(file=ONNX_FILES[precision])},
            tools=tool_versions(),
        )
        write_hub_files(
            partial,
            manifest,
            source=directory,
            config=config,
            tokenizer_class=tokenizer.name,
            special_tokens=tokenizer.special_tokens,
            token_types=tokenizer.token_types,
        )
        write_manifest(partial, manifest)
        Bundle.open(partial)  # nothing is published that cannot be opened
    return Bundle.open(out)


def _needed_onnx(directory: Path, name: str | None) -> Path:
    """Return what `existing_onnx` returns. Raises CheckpointError for a bundle, and if there is no such file."""
    if (directory / MANIFEST).is_file():
        raise CheckpointError(f"{directory} is a bundle of crossrt already; open it as it is")
    model = existing_onnx(directory, name)
    if model is None:
        held = onnx_files(directory)
        others = f"; choose one with --onnx-file: {', '.join(held)}" if held else "; export it from PyTorch instead"
        raise CheckpointError(f"{directory} holds no {' or '.join(ONNX_PATHS)}{others}")
    return model


def _check_inside(directory: Path, file: Path) -> None:
    """Raise CheckpointError for a link to outside the directory, except to files of the same repository in the hub cache."""
    root = directory.resolve()
    target = file.resolve()
    repository = root.parent.parent  # models--name/snapshots/commit
    blobs = [repository / "blobs"] if root.parent.name == "snapshots" else []
    if not any(target.is_relative_to(place) for place in (root, *blobs)):
        raise CheckpointError(f"{file} is a link to {target}, outside {directory}; put the file itself there")


def _check_types(directory: Path, tokenizer: PairTokenizer, types: int | None) -> None:
    if types and tokenizer.largest_type >= types:
        raise CheckpointError(
            f"{directory}: the tokenizer gives the token type {tokenizer.largest_type}, and the model has {types}; they do not "
            "belong together"
        )


def _check_declared(directory: Path, config: Mapping[str, Any], labels: int) -> None:
    declared = declared_labels(directory, config)
    if declared is not None and declared != labels:
        raise CheckpointError(f"{directory}/config.json declares {declared} labels, and the ONNX file gives {labels}")


def _architecture(file: Path, config: Mapping[str, Any], inputs: Collection[str]) -> dict[str, Any]:
    """Return the model's sizes from config.json, None for those that it does not give."""
    names = {"layers": "num_hidden_layers", "hidden_size": "hidden_size", "vocab_size": "vocab_size"}
    if "n_layers" in config:  # DistilBERT's
        names |= {"layers": "n_layers", "hidden_size": "dim"}
    sizes = {ours: whole_number(file, config, theirs, minimum=1, default=0) or None for ours, theirs in names.items()}
    kind = config.get("model_type")
    types: int | None = 0
    if "token_type_ids" in inputs:
        types = whole_number(file, config, "type_vocab_size", minimum=0, default=0) or None
    return {"model_type": kind if isinstance(kind, str) else None, **sizes, "token_types": types}


def _positions(file: Path, config: Mapping[str, Any]) -> int:
    """Return the number of tokens of the longest pair that the model has positions for."""
    positions = whole_number(file, config, "max_position_embeddings", minimum=1)
    if str(config.get("model_type")) in POSITIONS_AFTER_PADDING:
        positions -= whole_number(file, config, "pad_token_id", minimum=0, default=1) + 1
    if not 1 <= positions <= MAX_POSITIONS:
        raise CheckpointError(
            f"{file}: max_position_embeddings is {config['max_position_embeddings']}, which leaves {positions} positions for "
            f"tokens; 1 to {MAX_POSITIONS} are supported"
        )
    return positions


def _pad_token_id(file: Path, config: Mapping[str, Any]) -> int:
    """Return the id of padding, 0 if config.json gives none or a negative one. Raises CheckpointError if the model lacks the
    id."""
    number = max(0, whole_number(file, config, "pad_token_id", minimum=-(2**31), default=0))
    vocabulary = whole_number(file, config, "vocab_size", minimum=1, default=MAX_TOKENS)
    if number >= vocabulary:
        raise CheckpointError(f"{file}: pad_token_id is {number}, and the model has {vocabulary} token ids")
    return number
