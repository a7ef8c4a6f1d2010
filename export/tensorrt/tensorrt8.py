"""What TensorRT 8.6 needs in addition. Its networks are weakly typed, so flags and pinned layers express the types of the file.

Its parser supports opsets up to 17. It does not report the progress of a build. int64 inputs become int32; the runtime reads
their type from the engine.
"""

from typing import Any


def is_tensorrt8(version: str) -> bool:
    """Tell whether a version of TensorRT, such as `8.6.0`, needs this module."""
    return version.partition(".")[0] == "8"


def takes_file_for_gpus(version: str) -> bool:
    """Tell whether this TensorRT can read the INT8 file for GPUs, which needs opset 19. 8.6 gets the file for CPUs."""
    return not is_tensorrt8(version)


def create_network(tensorrt: Any, builder: Any) -> Any:
    """Return a network with an explicit batch dimension, which is always so from TensorRT 10 on."""
    return builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))


def constrain(tensorrt: Any, network: Any, config: Any) -> None:
    """Constrain the builder so that a parsed network is computed in the types of its file.

    - A file with FP16: the builder may choose FP16 for any layer except those whose output is FP32 in the file. These are pinned
      to FP32, and so are LayerNorm's statistics.
    - A file with Q/DQ nodes: the layers between them may run in INT8. Products that read a dequantized tensor are not pinned,
      because TensorRT would then compute them in FP32.
    - A file with Q/DQ nodes but without FP16: its other layers are FP32 only because it was made for CPUs. The builder may choose
      FP16 for them too, except for LayerNorm's statistics and the mask. The engine is judged by its scores and its ranking.
    - A file with neither: everything is FP32.
    """
    # No tactic sources: their libraries are not needed and may be missing.
    config.set_tactic_sources(0)
    # Without this a profile belongs to one context, and a second lane cannot use it. TensorRT 10 always shares profiles.
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
            # In FP16 the mask's lowest FP32 number becomes -inf, which multiplied by 0 is NaN.
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
    """Return a parser error as text. This version has the number of the node; later versions have its name."""
    return f"node {error.node()} of the file: {error.desc()}"
