"""OpenVINO's Python bindings, where crossrt has to take care of them."""

import subprocess
import sys

import pytest

pytest.importorskip("openvino")

FIRST_INFERENCES = """
import os, sys, threading
import numpy as np
from crossrt.engine.process.openvino_bindings import openvino
sys.setswitchinterval(1e-6)  # the interpreter's lock changes hands as often as can be
ids = openvino.opset13.parameter([-1, -1], np.int64, name="ids")
model = openvino.Model([openvino.opset13.convert(ids, "f32")], [ids], "model")
compiled = openvino.Core().compile_model(model, "CPU", {"NUM_STREAMS": 2, "INFERENCE_NUM_THREADS": 2})
requests = [compiled.create_infer_request() for _ in range(2)]
both = threading.Barrier(2)

def infer(request):
    both.wait()
    request.infer({0: np.zeros((1, 2), np.int64)}, share_inputs=True)

threads = [threading.Thread(target=infer, args=(request,)) for request in requests]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
os._exit(0)
"""


def test_the_first_inferences_of_two_threads_do_not_wait_for_each_other() -> None:
    for _ in range(8):  # without the conversion in openvino_bindings.py about one in three hangs
        subprocess.run([sys.executable, "-c", FIRST_INFERENCES], check=True, timeout=60)
