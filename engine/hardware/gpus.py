"""`gpus`: the GPUs of this machine, asked of the NVIDIA driver before other NVIDIA libraries are loaded.

Without a driver TensorRT aborts the process, so this check comes first.
"""

import ctypes
import functools
from dataclasses import dataclass

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU that this process may use: its `name` and compute `capability`, such as `9.0`."""

    name: str
    capability: str


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that this process may use, in CUDA's order; an empty tuple without a driver.

    CUDA_VISIBLE_DEVICES applies with the value that it had at the first driver call of this process.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    visible = []
    for ordinal in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        major, minor = ctypes.c_int(), ctypes.c_int()
        driver.cuDeviceGet(ctypes.byref(device), ordinal)
        driver.cuDeviceGetName(name, len(name), device)
        driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
        visible.append(Gpu(name=name.value.decode(), capability=f"{major.value}.{minor.value}"))
    return tuple(visible)
