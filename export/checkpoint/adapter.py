"""Merges LoRA adapters (`adapter_config.json`) into the model on which they were trained, with peft."""

import shutil
import tempfile
import warnings
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...engine.bundle.resolve import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_base, fetched_checkpoint
from ...engine.errors import CheckpointError, CrossrtError, SourceError
from ...engine.process.telemetry import telemetry_off
from .files import first_five, first_line, read_json, shown
from .heads import head_of
from .unsupported import naming_alternatives, unsupported_error
from .weights import WEIGHTS, read_file, read_tensors, unwrapped

BY_HAND = (
    "merge it where it was trained, with peft's merge_and_unload() and save_pretrained(), and give the directory of the "
    "result"
)
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "*.codes", "*.model")
"""Patterns of the files that hold a vocabulary. *.codes are of PhoBERT and BERTweet, *.model of SentencePiece."""
TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
OTHER_SETTINGS = ("config_sentence_transformers.json", "modules.json", "sentence_bert_config.json")

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


def merged(path: Path) -> tuple[Path, TemporaryFolder]:
    """Merge the adapter in a directory. Return the directory of the merged checkpoint, and the temporary folder that contains it.

    The base model is the one that adapter_config.json names: a directory, or a hub id, which is fetched. The tokenizer is the
    adapter's or else the base model's. Raises CheckpointError if peft is not installed, for adapters other than LoRA, for a base
    model that is not found, and if a tensor would keep random values.
    """
    config, adapter = read_json(path / ADAPTER_CONFIG), _weights(path)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"{path / ADAPTER_CONFIG}: peft_type is {shown(kind)}; LORA is merged by crossrt. Or {BY_HAND}"
        )
    task = config.get("task_type")
    if task not in (None, "SEQ_CLS"):
        raise CheckpointError(
            f"{path / ADAPTER_CONFIG}: task_type is {shown(task)}, so the adapter was trained for something else than scoring "
            "pairs; that of a cross-encoder is SEQ_CLS, or is left out. peft and transformers run it for its own task"
        )
    if config.get("megatron_config"):
        # peft would import the module that `megatron_core` names.
        raise CheckpointError(
            f"{path / ADAPTER_CONFIG}: megatron_config is set, which crossrt does not support; {BY_HAND}"
        )
    try:
        with telemetry_off():
            import peft
    except ImportError as error:
        raise CheckpointError(
            f"{path} holds a LoRA adapter ({ADAPTER_CONFIG}), not a whole model, and merging it needs peft ({error}): "
            f"pip install peft; or {BY_HAND}"
        ) from None
    base = _base(path, config)
    temporary = TemporaryFolder()
    directory = temporary.path / (path.resolve().name or "adapter")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about deprecated functions of transformers that peft calls
            _merge(path, base, adapter, directory, peft)
    except CrossrtError:
        raise
    except Exception as error:  # peft and transformers raise many types
        raise CheckpointError(
            f"{path}: peft {peft.__version__} cannot merge the adapter into {base} ({first_line(error)}); {BY_HAND}"
        ) from error
    _copy_files(path, base, directory)
    return directory, temporary


def _weights(path: Path) -> dict[str, Any]:
    """Return an adapter's tensors by the names of the model's parts, without peft's additions."""
    file = next((path / name for name in ADAPTER_WEIGHTS if (path / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{path} has {ADAPTER_CONFIG}, but neither {' nor '.join(ADAPTER_WEIGHTS)}")
    return {_plain(name): value for name, value in read_file(file).items()}


def _plain(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".modules_to_save", "").replace(".default", "")


def _base(path: Path, config: Mapping[str, Any]) -> Path:
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
            base, _ = fetched_checkpoint(name, revision=revision if isinstance(revision, str) else None, owner=None)
        except SourceError as error:
            raise CheckpointError(
                f"{path} is an adapter of {name}, which is needed to merge it and was not found ({error}). Change "
                f"base_model_name_or_path in {ADAPTER_CONFIG} to the directory of that model, or {BY_HAND}"
            ) from error
    if (base / ADAPTER_CONFIG).is_file():
        raise CheckpointError(f"{path} is an adapter of {base}, which holds an adapter itself; {BY_HAND}")
    return base


def _merge(path: Path, base: Path, adapter: Mapping[str, Any], directory: Path, peft: Any) -> None:
    import torch

    with telemetry_off():
        import transformers

    labels = [value.shape[0] for name, value in adapter.items() if name in HEADS and value.ndim == 2]
    choice = {"num_labels": labels[0]} if labels else {}
    fields = read_json(base / "config.json")
    classes: Any = transformers.AutoModelForSequenceClassification
    config = transformers.AutoConfig.from_pretrained(base, trust_remote_code=False, local_files_only=True, **choice)
    with torch.device("meta"):
        empty = classes.from_config(config, trust_remote_code=False)
    names = dict(empty.state_dict())
    if head_of(names) is None:
        fields |= {"architectures": [type(empty).__name__]}
        with naming_alternatives(path, fields, names):
            raise unsupported_error(path, fields, names)
    model, loading = type(empty).from_pretrained(
        None,
        config=config,
        state_dict=unwrapped(read_tensors(base), base),
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
    whole = peft.PeftModel.from_pretrained(model, str(path))
    expected = {_plain(name) for name in peft.get_peft_model_state_dict(whole)}
    if expected != set(adapter):
        raise CheckpointError(
            f"{path}: the adapter's tensors are not those that {ADAPTER_CONFIG} describes: "
            + first_five(
                [f"{name} is missing" for name in sorted(expected - set(adapter))]
                + [f"{name} is not used" for name in sorted(set(adapter) - expected)]
            )
        )
    whole.merge_and_unload().save_pretrained(directory)


def _copy_files(path: Path, base: Path, directory: Path) -> None:
    source = path if any(file.is_file() for name in TOKENIZER_FILES for file in path.glob(name)) else base
    for folder, names in ((source, (*TOKENIZER_FILES, *TOKENIZER_SETTINGS)), (path, OTHER_SETTINGS)):
        for file in (found for name in names for found in folder.glob(name)):
            if file.is_file():
                shutil.copyfile(file, directory / file.name)
