"""Freed memory stays with the process, also where its environment says otherwise."""

import ctypes
import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from tangents.lab.memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1:]:
    keep_freed_memory()
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

    def faults(*words):
        program = [sys.executable, "-c", PROGRAM, *words]
        done = subprocess.run(program, capture_output=True, text=True, env=environ, check=True)
        return int(done.stdout.split()[-1])

    assert faults("kept") < 10_000  # of 10 x 8 x 4 MiB in pages of 4 KiB: 81,920
    assert faults() > 40_000  # importing the package alone changes nothing
