"""Freed memory stays with the process, also where its environment says otherwise."""

import ctypes
import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, tangents, torch

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for repeat in range(2):
    before = faults()
    for i in range(10):
        held = [torch.zeros(2**20) for j in range(8)]
        del held
    print(faults() - before)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"),
    reason="the C library is not glibc",
)
def test_freed_memory_is_used_again():
    environ = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"}  # what dask gives its workers
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environ, check=True
    )
    assert int(done.stdout.split()[-1]) < 1000  # of 10 x 8 x 4 MiB in pages of 4 KiB: 81,920
