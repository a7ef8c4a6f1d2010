"""Write a model into a Triton model repository: `NAME/config.pbtxt`, and the files of version 1 in `NAME/1/`."""

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...engine.bundle.bundle import Bundle
from ...engine.bundle.manifest import MANIFEST
from ...engine.errors import BundleError, OptionError
from ...engine.files.publish import published_directory
from ...engine.options import whole
from ...engine.precision import Precision
from ...engine.selection.select_precision import choose_precision
from .config import BUNDLE, Instances, check_name, onnxruntime_config, python_config
from .parameters import check_options, parameters_of

MODEL_PY = '''"""Run by Triton's python backend, in a Python that has crossrt. Written by `crossrt triton`."""

from crossrt.integrations.triton.backend import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def write_python_model(
    bundle: Bundle,
    repository: Path,
    name: str,
    instances: Instances,
    options: Mapping[str, Any],
    *,
    link: bool = False,
) -> Path:
    """Write a model for Triton's python backend, which takes texts. Return its folder.

    The model opens the bundle with `options` of `CrossEncoder`, which are those of `parameters.READERS`. The bundle is copied
    into the model, and the sha256 of each file is checked. With `link` the model has a symbolic link to it instead. Raises
    OptionError for a name that Triton does not accept and for an option that is not allowed. Raises BundleError for a model that
    exists already and for a bundle that was altered, lacks the precision or failed its check in it.
    """
    check_options(bundle, options)
    config = python_config(name, instances, parameters_of(options))
    with _new_model(repository, name, config) as version:
        (version / "model.py").write_text(MODEL_PY, encoding="utf-8")
        if link:
            (version / BUNDLE).symlink_to(bundle.folder)
        else:
            _copy_bundle(bundle, version / BUNDLE)
    return repository / name


def write_onnxruntime_model(
    bundle: Bundle,
    repository: Path,
    name: str,
    instances: Instances,
    *,
    precision: str | None = None,
    threads: int | None = None,
) -> Path:
    """Write a model for Triton's onnxruntime backend, which takes token ids and returns logits. Return its folder.

    The model is the bundle's ONNX graph of `precision` for the device, behind the operators of `ragged.py`. It needs the package
    onnx. Raises the errors of `write_python_model`, BundleError for a graph with other inputs, and OptionError for BF16, which
    has no graph of its own.
    """
    from .ragged import make_ragged

    manifest, graph = bundle.manifest, _graph_of(bundle, precision, on_gpu=instances.device != "cpu")
    parameters = {} if threads is None else {"intra_op_thread_count": str(whole("threads", threads, minimum=1))}
    types = "token_type_ids" in manifest.inputs
    config = onnxruntime_config(name, instances, parameters, token_types=types, labels=manifest.labels)
    with _new_model(repository, name, config) as version:
        _copy(bundle, bundle.name_of(graph), version / "model.onnx")
        for weights in _weights_of(bundle, graph):
            _copy(bundle, weights, version / Path(weights).name)
        make_ragged(version / "model.onnx", pad_token_id=manifest.pad_token_id)
    return repository / name


def _graph_of(bundle: Bundle, precision: str | None, *, on_gpu: bool) -> Path:
    fastest = (Precision.FP16 if on_gpu else Precision.INT8, Precision.FP32)
    chosen = choose_precision(bundle, precision, fastest_first=fastest)
    if chosen is Precision.BF16:
        raise OptionError("bf16 has no ONNX graph of its own: give fp32, fp16 or int8, or leave out --onnxruntime")
    return bundle.model_file(chosen, gpu=on_gpu, fused=on_gpu)


@contextmanager
def _new_model(repository: Path, name: str, config: str) -> Iterator[Path]:
    """Yield the folder of version 1 of a model. The model appears in the repository if the context succeeds."""
    check_name(name)
    target = repository / name
    if target.is_dir() and any(target.iterdir()):
        raise BundleError(f"{target} is already there; remove it, or give another --name")
    with published_directory(target) as model:
        (model / "config.pbtxt").write_text(config, encoding="utf-8")
        (model / "1").mkdir()
        yield model / "1"


def _copy_bundle(bundle: Bundle, target: Path) -> None:
    for file in bundle.manifest.files:
        (target / file.name).parent.mkdir(parents=True, exist_ok=True)
        _copy(bundle, file.name, target / file.name)
    shutil.copyfile(bundle.folder / MANIFEST, target / MANIFEST)


def _copy(bundle: Bundle, name: str, target: Path) -> None:
    """Copy a file of a bundle. Raises BundleError if its sha256 is not the manifest's."""
    digest = hashlib.sha256()
    with (bundle.folder / name).open("rb") as source, target.open("xb") as copy:
        while piece := source.read(1 << 20):
            digest.update(piece)
            copy.write(piece)
    if digest.hexdigest() != bundle.sha256(name):
        raise BundleError(f"{bundle.path / name} was altered: its sha256 is not the manifest's; export or copy again")


def _weights_of(bundle: Bundle, graph: Path) -> list[str]:
    """Return the files beside a graph that hold its weights. A graph larger than protobuf allows has such files."""
    files = bundle.model_files(bundle.name_of(graph))
    return [name for name in files if (bundle.folder / name).parent == graph.parent and bundle.folder / name != graph]
