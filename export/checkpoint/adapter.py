"""Merges LoRA adapters (`adapter_config.json`) into the model on which they were trained, with peft."""

import dataclasses
import json
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...engine.bundle.resolve import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_base, fetched_checkpoint
from ...engine.errors import CheckpointError, CrossrtError, SourceError
from ...engine.process.telemetry import telemetry_off
from .files import first_five, first_line, read_json, shown
from .heads import head_of
from .unsupported import naming_alternatives, unsupported_error
from .weights import BUFFERS, WEIGHTS, check_not_quantized, read_file, read_tensors, unwrapped

BY_HAND = (
    "merge it where it was trained, with peft's merge_and_unload() and save_pretrained(), and give the directory of the "
    "result"
)
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "*.codes", "*.model")
"""Patterns of the files that hold a vocabulary. *.codes are of PhoBERT and BERTweet, *.model of SentencePiece."""
TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
OTHER_SETTINGS = ("config_sentence_transformers.json", "modules.json", "sentence_bert_config.json")

PREFIX = "base_model.model."
"""peft puts this before the names of the model's parts."""
PROMPTS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT")
"""Values of peft_type whose virtual tokens cannot be merged into weights."""
UNSUPPORTED = ("megatron_config", "layer_replication")
"""Settings of LoRA that are refused. peft would import the module that `megatron_core`, a part of the first, names. Repeated
layers share tensors, which safetensors does not save."""
INITIAL = (True, False, None, "gaussian", "eva", "mica", "orthogonal", "olora", "pissa")
"""Values of init_lora_weights that leave the base model as it is, or change it in a way that peft repeats from its weights. The
others change it by random numbers or by training data before the training begins, and peft cannot repeat that."""

HEADS = ("classifier.weight", "classifier.out_proj.weight", "score.weight")
"""Names of the weight of the last linear layer, which has one row per label."""


def is_adapter(path: Path) -> bool:
    """Tell whether a directory holds an adapter. Raises CheckpointError if it also holds a whole model."""
    if not (path / ADAPTER_CONFIG).is_file():
        return False
    whole = next((name for name in WEIGHTS if (path / name).is_file()), None)
    if whole is not None:
        raise CheckpointError(
            f"{path} holds an adapter ({ADAPTER_CONFIG}) and whole weights ({whole}), and which of them is meant is unknown: "
            f"delete {ADAPTER_CONFIG} if the adapter is merged already, or else {whole}"
        )
    return True


