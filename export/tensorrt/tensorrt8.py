"""What TensorRT 8.6 wants besides: its networks are typed weakly, so what the file says of types is put into flags and pins.

Its parser ends at opset 17, it tells nothing of how far a build is, and int64 inputs become int32, which the runtime reads
from the engine.
"""

from typing import Any


def is_tensorrt8(version: str) -> bool:
    """Tell whether a version of TensorRT, such as `8.6.0`, is one that this module is for."""
    return version.partition(".")[0] == "8"


def takes_file_for_gpus(version: str) -> bool:
    """Tell whether this TensorRT can read INT8 with its rest in FP16, which is opset 19; 8.6 gets the file of the CPUs."""
    return not is_tensorrt8(version)


def create_network(tensorrt: Any, builder: Any) -> Any:
    """Return a network with the batch in its shapes, as it is always from 10 on."""
    return builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))


def constrain(tensorrt: Any, network: Any, config: Any) -> None:
    """Have a parsed network computed in the types that its file names.

    - A file with FP16: the builder may choose FP16 for any layer but those whose output is FP32 in the file. Those stay FP32,
      and so do LayerNorm's statistics.
    - A file with Q/DQ nodes: the layers between them may run in INT8. Products that read a dequantized tensor are not pinned,
      since TensorRT would then compute them in FP32.
    - A file with Q/DQ nodes and without FP16: it was made for CPUs, and only therefore has FP32 in all other layers. The builder
      may choose FP16 for these too, but for LayerNorm's statistics and the mask. The engine is judged by its scores and its
      ranking.
    - A file with neither: everything is FP32.
    """
    # The libraries of further tactic sources are not needed, and may be missing.
    config.set_tactic_sources(0)
    # Without this a profile belongs to one context, so a second lane could not use it. TensorRT 10 always shares profiles.
    config.set_preview_feature(tensorrt.PreviewFeature.PROFILE_SHARING_0806, True)

    def pin(layer: Any) -> None:
        layer.precision = single
        for number in range(layer.num_outputs):
            layer.set_output_type(number, single)

    layers = [network.get_layer(number) for number in range(network.num_layers)]
    outputs = [[layer.get_output(number) for number in range(layer.num_outputs)] for layer in layers]
    kinds, half, single = tensorrt.LayerType, tensorrt.DataType.HALF, tensorrt.DataType.FLOAT
    quantized = any(layer.type == kinds.QUANTIZE for layer in layers)
    typed = any(tensor.dtype == half for made in outputs for tensor in made)
    if quantized:
        config.set_flag(tensorrt.BuilderFlag.INT8)
    if not quantized and not typed:
        return
    config.set_flag(tensorrt.BuilderFlag.FP16)
    config.set_flag(tensorrt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    dequantized = {
        tensor.name
        for layer, made in zip(layers, outputs, strict=True)
        if layer.type == kinds.DEQUANTIZE
        for tensor in made
    }
    for layer, made in zip(layers, outputs, strict=True):
        if layer.type == kinds.NORMALIZATION:
            layer.__class__ = tensorrt.INormalizationLayer  # a layer comes as its base class, which lacks the property
            layer.compute_precision = single
        if not typed:
            # In FP16 the mask's lowest FP32 number would be -inf, and NaN once multiplied by 0.
            if layer.name.startswith("mask.") and all(tensor.dtype == single for tensor in made):
                pin(layer)
            continue
        if layer.type in (kinds.CONSTANT, kinds.QUANTIZE, kinds.DEQUANTIZE, kinds.SHAPE):
            continue
        read = [layer.get_input(number) for number in range(layer.num_inputs)]
        if any(tensor is not None and tensor.name in dequantized for tensor in read):
            continue
        if made and all(tensor.dtype == single and not tensor.is_shape_tensor for tensor in made):
            pin(layer)


def described(error: Any) -> str:
    """Return the parser's errors in words. This version gives the number of a node, where later ones give its name."""
    return f"node {error.node()} of the file: {error.desc()}"
