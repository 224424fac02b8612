"""Memory of a step on the CPU: kept by the process, not faulted in anew.

XLA's CPU client takes the temporary memory of every execution from malloc and
frees it behind. glibc gets pieces of that size from the kernel and gives them
back, so that each step touches all of its memory for the first time: 120,000
page faults a step of the small model of `benchmarks/step_time.py`, a quarter
of its CPU time.
"""

from __future__ import annotations

import ctypes
import platform

from i2i_prior.parallel.xla_flags import guess_backend

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = 2**31 - 1


def keep_memory(backend: str | None = None) -> bool:
    """Has malloc keep what is freed; before JAX starts its threads.

    The process then stays as large as it once was.

    Args:
      backend: tpu, gpu or cpu, as `guess_backend` says where None; only on
        the CPU are steps computed in this memory.

    Returns:
      whether it was done; elsewhere than with glibc there is nothing to do.
    """
    if (backend or guess_backend()) != "cpu":
        return False
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # One arena, as those of threads are made of mapped pieces in any case;
    # none mapped by itself; and none given back from the end.
    return bool(
        mallopt(_ARENA_MAX, 1)
        and mallopt(_MMAP_MAX, 0)
        and mallopt(_TRIM_THRESHOLD, _NEVER)
    )
