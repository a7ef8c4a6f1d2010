"""An engine that has not given the ONNX model's scores on its GPU is in no bundle. The GPU here is one in memory."""

import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from crossrt.__main__ import main
from crossrt.engine.batching.shape_buckets import ShapeBuckets
from crossrt.engine.bundle import engine_cache
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.bundle.profiles import Profile, profile_for, profiles_for
from crossrt.engine.cross_encoder import CrossEncoder
from crossrt.engine.errors import BackendError, BundleError, OptionError, ParityError
from crossrt.engine.precision import Precision
from crossrt.export.bundle.manifest import write_manifest
from crossrt.export.tensorrt import engine_builder, engines
from crossrt.export.tensorrt.engine_check import corners
from crossrt.export.tensorrt.engines import add_engines, here
from tests.engine.cuda import simulated_gpu
from tests.export.tensorrt.simulated_machine import GPU, install_simulated_machine

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """A GPU and a TensorRT whose engines err by `error`."""
    return install_simulated_machine(monkeypatch, tmp_path / "cache")


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(bundle, tmp_path / "bundle"))


def contents(folder: Path) -> dict[str, bytes]:
    """A bundle's files, by the names that its manifest has for them."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_an_engine_that_passes_enters_the_bundle_and_is_used(machine: dict[str, Any], copy: Bundle) -> None:
    made, (check,) = add_engines(copy, [Precision.FP32])
    assert check.passed
    assert "passed, max |difference|" in str(check)
    assert "fused kernels: 2 of 2 attention layers fused" in str(check)
    [engine] = Bundle.open(copy.path, verify=True).manifest.engines
    assert engine.file == "model.fp32.nvidia-memory-1-9.0.tensorrt-10.13.0.engine"
    assert (made.path / engine.file).read_bytes() == b"plan of model.onnx"
    assert (engine.version, engine.gpu, engine.capability) == ("10.13.0", GPU.name, "9.0")
    assert engine.attention == "2 of 2 attention layers fused"
    with CrossEncoder(copy.path, trust_engines=True) as model, CrossEncoder(copy.path, device="cpu") as reference:
        assert (model.backend, model.device) == ("tensorrt", "cuda:0")
        pairs = [("what is k2", "a mountain"), ("what is k2", "a long river in the north of the country")] * 9
        np.testing.assert_allclose(model.predict(pairs), reference.predict(pairs), atol=1e-5)


def test_an_engine_of_a_bundle_in_the_hubs_cache_is_kept_with_its_files(
    machine: dict[str, Any], bundle: Path, tmp_path: Path
) -> None:
    """Files there are relative links, which would point to nothing in another folder."""
    blobs, snapshot = tmp_path / "models--a--b/blobs", tmp_path / "models--a--b/snapshots/0123"
    shutil.copytree(bundle, blobs)
    for file in bundle.rglob("*.*"):
        link = snapshot / file.relative_to(bundle)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / file.relative_to(bundle), link.parent))
    _, (check,) = add_engines(Bundle.open(snapshot), [Precision.FP32], cache=True)
    assert check.passed
    [entry] = (path for path in (tmp_path / "cache/engines").iterdir() if path.is_dir())
    assert Bundle.open(entry, verify=True).manifest.engines
    assert not any(path.is_symlink() for path in entry.rglob("*"))


@pytest.mark.parametrize("error", [0.01, np.nan, np.inf])
def test_an_engine_of_other_scores_enters_no_bundle(machine: dict[str, Any], copy: Bundle, error: float) -> None:
    machine["error"] = error
    before = contents(copy.path)
    with pytest.raises(ParityError, match=r"stays as it was: model\.fp32\..* FAILED"):
        add_engines(copy, [Precision.FP32])
    assert contents(copy.path) == before
    assert [path.name for path in copy.path.parent.iterdir()] == ["bundle"]


def test_a_failure_names_the_way_round_fused_attention_unless_it_was_taken(
    machine: dict[str, Any], copy: Bundle
) -> None:
    machine["error"] = 0.01
    with pytest.raises(ParityError, match="--unfused-attention builds without it"):
        add_engines(copy, [Precision.FP32])
    with pytest.raises(ParityError) as raised:
        add_engines(copy, [Precision.FP32], options=engines.BuildOptions(unfused_attention=True))
    assert "--unfused-attention" not in str(raised.value)
    machine["error"] = 0.0
    base, _ = add_engines(copy, [Precision.FP32], options=engines.BuildOptions(refittable=True))
    machine["error"] = 0.01
    with pytest.raises(ParityError) as raised:
        add_engines(base, [Precision.FP32], refit_from=base, trust_engines=True)
    assert "--unfused-attention" not in str(raised.value), "nothing is built"


def test_built_again_it_replaces_its_own_kind_alone(machine: dict[str, Any], copy: Bundle) -> None:
    first = Bundle.open(copy.path)
    for version in ("10.13.0", "11.0.0", "11.0.0"):
        machine["version"] = version
        first, _ = add_engines(first, [Precision.FP32])
    assert [engine.version for engine in first.manifest.engines] == ["11.0.0", "10.13.0"], "the newest first"
    for engine in first.manifest.engines:
        assert (first.path / engine.file).is_file()
    machine["version"] = "10.13.0"
    with CrossEncoder(first.path, device="cuda", backend="tensorrt", trust_engines=True) as model:
        assert model.backend == "tensorrt"
    machine["version"] = "10.14.0"
    with pytest.raises(BackendError, match=r"built by tensorrt 1.\.\d+\.0 .* and this is tensorrt 10\.14\.0"):
        CrossEncoder(first.path, device="cuda", backend="tensorrt", trust_engines=True)


@pytest.mark.parametrize("lengths", [None, np.array([20, 70, 130, 300])])
@pytest.mark.parametrize("longest", [512, 160, 64, 65])
def test_the_corners_of_each_profile_run_in_it(longest: int, lengths: Any) -> None:
    profiles = profiles_for(longest, lengths=lengths)
    buckets = ShapeBuckets([profile.max for profile in profiles])
    run_in = [profile_for(profiles, buckets.rounded(shape)) for shape in corners(profiles)]
    assert run_in == [number for number in range(len(profiles)) for _ in range(3)]
    assert list(corners([Profile(min=(1, 1), opt=(2, 2), max=(4, 2))])) == [(1, 2), (2, 2), (4, 2)]


def test_a_graph_that_computes_something_else_is_not_used(
    machine: dict[str, Any], copy: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An engine whose scores are right until a graph computes them is run without graphs, and is checked so."""
    launch = simulated_gpu.SimulatedGpu.launch

    def launch_wrongly(device: simulated_gpu.SimulatedGpu, graph: int, stream: int) -> None:
        launch(device, graph, stream)
        device.kernel(stream, lambda: min(device.pinned.values(), key=len).fill(simulated_gpu.POISON))

    monkeypatch.setattr(simulated_gpu.SimulatedGpu, "launch", launch_wrongly)
    _, [check] = add_engines(copy, [Precision.FP32])
    assert check.passed
    assert "computes other logits than its batch" in caplog.text


