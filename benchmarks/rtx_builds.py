#!/usr/bin/env python3
"""Do the graphs of all architectures build as engines in every recipe, with attention in a form that TensorRT can fuse?

    benchmarks/rtx_builds.py --out benchmarks/results/rtx_builds.json

Uses TensorRT-RTX without a GPU, with the real profiles. It builds two layers of each of the fifteen models, and the complete
MiniLM-L-6. The result says nothing about speed, since the GPU that runs an engine chooses the kernels.
"""

import argparse
import hashlib
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from result import write_result

from crossrt.calibration.quantization import Quantization
from crossrt.calibration.recipe import Recipe
from crossrt.engine.bundle.profiles import profiles_for
from crossrt.engine.errors import BackendError
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.graph.numerics import FP16, FP32, Numerics
from crossrt.export.graph.writer import graph_of
from crossrt.export.precision.quantization_points import quantization_points
from crossrt.export.tensorrt.attention import UNMEASURED, attention_in
from crossrt.export.tensorrt.build import BuildOptions, ParsedNetwork, engine_from_onnx

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))
import model_zoo as zoo

RECIPES = ("fp32", "fp16", "int8 projections", "int8 full")
LIBRARY = "tensorrt_rtx"


def main() -> None:
    """Build all, print a line for each, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    whole = next(model for model in zoo.ZOO if model.name.endswith("MiniLM-L-6-v2"))
    rows = []
    for model, layers in (*((model, 2) for model in zoo.ZOO), (whole, None)):
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Checkpoint.read(zoo.write_model(model, Path(folder), layers=layers))
            for recipe in RECIPES:
                try:
                    row = built(model.name, checkpoint, recipe)
                except BackendError as error:
                    row = {"model": model.name, "precision": recipe, "failed": str(error)}
                rows.append(row)
                print(*row.values(), sep="  ", flush=True)
    if arguments.out:
        write_result(arguments.out, {"builds": rows})


def numerics_of(checkpoint: Checkpoint, recipe: str) -> Numerics:
    """Return a recipe's numerics. INT8 has the rest in FP16. The scales are arbitrary, since they do not affect the build."""
    if recipe == "fp32":
        return FP32
    precision, _, parts = recipe.partition(" ")
    points = quantization_points(checkpoint, Recipe(parts=parts)) if precision == "int8" else ()
    return replace(FP16, quantized={point.name: Quantization(scale=0.05) for point in points})


def built(name: str, checkpoint: Checkpoint, recipe: str) -> dict[str, Any]:
    """Parse and build a checkpoint's graph. Return facts about the engine. Raises BackendError when the build fails."""
    graph = graph_of(checkpoint, numerics_of(checkpoint, recipe))
    model = graph.SerializeToString()
    profiles = profiles_for(checkpoint.dimensions.positions)
    parsed = ParsedNetwork.of(model, library=LIBRARY)
    attention = attention_in(parsed.network, parsed.tensorrt)
    begin = time.perf_counter()
    plan = engine_from_onnx(model, profiles, library=LIBRARY, options=BuildOptions(optimization_level=0))
    layers = checkpoint.dimensions.layers
    return {
        "model": name,
        "layers": layers,
        "precision": recipe,
        "opset": graph.opset_import[0].version,
        "engine_bytes": len(plan),
        "build_s": round(time.perf_counter() - begin, 2),
        "profiles": [(profile.min, profile.opt, profile.max) for profile in profiles],
        "onnx_sha256": hashlib.sha256(model).hexdigest(),
        "attention": f"{len(attention)} of {layers} layers in the form that fuses; fused: {UNMEASURED}",
        "head_size": max((each.head_size for each in attention), default=0),
        "operands_in_8_bits": sum(each.quantized for each in attention),
    }


if __name__ == "__main__":
    main()
