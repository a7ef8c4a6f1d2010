"""`AutoModelForSequenceClassification`: a model that is opened and called like the class of that name in transformers."""

import inspect
from typing import Any

from .compatibility import KEYWORDS
from .cross_encoder import CrossEncoder
from .token_model import TokenModel


class AutoModelForSequenceClassification(TokenModel):
    """A cross-encoder that is called with token ids; `from_pretrained` opens it. Several threads may call it at once."""

    @classmethod
    def from_pretrained(cls, model_name_or_path: Any, **options: Any) -> "AutoModelForSequenceClassification":
        """Open a bundle, a checkpoint directory or a hub id, with the options of `CrossEncoder` or of transformers.

        Options that `CrossEncoder` does not have are passed to it as `model_kwargs`. Raises what `CrossEncoder` raises.
        """
        known = {*inspect.signature(CrossEncoder).parameters, *KEYWORDS}
        own = {name: value for name, value in options.items() if name in known}
        own["model_kwargs"] = {
            **(own.get("model_kwargs") or {}),
            **{name: value for name, value in options.items() if name not in known},
        }
        return cls(CrossEncoder(model_name_or_path, **own))
