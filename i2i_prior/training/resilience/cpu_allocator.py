"""Allocator settings that keep freed memory in the process, on the CPU.

XLA's CPU client takes the temporary memory of every execution from malloc and
frees it afterwards. glibc gets blocks of that size from the kernel and gives
them back, so that each step faults in all of its memory anew: 120,000 page
faults a step of the small model of `benchmarks/step_time.py`, a quarter of
its CPU time.
"""

import ctypes
import platform

from i2i_prior.parallel.xla_flags import guess_backend

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = 2**31 - 1


def keep_memory(backend: str | None = None) -> bool:
    """Makes malloc keep freed memory; call it before JAX starts its threads.

    The process then never shrinks. Only on the CPU are steps computed in this
    memory: `backend` is tpu, gpu or cpu, None for that of `guess_backend`.
    Returns True if it was done: on the CPU, with glibc.
    """
    cpu = (backend or guess_backend()) == "cpu"
    if not cpu or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # One arena, since those of threads are always mapped; no block mapped
    # by itself; and nothing given back from the end.
    return bool(
        mallopt(_ARENA_MAX, 1)
        and mallopt(_MMAP_MAX, 0)
        and mallopt(_TRIM_THRESHOLD, _NEVER)
    )
