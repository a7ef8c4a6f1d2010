"""The tokenizer of a bundle, set as the bundle says."""

from ..text.pair_tokenizer import PairEncoder
from .bundle import Bundle


def encoder_of(bundle: Bundle, *, max_length: int | None = None) -> PairEncoder:
    """Read a bundle's tokenizer, which truncates as the checkpoint's does, to the bundle's `max_length` unless given.

    Raises BundleError for a file that is no tokenizer, and OptionError for a `max_length` that leaves no room for text.
    """
    manifest = bundle.manifest
    return PairEncoder.from_file(
        bundle.tokenizer_file,
        max_length=manifest.max_length if max_length is None else max_length,
        truncation_side=manifest.truncation_side,
        prompt=manifest.prompt,
    )
