"""CPU allocator: the memory of a step stays with the process."""

import platform
import subprocess
import sys

import pytest

from i2i_prior.training.resilience.cpu_allocator import keep_memory

PROGRAM = """
import resource, sys
from i2i_prior.training.resilience.cpu_allocator import keep_memory
if sys.argv[1] == "kept":
    assert keep_memory("cpu")
import jax, jax.numpy as jnp

@jax.jit
def step(x):
    return jax.lax.optimization_barrier(jnp.outer(x, x)) @ x

x = jnp.ones(4096)  # so 64 MiB of temporary memory
def faults():
    jax.block_until_ready(step(x))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
counts = [faults() for _ in range(20)]
print(sorted(b - a for a, b in zip(counts, counts[1:]))[9])  # the median
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="this libc is not glibc"
)
def test_a_step_faults_no_memory_in():
    def faults(way):
        return int(
            subprocess.check_output([sys.executable, "-c", PROGRAM, way])
        )

    # 16,384 pages of 4 KiB, unless the kernel gave huge ones.
    assert faults("kept") * 20 < faults("left") or faults("left") < 500


def test_an_accelerators_host_is_left_alone():
    assert not keep_memory("gpu")
    assert not keep_memory("tpu")
