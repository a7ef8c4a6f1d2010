"""`Recipe`: which tensors of a model are quantized, and how their ranges are chosen."""

from dataclasses import dataclass

from ..engine.errors import OptionError

PARTS = ("projections", "full", "ffn")
METHODS = ("token", "minmax", "percentile", "entropy", "mse")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Which products run in 8 bits, and by which method the range of each tensor is chosen.

    `parts` is `projections`, all linear layers of the encoder; `ffn`, only its feed-forward layers; or `full`, all linear layers,
    both attention products and both inputs of the residual additions, like NVIDIA's quantization of BERT. Embeddings, LayerNorm,
    GELU, softmax and the head stay in floating point.

    `method` is one of:

    - `minmax`: the largest magnitude.
    - `percentile`: the 99.99th percentile of the magnitudes.
    - `entropy`: the range with the smallest Kullback-Leibler divergence.
    - `mse`: the range with the smallest squared error of the tensor.
    - `token`: tries ranges, smoothing factors, shifts, and channels that stay in floating point, and uses those with the smallest
      error of the layers' outputs. The error of each token is divided by the norm of the token's exact output.

    `smoothing` is SmoothQuant's alpha. With None, `token` chooses it, and the other methods do not smooth. Raises OptionError for
    any other value.
    """

    parts: str = "projections"
    method: str = "token"
    smoothing: float | None = None

    def __post_init__(self) -> None:
        if self.parts not in PARTS:
            raise OptionError(f"unknown recipe {self.parts!r}; one of {', '.join(PARTS)}")
        if self.method not in METHODS:
            raise OptionError(f"unknown calibration method {self.method!r}; one of {', '.join(METHODS)}")
        if self.smoothing is not None and not 0 <= self.smoothing <= 1:
            raise OptionError(f"smoothing {self.smoothing}: SmoothQuant's alpha lies between 0, none, and 1, all")

    def __str__(self) -> str:
        smoothed = "" if self.smoothing is None else f", smoothing {self.smoothing}"
        return f"{self.parts}, {self.method}{smoothed}"
