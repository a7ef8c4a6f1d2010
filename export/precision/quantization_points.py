"""`QuantizationPoint`: a place in the graph where a tensor can be quantized to 8 bits."""

from dataclasses import dataclass

from ...calibration.recipe import Recipe
from ...engine.errors import OptionError
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.modernbert import ModernBertDimensions


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationPoint:
    """A tensor of the graph as the input of one or several operators.

    `name` is the name of the point, and `tensor` the name of the tensor in the graph. `linears` are the linear layers that read
    the tensor there; it is empty for an operand of an attention product or of a residual addition. The points of one `group` are
    quantized together.
    """

    name: str
    tensor: str
    group: str
    linears: tuple[str, ...] = ()


def quantization_points(checkpoint: Checkpoint, recipe: Recipe) -> tuple[QuantizationPoint, ...]:
    """Return the points that a recipe quantizes, in the order of the graph.

    What the last layer computes only for `[CLS]` stays in floating point; it is less than a hundredth of the work. If the head
    reads the mean of all tokens, the last layer is like the others. Raises OptionError for a recipe that the model's architecture
    does not support.
    """
    if isinstance(checkpoint.dimensions, ModernBertDimensions):
        return _modernbert_points(checkpoint.dimensions, recipe)
    points: list[QuantizationPoint] = []
    hidden = "project" if checkpoint.has("project") else "embedding_norm"
    layers = checkpoint.dimensions.layers
    for number in range(layers):
        name = f"layer.{number}"
        last = number == layers - 1 and checkpoint.dimensions.pooling == "cls"
        attention = recipe.parts in ("projections", "full")
        if attention:
            readers = ("key", "value") if last else ("query", "key", "value")
            points.append(_linear(f"{name}.{'_'.join(readers)}", hidden, *(f"{name}.{reader}" for reader in readers)))
        if recipe.parts == "full":
            operands = ("query.heads", "key.heads", "attention_weights", "value.heads")
            if not last:
                points += [_operand(f"{name}.{operand}", f"{name}.attention_products") for operand in operands]
        if not last:
            if attention:
                points.append(_linear(f"{name}.attention_output", f"{name}.context", f"{name}.attention_output"))
            if recipe.parts == "full":
                points += _residual(f"{name}.attention_residual", f"{name}.attention_output", hidden)
            points.append(_linear(f"{name}.intermediate", f"{name}.attention_norm", f"{name}.intermediate"))
            points.append(_linear(f"{name}.output", f"{name}.activation", f"{name}.output"))
            if recipe.parts == "full":
                points += _residual(f"{name}.output_residual", f"{name}.output", f"{name}.attention_norm")
        hidden = f"{name}.output_norm"
    return tuple(points)


def _modernbert_points(dimensions: ModernBertDimensions, recipe: Recipe) -> tuple[QuantizationPoint, ...]:
    if recipe.parts == "full":
        raise OptionError(
            "the recipe full is not known for ModernBERT: the sums between its layers are never normalised and grow beyond what "
            "8 bits hold. Give projections, its linear layers, or ffn, its feed-forward layers"
        )
    points: list[QuantizationPoint] = []
    for number in range(dimensions.layers):
        name = f"layer.{number}"
        cls_alone = number == dimensions.layers - 1 and dimensions.pooling == "cls"
        if recipe.parts == "projections":
            readers = ("key", "value") if cls_alone else ("query", "key", "value")
            normed = f"{name}.attention_norm" if number else "embedding_norm"
            points.append(_linear(f"{name}.{'_'.join(readers)}", normed, *(f"{name}.{reader}" for reader in readers)))
        if cls_alone:
            break
        if recipe.parts == "projections":
            points.append(_linear(f"{name}.attention_output", f"{name}.context", f"{name}.attention_output"))
        points.append(_linear(f"{name}.intermediate", f"{name}.feed_forward_norm", f"{name}.intermediate"))
        points.append(_linear(f"{name}.output", f"{name}.activation", f"{name}.output"))
    return tuple(points)


def _linear(name: str, tensor: str, *linears: str) -> QuantizationPoint:
    return QuantizationPoint(name=name, tensor=tensor, group=name, linears=linears)


def _operand(tensor: str, group: str) -> QuantizationPoint:
    return QuantizationPoint(name=tensor, tensor=tensor, group=group)


def _residual(name: str, branch: str, skip: str) -> list[QuantizationPoint]:
    return [
        QuantizationPoint(name=f"{name}.{side}", tensor=tensor, group=name)
        for side, tensor in (("branch", branch), ("skip", skip))
    ]
