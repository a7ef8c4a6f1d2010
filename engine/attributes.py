"""Attributes that clients and evaluators of sentence-transformers read from a `CrossEncoder`.

These are `config`, `tokenizer`, `model_card_data` and others, and the methods that move or convert a PyTorch model.
"""

import json
from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from .activation import Activation
from .bundle.bundle import Bundle
from .compatibility import device_names, is_dtype
from .errors import OptionError
from .log import warn_once
from .precision import Precision
from .process.telemetry import telemetry_off
from .runtime.scorer import Scorer
from .text.inputs import is_single

Model = TypeVar("Model", bound="ModelAttributes")

ABSENT = {
    "fit": "train with sentence-transformers, then export the checkpoint",
    "old_fit": "train with sentence-transformers, then export the checkpoint",
    "train": "train with sentence-transformers, then export the checkpoint",
    "gradient_checkpointing_enable": "train with sentence-transformers, then export the checkpoint",
    "save": "copy the bundle, the directory model.bundle.path",
    "save_pretrained": "copy the bundle, the directory model.bundle.path",
    "save_to_hub": "upload the bundle, the directory model.bundle.path, with huggingface_hub",
    "push_to_hub": "upload the bundle, the directory model.bundle.path, with huggingface_hub",
    "start_multi_process_pool": "one process uses all processors; open one CrossEncoder per process for more",
    "stop_multi_process_pool": "one process uses all processors; open one CrossEncoder per process for more",
    "parameters": "weights are not tensors of PyTorch here; model.device and model.dtype say where and how it computes",
    "named_parameters": "weights are not tensors of PyTorch here; read the checkpoint that was exported",
    "state_dict": "weights are not tensors of PyTorch here; read the checkpoint that was exported",
    "modules": "there are no modules of PyTorch here; model.bundle.manifest describes the model",
    "forward": "call predict, or model.model with the tensors of a tokenizer",
    "preprocess": "call model.tokenizer",
    "tokenize": "call model.tokenizer",
    "compile": "the model is compiled already; leave it out",
    "tokenizer": "transformers is not installed: pip install transformers",
    "dtype": "torch is not installed; model.precision says it too",
}
"""Attribute of a PyTorch model -> what to use instead, for the message of the AttributeError."""

SPECIAL_TOKENS = {
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
    "unk_token": ("[UNK]", "<unk>"),
    "bos_token": ("<s>",),
    "eos_token": ("</s>",),
}
"""Name of a special token in transformers -> its spellings."""


class Device(str):
    """The name of a device, such as `cpu` or `cuda:0`, with the attributes of a torch.device."""

    __slots__ = ()

    @property
    def type(self) -> str:
        """`cpu` or `cuda`."""
        return self.partition(":")[0]

    @property
    def index(self) -> int | None:  # type: ignore[override]
        """The GPU's number, or None for the CPU and for several GPUs."""
        number = self.partition(":")[2]
        return int(number) if number.isdecimal() else None

    def __eq__(self, other: object) -> bool:
        # torch.device.__eq__ returns NotImplemented for other types, so this comparison decides for both sides.
        return str.__eq__(self, str(other) if type(other).__name__ == "device" else other) is True

    __hash__ = str.__hash__


class ModelConfig(SimpleNamespace):
    """The fields of a transformers configuration that clients read; `vars(config)` has all of them."""

    num_labels: int
    id2label: dict[int, str]
    label2id: dict[str, int]
    pad_token_id: int
    max_position_embeddings: int

    @classmethod
    def of(cls, bundle: Bundle) -> "ModelConfig":
        """Return the configuration of a bundle's model."""
        manifest = bundle.manifest
        labels = dict(enumerate(manifest.label_names or [f"LABEL_{index}" for index in range(manifest.labels)]))
        architecture: Mapping[str, Any] = manifest.architecture
        return cls(
            _name_or_path=str(bundle.path),
            model_type=architecture.get("model_type"),
            num_labels=manifest.labels,
            id2label=labels,
            label2id={name: index for index, name in labels.items()},
            pad_token_id=manifest.pad_token_id,
            max_position_embeddings=manifest.max_positions,
            hidden_size=architecture.get("hidden_size"),
            num_hidden_layers=architecture.get("layers"),
            num_attention_heads=architecture.get("attention_heads"),
            intermediate_size=architecture.get("intermediate_size"),
            vocab_size=architecture.get("vocab_size"),
        )


class ModelCardData:
    """Stores the metrics that evaluators report: `eval_results_dict` maps an evaluator to its metrics."""

    def __init__(self) -> None:
        self.eval_results_dict: dict[Any, dict[str, Any]] = {}

    def set_evaluation_metrics(self, evaluator: Any, metrics: Mapping[str, Any], epoch: int = 0, step: int = 0) -> None:
        """Store the metrics of an evaluator. `epoch` and `step` are ignored."""
        self.eval_results_dict[evaluator] = dict(metrics)