def test_an_error_while_building_leaves_the_bundle_as_it_was(
    machine: dict[str, Any], copy: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: Any, **__: Any) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine_builder, "engine_from_onnx", build)
    before = contents(copy.path)
    with pytest.raises(OSError, match="No space left"):
        add_engines(copy, [Precision.FP32])
    assert contents(copy.path) == before
    assert [path.name for path in copy.path.parent.iterdir()] == ["bundle"]


def test_precisions_that_have_no_engine(machine: dict[str, Any], copy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bundle, "model_file", lambda self, precision, gpu: self.path / "onnx/model.onnx")
    with pytest.raises(OptionError, match="no engine is built in bf16"):
        add_engines(copy, [Precision.BF16])


# -- into the user's cache


def child(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Run `crossrt engines`, which would be a process of its own, in this one."""
    commands: list[list[str]] = []

    class Child:
        def __init__(self, command: list[str], **_: Any) -> None:
            commands.append(command)
            arguments, sys.argv = sys.argv, ["crossrt", *command[3:]]
            try:
                main()
            except SystemExit as ended:
                self.returncode = int(ended.code or 0)
            finally:
                sys.argv = arguments
            self.stdout = ["last words\n"]

        def __enter__(self) -> "Child":
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(engine_cache.subprocess, "Popen", Child)
    return commands


def test_rebuilt_once_into_the_cache_and_found_there_afterwards(
    machine: dict[str, Any],
    copy: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    commands = child(monkeypatch)
    before = contents(copy.path)
    with pytest.raises(BackendError, match=r"no fp32 engine; build one here with: crossrt engines .*rebuild=True"):
        CrossEncoder(copy.path, device="cuda", backend="tensorrt")
    for rebuild in (True, True, False):
        with CrossEncoder(copy.path, device="cuda", backend="tensorrt", rebuild=rebuild) as model:
            assert (model.backend, model.device) == ("tensorrt", "cuda:0")
    [command] = commands
    assert command[3:] == ["engines", str(copy.path), "--cache", "--precision", "fp32", "--device", "cuda:0"]
    assert machine["built"] == ["model.onnx"]
    assert contents(copy.path) == before
    said = capsys.readouterr().err
    assert "building a fp32 engine" in said
    assert "timing graph nodes, 3 of 5" in said
    machine["version"] = "11.0.0"
    with pytest.raises(BackendError, match="no fp32 engine"):
        CrossEncoder(copy.path, device="cuda", backend="tensorrt")
    [entry] = [path for path in (tmp_path / "cache/engines").iterdir() if path.is_dir()]
    assert Bundle.open(entry, verify=True).manifest.engines[0].version == "10.13.0"


def test_a_rebuild_whose_scores_are_others_leaves_nothing_and_says_so(
    machine: dict[str, Any], copy: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child(monkeypatch)
    machine["error"] = 0.01
    with pytest.raises(BackendError, match=r"no fp32 engine of .* could be built for cuda:0:\n  last words"):
        CrossEncoder(copy.path, device="cuda", rebuild=True)
    assert not [path for path in (tmp_path / "cache/engines").iterdir() if path.is_dir()]


def test_two_that_build_into_one_cache_build_once(machine: dict[str, Any], copy: Bundle, tmp_path: Path) -> None:
    said: list[str] = []
    builders = [
        threading.Thread(
            target=add_engines, args=(copy, [Precision.FP32]), kwargs={"cache": True, "progress": said.append}
        )
        for _ in range(2)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert machine["built"] == ["model.onnx"]
    assert sum("holds the fp32 engine already" in line for line in said) == 1
    # Other options are another engine; a damaged one is built anew.
    add_engines(copy, [Precision.FP32], cache=True, options=engines.BuildOptions(refittable=True))
    [entry] = [path for path in (tmp_path / "cache/engines").iterdir() if path.is_dir()]
    (entry / "model.fp32.nvidia-memory-1-9.0.tensorrt-10.13.0.engine").write_bytes(b"plan of model.ONNX")
    add_engines(copy, [Precision.FP32], cache=True, options=engines.BuildOptions(refittable=True))
    assert len(machine["built"]) == 3
    Bundle.open(entry, verify=True)
    # One that was built before there was an option is one that was built without it.
    made = Bundle.open(entry).manifest
    options = {name: value for name, value in made.engines[0].options.items() if name != "unfused_attention"}
    write_manifest(entry, replace(made, engines=(replace(made.engines[0], options=options),)))
    add_engines(copy, [Precision.FP32], cache=True, options=engines.BuildOptions(refittable=True))
    assert len(machine["built"]) == 3


def test_two_processes_that_build_into_one_cache_build_once(copy: Bundle, tmp_path: Path) -> None:
    words = [str(copy.path), str(tmp_path / "cache"), str(tmp_path / "log")]
    command = [sys.executable, "-m", "tests.export.tensorrt.simulated_machine", *words]
    builders = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = "".join(builder.communicate()[0] for builder in builders)
    assert [builder.returncode for builder in builders] == [0, 0]
    assert (tmp_path / "log").read_text() == "built\n"
    assert said.count("holds the fp32 engine already") == 1
    [entry] = [path for path in (tmp_path / "cache/engines").iterdir() if path.is_dir()]
    assert len(Bundle.open(entry, verify=True).manifest.engines) == 1


def test_a_damaged_entry_is_as_good_as_none(
    machine: dict[str, Any], copy: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_engines(copy, [Precision.FP32], cache=True)
    [entry] = [path for path in (tmp_path / "cache/engines").iterdir() if path.is_dir()]
    (entry / "model.fp32.nvidia-memory-1-9.0.tensorrt-10.13.0.engine").write_bytes(b"cut off")
    with pytest.raises(BackendError, match="the bundle has no fp32 engine"):
        CrossEncoder(copy.path, device="cuda", backend="tensorrt")
    assert "is not used" in caplog.text


def test_an_entry_holds_the_one_model_and_its_engine(
    machine: dict[str, Any], copy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(copy.path / "onnx/model.onnx", copy.path / "onnx/model_fp16.onnx")
    models = {**copy.manifest.models, "fp16": replace(copy.manifest.models["fp32"], file="onnx/model_fp16.onnx")}
    write_manifest(copy.path, replace(copy.manifest, models=models))
    made, _ = add_engines(Bundle.open(copy.path), [Precision.FP16])
    add_engines(made, [Precision.FP32], cache=True)
    [entry] = [path for path in (tmp_path / "cache/engines").iterdir() if path.is_dir()]
    names = set(contents(entry))
    assert {"onnx/model.onnx", "model.fp32.nvidia-memory-1-9.0.tensorrt-10.13.0.engine", "tokenizer.json"} < names
    assert not {"onnx/model_fp16.onnx", "model.fp16.nvidia-memory-1-9.0.tensorrt-10.13.0.engine"} & names


def test_a_file_that_two_precisions_share_stays_with_the_one_that_is_built(
    machine: dict[str, Any], copy: Bundle, tmp_path: Path
) -> None:
    (copy.path / "model.bf16.native").write_bytes(b"weights")
    models = {**copy.manifest.models}
    models["bf16"] = replace(models["fp32"], native_file="model.bf16.native")
    write_manifest(copy.path, replace(copy.manifest, models=models))
    add_engines(Bundle.open(copy.path), [Precision.FP32], cache=True)
    [entry] = [path for path in (tmp_path / "cache/engines").iterdir() if path.is_dir()]
    names = set(contents(entry))
    assert {"onnx/model.onnx", "model.fp32.nvidia-memory-1-9.0.tensorrt-10.13.0.engine"} < names
    assert "model.bf16.native" not in names


def test_rebuild_goes_with_a_gpu_and_tensorrt(bundle: Path) -> None:
    for others in ({"device": "cpu"}, {"backend": "onnxruntime"}, {"backend": "openvino"}):
        with pytest.raises(OptionError, match="rebuild=True builds a TensorRT engine"):
            CrossEncoder(bundle, rebuild=True, **others)


# -- weights of a fine-tuned copy


def test_a_refittable_engine_takes_the_weights_of_another_checkpoint(
    machine: dict[str, Any], copy: Bundle, make_bundle: Any, tmp_path: Path
) -> None:
    base = Bundle.open(shutil.copytree(make_bundle(seed=5), tmp_path / "base"))
    base, _ = add_engines(base, [Precision.FP32], options=engines.BuildOptions(refittable=True), max_length=32)
    made, (check,) = add_engines(copy, [Precision.FP32], refit_from=base, trust_engines=True)
    assert check.passed
    assert machine["built"] == ["model.onnx"], "nothing was built for the second"
    [engine] = made.manifest.engines
    assert (made.path / engine.file).read_bytes() == b"plan of model.onnx with the weights of model.onnx"
    assert engine.onnx_sha256 == made.sha256("onnx/model.onnx")
    assert engine.options["refitted_from"] == base.sha256("onnx/model.onnx")
    assert engine.profiles[-1].max[1] == 32, "the shapes are those it was built with"
    with CrossEncoder(copy.path, device="cuda", backend="tensorrt", max_length=32, trust_engines=True) as model:
        assert model.backend == "tensorrt"


def test_what_cannot_be_refitted_says_why(
    machine: dict[str, Any], copy: Bundle, two_label_bundle: Path, bundle: Path, tmp_path: Path, make_bundle: Any
) -> None:
    base = Bundle.open(shutil.copytree(bundle, tmp_path / "base"))
    with pytest.raises(BackendError, match="holds no fp32 engine"):
        add_engines(copy, [Precision.FP32], refit_from=base, trust_engines=True)
    base, _ = add_engines(base, [Precision.FP32])
    with pytest.raises(BackendError, match="was not built with --refittable"):
        add_engines(copy, [Precision.FP32], refit_from=base, trust_engines=True)
    base, _ = add_engines(base, [Precision.FP32], options=engines.BuildOptions(refittable=True))
    with pytest.raises(BackendError, match="a model of another shape"):
        add_engines(
            copy, [Precision.FP32], refit_from=Bundle.open(make_bundle(intermediate_size=48)), trust_engines=True
        )
    plan = base.path / base.manifest.engines[0].file
    plan.write_bytes(plan.read_bytes().upper())
    with pytest.raises(BundleError, match="was altered"):
        add_engines(copy, [Precision.FP32], refit_from=base, trust_engines=True)
    machine["version"] = "11.0.0"
    with pytest.raises(BackendError, match=r"built by tensorrt 10\.13\.0 .* this is tensorrt 11\.0\.0"):
        add_engines(copy, [Precision.FP32], refit_from=base, trust_engines=True)
    assert not Bundle.open(copy.path).manifest.engines


def test_another_bundles_engine_is_loaded_for_its_shape_when_it_is_trusted_alone(
    machine: dict[str, Any], copy: Bundle, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Bundle.open(shutil.copytree(bundle, tmp_path / "base"))
    base, _ = add_engines(base, [Precision.FP32], options=engines.BuildOptions(refittable=True))
    monkeypatch.setattr(engine_builder, "refitted", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(OptionError, match=r"refit_from: the engine in .*base came with that bundle.*--trust-engines"):
        add_engines(copy, [Precision.FP32], refit_from=base)


# -- what is asked for


def test_shapes_that_the_model_does_not_take(machine: dict[str, Any], copy: Bundle) -> None:
    with pytest.raises(OptionError, match="max_length=65: the model has positions for 64"):
        add_engines(copy, [Precision.FP32], max_length=65)
    with pytest.raises(OptionError, match="max_length=0"):
        add_engines(copy, [Precision.FP32], max_length=0)
    with pytest.raises(OptionError, match="tokens=63 do not hold one pair of max_length=64"):
        add_engines(copy, [Precision.FP32], tokens=63)
    made, _ = add_engines(copy, [Precision.FP32], max_length=32, tokens=256)
    assert [profile.max for profile in made.manifest.engines[0].profiles] == [(8, 32)]


def test_options_of_the_command_reach_the_engine(
    machine: dict[str, Any], copy: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["crossrt", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    command = ["engines", str(copy.path), "--precision", "fp32"]
    asked = ["--workspace", "256", "--optimization-level", "2", "--version-compatible", "--hardware-compatible"]
    asked += ["--refittable", "--unfused-attention"]
    assert run(*command, *asked, "--max-length", "48", "--tokens", "96") == 0
    [engine] = Bundle.open(copy.path).manifest.engines
    assert engine.options == {
        "workspace": 256 << 20,
        "optimization_level": 2,
        "refittable": True,
        "hardware_compatible": True,
        "version_compatible": True,
        "unfused_attention": True,
    }
    assert engine.profiles[-1].max == (2, 48)
    assert run(*command, "--optimization-level", "7") == 2
    assert run(*command, "--refit-from", str(copy.path), "--refittable") == 2
    assert "leave out the options of building" in capsys.readouterr().err
    assert run(*command, "--trust-engines") == 2
    assert "--trust-engines goes with --refit-from" in capsys.readouterr().err
    assert run("export", "nowhere", str(copy.path.parent / "out"), "--refittable") == 2
    assert "go with --tensorrt" in capsys.readouterr().err


def with_int8(bundle: Bundle) -> Bundle:
    """The bundle with its FP32 model under the names of INT8."""
    for name in ("onnx/model_quantized.onnx", "model.int8.gpu.onnx"):
        shutil.copy(bundle.path / "onnx/model.onnx", bundle.path / name)
    int8 = replace(bundle.manifest.models["fp32"], file="onnx/model_quantized.onnx", gpu_file="model.int8.gpu.onnx")
    write_manifest(bundle.path, replace(bundle.manifest, models={**bundle.manifest.models, "int8": int8}))
    return Bundle.open(bundle.path)


@pytest.mark.parametrize("cache", [False, True])
def test_an_int8_engine_enters_when_it_ranks_as_fp32_does(
    machine: dict[str, Any], copy: Bundle, cache: bool, tmp_path: Path
) -> None:
    bundle, before = with_int8(copy), contents(copy.path)
    chance = np.random.default_rng(0)
    machine["error"] = lambda logits: chance.uniform(-0.4, 0.4, logits.shape)  # within what a logit may differ by
    with pytest.raises(ParityError, match=r"FAILED, max .difference. .*; top-10 overlap 0\.\d+, 0\.96 is needed"):
        add_engines(bundle, [Precision.INT8], cache=cache)
    assert contents(copy.path) == before
    assert not [path for path in (tmp_path / "cache/engines").glob("*") if path.is_dir()]
    machine["error"] = 0.2  # on every logit: the order is the same
    _, (check,) = add_engines(bundle, [Precision.INT8], cache=cache)
    assert check.top10_overlap is not None
    assert check.top10_overlap > 0.99
    assert check.max_abs_diff == pytest.approx(0.2, abs=1e-3)
    assert "top-10 overlap" in str(check)
    machine["error"] = 0.0
    _, (plain,) = add_engines(bundle, [Precision.FP32], cache=cache)
    assert "overlap" not in str(plain), "only INT8 is judged by its order"


def test_tensorrt8_gets_the_int8_file_that_it_can_read(machine: dict[str, Any], copy: Bundle) -> None:
    with_int8(copy)
    for version in ("10.13.0", "8.6.0"):
        machine["version"] = version
        add_engines(Bundle.open(copy.path), [Precision.INT8])
    assert machine["built"] == ["model.int8.gpu.onnx", "model_quantized.onnx"]


def test_without_a_gpu_the_command_says_so_before_it_exports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        here()
    except BackendError:
        pass
    else:
        pytest.skip("there is a GPU here")
    monkeypatch.setattr(
        sys, "argv", ["crossrt", "export", str(tmp_path / "nothing"), str(tmp_path / "out"), "--tensorrt"]
    )
    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == 1
    assert "there is no cuda:0 here" in capsys.readouterr().err
