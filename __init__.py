"""Fast inference with MS MARCO cross-encoders, whose exports are checked against PyTorch.

    from crossrt import CrossEncoder

Names are imported on first use, so that `import crossrt` takes milliseconds.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine.auto_model import AutoModelForSequenceClassification as AutoModelForSequenceClassification
    from .engine.bundle.bundle import Bundle as Bundle
    from .engine.cascade import Cascade as Cascade
    from .engine.cross_encoder import CrossEncoder as CrossEncoder
    from .engine.errors import CrossrtError as CrossrtError
    from .engine.store.passage_store import PassageStore as PassageStore
    from .engine.text.text_limits import TextLimits as TextLimits
    from .engine.text.windows import Windows as Windows

__version__ = "0.1.0"
__all__ = [
    "AutoModelForSequenceClassification",
    "Bundle",
    "Cascade",
    "CrossEncoder",
    "CrossrtError",
    "PassageStore",
    "TextLimits",
    "Windows",
    "__version__",
]

_HOMES = {
    "AutoModelForSequenceClassification": "auto_model",
    "Bundle": "bundle.bundle",
    "Cascade": "cascade",
    "CrossEncoder": "cross_encoder",
    "CrossrtError": "errors",
    "PassageStore": "store.passage_store",
    "TextLimits": "text.text_limits",
    "Windows": "text.windows",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'crossrt' has no attribute {name!r}; it offers {', '.join(__all__)}")
    from importlib import import_module

    value = getattr(import_module(f".engine.{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
