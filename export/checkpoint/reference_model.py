"""The reference's model in PyTorch.

transformers itself loads models with stock heads from the files. For two heads transformers has no class; they are its bare
encoder (the trunk) with the checkpoint's linear layer. A head of Dense modules is its bare encoder with the modules' layers.
"""

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...engine.errors import CheckpointError
from ...engine.process.telemetry import telemetry_off
from .checkpoint import Checkpoint
from .heads import Head
from .weights import read_tensors

with telemetry_off():
    import transformers


class StockModel(torch.nn.Module):
    """A model of transformers. `input_names` are the parameter names of its `forward`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.input_names = frozenset(inspect.signature(model.forward).parameters)

    def forward(self, encoded: dict[str, Any]) -> Any:
        """Return the logits of a batch, [rows, labels]."""
        return self.model(**encoded, return_dict=True).logits


class TrunkAndLinear(torch.nn.Module):
    """A bare trunk and one linear layer that reads `[CLS]`."""

    def __init__(self, trunk: Any, weight: Any, bias: Any) -> None:
        super().__init__()
        self.trunk = trunk
        self.input_names = frozenset(inspect.signature(trunk.forward).parameters)
        self.weight, self.bias = weight.float(), bias.float()

    def forward(self, encoded: dict[str, Any]) -> Any:
        """Return the logits of a batch, [rows, labels]."""
        cls = self.trunk(**encoded).last_hidden_state[:, 0]
        return torch.nn.functional.linear(cls, self.weight, self.bias)


class TrunkAndDense(torch.nn.Module):
    """A bare trunk and the Dense and LayerNorm modules of sentence-transformers, which read `[CLS]` or the mean of the tokens.

    The modules are read from their folders.
    """

    def __init__(self, trunk: Any, path: Path) -> None:
        super().__init__()
        self.trunk = trunk
        self.input_names = frozenset(inspect.signature(trunk.forward).parameters)
        modules = json.loads((path / "modules.json").read_text(encoding="utf-8"))
        pooling = json.loads((path / modules[1]["path"] / "config.json").read_text(encoding="utf-8"))
        mode = pooling.get("pooling_mode") or ("cls" if pooling.get("pooling_mode_cls_token") else "mean")
        self.reads_cls = mode in ("cls", ["cls"])
        layers = (path / module["path"] for module in modules[2:])
        self.layers = torch.nn.Sequential(
            *(_norm(folder) if folder.name.endswith("LayerNorm") else _dense(folder) for folder in layers)
        )

    def forward(self, encoded: dict[str, Any]) -> Any:
        """Return the logits of a batch, [rows, labels]."""
        tokens = self.trunk(**encoded).last_hidden_state
        if self.reads_cls:
            return self.layers(tokens[:, 0])
        mask = encoded["attention_mask"].unsqueeze(-1).to(tokens.dtype)
        return self.layers((tokens * mask).sum(dim=1) / mask.sum(dim=1))


def _norm(folder: Path) -> torch.nn.LayerNorm:
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    norm = torch.nn.LayerNorm(fields["dimension"])
    norm.load_state_dict({name.removeprefix("norm."): value for name, value in read_tensors(folder).items()})
    return norm


def _dense(folder: Path) -> torch.nn.Sequential:
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    linear = torch.nn.Linear(fields["in_features"], fields["out_features"], bias=fields.get("bias", True))
    linear.load_state_dict({name.removeprefix("linear."): value for name, value in read_tensors(folder).items()})
    activation = fields.get("activation_function", "torch.nn.modules.activation.Tanh").rpartition(".")[2]
    return torch.nn.Sequential(linear, getattr(torch.nn, activation)())


def _trunk_and_dense(checkpoint: Checkpoint, config: Any) -> TrunkAndDense:
    auto: Any = transformers.AutoModel
    trunk = auto.from_config(config)
    prefix = checkpoint.layout.prefix
    tensors = checkpoint.original_tensors()
    state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    missing = trunk.load_state_dict(state, strict=False).missing_keys
    needed = [name for name in missing if "position_ids" not in name and not name.startswith("pooler.")]
    if needed:
        raise CheckpointError(f"{checkpoint.path}: the reference lacks the tensors {', '.join(needed[:5])}")
    model = TrunkAndDense(trunk, checkpoint.path).float()
    model.eval()
    return model


def reference_model(checkpoint: Checkpoint, config: Any) -> StockModel | TrunkAndLinear | TrunkAndDense:
    """Load a checkpoint in FP32 and evaluation mode. Raises CheckpointError if weights are missing."""
    if checkpoint.dense_modules:
        return _trunk_and_dense(checkpoint, config)
    if checkpoint.head in (Head.ELECTRA_PLAIN, Head.BERT_CAT):
        linear = "classifier.out_proj" if checkpoint.head is Head.ELECTRA_PLAIN else "_classification_layer"
        trunk = (
            transformers.ElectraModel(config)
            if checkpoint.head is Head.ELECTRA_PLAIN
            else transformers.DistilBertModel(config)
        )
        tensors = checkpoint.original_tensors()
        prefix = checkpoint.layout.prefix
        state = {name.removeprefix(prefix): value.float() for name, value in tensors.items() if name.startswith(prefix)}
        missing = [
            name for name in trunk.load_state_dict(state, strict=False).missing_keys if "position_ids" not in name
        ]
        if missing:
            raise CheckpointError(f"{checkpoint.path}: the reference lacks the tensors {', '.join(missing[:5])}")
        model = TrunkAndLinear(trunk, tensors[f"{linear}.weight"], tensors[f"{linear}.bias"])
        model.eval()
        return model
    stock: Any = transformers.AutoModelForSequenceClassification
    # transformers does not know the tensor names of DataParallel, and auto classes accept no state dict without a path.
    source: Any = checkpoint.path
    weights: dict[str, Any] = {}
    if checkpoint.wrapped:
        stock = transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
        source, weights = None, {"state_dict": checkpoint.original_tensors()}
    with _without_loading_bar():
        loaded, loading = stock.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
            **weights,
        )
    if loading["missing_keys"]:
        raise CheckpointError(
            f"{checkpoint.path}: transformers gave random weights to {', '.join(sorted(loading['missing_keys'])[:5])}"
        )
    loaded.eval()
    return StockModel(loaded)


@contextmanager
def _without_loading_bar() -> Iterator[None]:
    log: Any = transformers.utils.logging
    level, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()  # Checkpoint.unused_tensors already has the names of unused tensors
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bar:
            log.enable_progress_bar()