class ModelAttributes:
    """Attributes of a PyTorch model that also make sense for an exported one."""

    bundle: Bundle
    _scorer: Scorer

    @property
    def num_labels(self) -> int:
        """Number of labels; 1 for most rerankers."""
        return self.bundle.manifest.labels

    @property
    def precision(self) -> Precision:
        """The precision that the model computes in."""
        return self._scorer.config.precision

    @property
    def device(self) -> Device:
        """The model's device: a string such as `cpu` or `cuda:0` that also has the `type` and `index` of a torch.device."""
        return Device(self._scorer.config.device)

    @property
    def dtype(self) -> Any:
        """The precision as a torch.dtype; float32 for INT8, whose logits are float32. Needs torch."""
        try:
            import torch
        except ImportError as error:
            raise AttributeError(ABSENT["dtype"]) from error
        return {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}.get(self.precision, torch.float32)

    @cached_property
    def config(self) -> ModelConfig:
        """The model's configuration. Changing it changes no score."""
        return ModelConfig.of(self.bundle)

    def eval(self: Model) -> Model:
        """Return the model. It is always in evaluation mode."""
        return self

    def to(self: Model, *target: Any, device: Any = None, dtype: Any = None, **ignored: Any) -> Model:
        """Return the model if it is already on that device. Device and precision are chosen when the model is opened.

        Raises OptionError for another device. Another dtype only logs a warning, since the scores are correct in the precision
        that the model was opened in.
        """
        for value in (*target, device, dtype):
            if is_dtype(value):
                self._keep_precision(str(value))
            elif value is not None:
                self.check_device(value)
        return self

    def cpu(self: Model) -> Model:
        """See `to`."""
        return self.to("cpu")

    def cuda(self: Model, device: Any = None) -> Model:
        """See `to`."""
        return self.to("cuda" if device is None else device)

    def half(self: Model) -> Model:
        """See `to`."""
        return self._keep_precision("torch.float16")

    def bfloat16(self: Model) -> Model:
        """See `to`."""
        return self._keep_precision("torch.bfloat16")

    def float(self: Model) -> Model:
        """See `to`."""
        return self._keep_precision("torch.float32")

    def check_device(self, device: Any) -> None:
        """Raise OptionError unless `device`, or each device of a list, is where the model runs."""
        names = device_names(device)
        own = (None, self.device, self.device.type, *self.device.split(", "))  # several GPUs are `cuda:0, cuda:1`
        for name in names if isinstance(names, list) else [names]:
            if name not in own:
                raise OptionError(f"this model is on {self.device}: open it with device={str(device)!r}")

    def _keep_precision(self: Model, dtype: str) -> Model:
        known = {Precision.FP16: "torch.float16", Precision.BF16: "torch.bfloat16"}
        if dtype != known.get(self.precision, "torch.float32"):
            warn_once(
                f"the model stays in {self.precision.value}: its precision is chosen when it is opened, with "
                "precision='fp16', 'bf16' or 'int8'"
            )
        return self

    if not TYPE_CHECKING:  # with it, type checkers would accept every attribute name

        def __getattr__(self, name: str) -> Any:
            # Called for names that do not exist, and when a property above raises AttributeError.
            if name in ABSENT:
                raise AttributeError(f"{type(self).__name__} of crossrt has no {name!r}: {ABSENT[name]}")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class CrossEncoderAttributes(ModelAttributes):
    """Further attributes that clients and evaluators read from a `CrossEncoder`."""

    activation_fn: Activation
    max_length: int
    model_card_data: Any

    @property
    def default_activation_function(self) -> Activation:
        """The name of `activation_fn` in sentence-transformers 3. May be set."""
        return self.activation_fn

    @default_activation_function.setter
    def default_activation_function(self, activation: Activation) -> None:
        self.activation_fn = activation

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer as a `PreTrainedTokenizerFast`, for example to call `model` with its output. Needs transformers.

        `predict` and `rank` use a tokenizer of their own, so changing this one changes no score.
        """
        tokenizer = self._tokenizer
        tokenizer.model_max_length = self.max_length
        return tokenizer

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            with telemetry_off():
                transformers: Any = import_module("transformers")
        except ImportError as error:
            raise AttributeError(ABSENT["tokenizer"]) from error
        file = self.bundle.tokenizer_file
        self.bundle.check_same()
        added = json.loads(file.read_text(encoding="utf-8")).get("added_tokens") or ()
        texts = {token["id"]: token["content"] for token in added}
        special = {
            name: text for name, spellings in SPECIAL_TOKENS.items() for text in spellings if text in texts.values()
        }
        manifest = self.bundle.manifest
        return transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(file),
            pad_token=texts.get(manifest.pad_token_id),
            truncation_side=manifest.truncation_side,
            model_input_names=[
                name for name in ("input_ids", "token_type_ids", "attention_mask") if name in manifest.inputs
            ],
            **special,
        )

    def get_backend(self) -> str:
        """Return the name of the runtime that computes, such as `onnxruntime`."""
        return self._scorer.config.backend

    def get_max_seq_length(self) -> int:
        """Return the longest pair in tokens. See `max_length`."""
        return self.max_length

    @staticmethod
    def is_singular_input(inputs: Any) -> bool:
        """Tell whether `predict` treats `inputs` as a single pair."""
        return is_single(inputs)

    def evaluate(self, evaluator: Any, output_path: str | None = None) -> Any:
        """Run an evaluator of sentence-transformers on this model and return its metrics."""
        return evaluator(self, output_path)