class TemporaryFolder:
    """A folder that is deleted when this object is freed or the process ends."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="crossrt-merged-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Merged:
    """The `directory` of a merged checkpoint, the temporary `folder` that contains it, and what was left out, in words."""

    directory: Path
    folder: TemporaryFolder
    warnings: tuple[str, ...]


def merged(path: Path, hub: Mapping[str, Any]) -> Merged:
    """Merge the adapter in a directory.

    The base model is the one that adapter_config.json names: a directory, or a hub id, which is fetched with the options `hub` of
    `fetched_checkpoint`. The tokenizer is the adapter's or else the base model's. Raises CheckpointError without peft, for
    adapters other than LoRA, for a base model that is not found or is quantized, and if a tensor would keep random values.
    """
    config = read_json(path / ADAPTER_CONFIG)
    kind = config.get("peft_type")
    if kind != "LORA":
        other = (
            "Its virtual tokens cannot be merged into weights: peft and transformers run it"
            if kind in PROMPTS
            else f"Or {BY_HAND}"
        )
        raise CheckpointError(
            f"{path / ADAPTER_CONFIG}: peft_type is {shown(kind)}; LORA is merged by crossrt. {other}"
        )
    task = config.get("task_type")
    if task not in (None, "SEQ_CLS"):
        raise CheckpointError(
            f"{path / ADAPTER_CONFIG}: task_type is {shown(task)}, so the adapter was trained for something else than scoring "
            "pairs; that of a cross-encoder is SEQ_CLS, or is left out. peft and transformers run it for its own task"
        )
    for name in UNSUPPORTED:
        if config.get(name):
            raise CheckpointError(f"{path / ADAPTER_CONFIG}: {name} is set, which crossrt does not support; {BY_HAND}")
    initial = config.get("init_lora_weights")
    if (initial.lower() if isinstance(initial, str) else initial) not in INITIAL:
        raise CheckpointError(
            f"{path / ADAPTER_CONFIG}: init_lora_weights is {shown(initial)}, which changes the base model before the training, "
            "and the change is not in the files; save the adapter where it was trained, with "
            f"path_initial_model_for_weight_conversion, or {BY_HAND}"
        )
    adapter = _weights(path)
    try:
        with telemetry_off():
            import peft
    except ImportError as error:
        raise CheckpointError(
            f"{path} holds a LoRA adapter ({ADAPTER_CONFIG}), not a whole model, and merging it needs peft ({error}): "
            f"pip install peft; or {BY_HAND}"
        ) from None
    base = _base(path, config, hub)
    temporary = TemporaryFolder()
    directory = temporary.path / (path.resolve().name or "adapter")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about deprecated functions of transformers that peft calls
            unused = _merge(path, base, config, adapter, directory, peft)
    except CrossrtError:
        raise
    except Exception as error:  # peft and transformers raise many types
        why = f"it lacks the tensor {error}" if isinstance(error, KeyError) else first_line(error)
        raise CheckpointError(
            f"{path}: peft {peft.__version__} cannot merge the adapter into {base} ({why}); {BY_HAND}"
        ) from error
    _copy_files(path, base, directory)
    left = [f"{base}: tensors that the model does not use: {', '.join(unused)}"] if unused else []
    known = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    unknown = [f"{name} = {shown(value)}" for name, value in config.items() if name not in known and value]
    if unknown:
        left.append(
            f"{ADAPTER_CONFIG}: peft {peft.__version__} does not know {', '.join(unknown)}; see whether scores depend on it, and "
            "install a newer peft if they do"
        )
    return Merged(directory, temporary, tuple(left))


def _weights(path: Path) -> dict[str, Any]:
    """Return an adapter's tensors by peft's names, without the parts of PyTorch's wrappers."""
    file = next((path / name for name in ADAPTER_WEIGHTS if (path / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{path} has {ADAPTER_CONFIG}, but neither {' nor '.join(ADAPTER_WEIGHTS)}")
    tensors = unwrapped(read_file(file), path)
    odd = [name for name in tensors if not name.startswith(PREFIX)]
    if odd:
        raise CheckpointError(
            f"{file} holds {first_five(odd)}, and peft's names begin with {PREFIX}; "
            "save the adapter with peft's save_pretrained()"
        )
    return tensors


def _plain(name: str) -> str:
    """Return the name of the model's part, without peft's additions."""
    return name.removeprefix(PREFIX).replace(".modules_to_save", "").replace(".default", "")


def _base(path: Path, config: Mapping[str, Any], hub: Mapping[str, Any]) -> Path:
    """Return the directory of the base model. A relative path is looked up in the working directory and the adapter's."""
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise CheckpointError(
            f"{path / ADAPTER_CONFIG}: base_model_name_or_path is {shown(name)}; the base model is expected"
        )
    base = adapter_base(path)
    if base is None:
        revision = config.get("revision")
        try:
            revision = revision if isinstance(revision, str) else None
            base, _ = fetched_checkpoint(name, revision=revision, owner=None, **hub)
        except SourceError as error:
            raise CheckpointError(
                f"{path} is an adapter of {name}, which is needed to merge it and was not found ({error}). Change "
                f"base_model_name_or_path in {ADAPTER_CONFIG} to the directory of that model, or {BY_HAND}"
            ) from error
    if (base / ADAPTER_CONFIG).is_file():
        raise CheckpointError(f"{path} is an adapter of {base}, which holds an adapter itself; {BY_HAND}")
    return base


def _merge(
    path: Path, base: Path, config: Mapping[str, Any], tensors: Mapping[str, Any], directory: Path, peft: Any
) -> list[str]:
    """Write the merged checkpoint. Return the names of the base model's tensors that belong to its encoder and are not used."""
    import torch

    with telemetry_off():
        import transformers

    adapter = {_plain(name): value for name, value in tensors.items()}
    labels = [value.shape[0] for name, value in adapter.items() if name in HEADS and value.ndim == 2]
    choice = {"num_labels": labels[0]} if labels else {}
    fields = read_json(base / "config.json")
    classes: Any = transformers.AutoModelForSequenceClassification
    settings = transformers.AutoConfig.from_pretrained(base, trust_remote_code=False, local_files_only=True, **choice)
    with torch.device("meta"):
        empty = classes.from_config(settings, trust_remote_code=False)
    names = dict(empty.state_dict())
    if head_of(names) is None:
        fields |= {"architectures": [type(empty).__name__]}
        with naming_alternatives(path, fields, names):
            raise unsupported_error(path, fields, names)
    stored = unwrapped(read_tensors(base), base)
    check_not_quantized(base, fields, stored)
    model, loading = type(empty).from_pretrained(
        None,
        config=settings,
        state_dict=stored,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    mismatched = [name if isinstance(name, str) else name[0] for name in loading["mismatched_keys"]]
    random = sorted({*loading["missing_keys"], *mismatched} - {*adapter})
    if random:
        raise CheckpointError(
            f"{path}: neither the adapter nor {base} holds {first_five(random)}, which would be left at random values; save the "
            "adapter with these modules in modules_to_save"
        )
    # A vocabulary that grew in training is in the adapter as a whole.
    [embeddings] = [name for name, module in model.named_modules() if module is model.get_input_embeddings()]
    tables = {
        f"{embeddings}.{part}weight" for part in ("", "base_layer.", "token_adapter.base_layer.", "original_module.")
    }
    tables.intersection_update(adapter)
    for rows in {len(adapter[name]) for name in tables} - {settings.vocab_size}:
        model.resize_token_embeddings(rows, mean_resizing=False)
    cleaned = directory.with_name(f"{directory.name}-adapter")
    _write_adapter(config, tensors, base, cleaned)
    whole = peft.PeftModel.from_pretrained(model, cleaned)
    expected = {_plain(name) for name in peft.get_peft_model_state_dict(whole, save_embedding_layers=False)}
    expected |= tables.intersection(_plain(name) for name in whole.state_dict())
    if expected != set(adapter):
        raise CheckpointError(
            f"{path}: the adapter's tensors are not those that {ADAPTER_CONFIG} describes: "
            + first_five(
                [f"{name} is missing" for name in sorted(expected - set(adapter))]
                + [f"{name} is not used" for name in sorted(set(adapter) - expected)]
            )
        )
    whole.merge_and_unload().save_pretrained(directory)
    prefix, parts = f"{model.base_model_prefix}.", {name for name, _ in model.base_model.named_children()}
    return sorted(
        name
        for name in loading["unexpected_keys"]
        if name.removeprefix(prefix).split(".")[0] in parts and not name.endswith(BUFFERS)
    )


def _write_adapter(config: Mapping[str, Any], tensors: Mapping[str, Any], base: Path, directory: Path) -> None:
    """Write the adapter for peft, which does not know the names of PyTorch's wrappers."""
    from safetensors.torch import save_file

    directory.mkdir()
    (directory / ADAPTER_CONFIG).write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    alone = {name: value.contiguous().clone() for name, value in tensors.items()}  # a pickle's may share memory
    save_file(alone, directory / ADAPTER_WEIGHTS[0])


def _copy_files(path: Path, base: Path, directory: Path) -> None:
    source = path if any(file.is_file() for name in TOKENIZER_FILES for file in path.glob(name)) else base
    for folder, names in ((source, (*TOKENIZER_FILES, *TOKENIZER_SETTINGS)), (path, OTHER_SETTINGS)):
        for file in (found for name in names for found in folder.glob(name)):
            if file.is_file():
                shutil.copyfile(file, directory / file.name)
