"""Compiled programs outlive the process: JAX's cache, on by default.

A run that is started again (after a preemption, or by a sweep) loads its
programs instead of compiling them. JAX's own environment variables win:
JAX_COMPILATION_CACHE_DIR names another place, and
JAX_ENABLE_COMPILATION_CACHE=false turns it off.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import tempfile
from pathlib import Path


def cache_directory() -> Path:
    """The user's own place, one per kind of processor.

    XLA's CPU programs use the instructions of the machine that compiled them,
    and a home folder may be shared by different ones.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    instructions = platform.machine()
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
        instructions += found.group(1) if found else ""
    name = hashlib.sha256(instructions.encode()).hexdigest()[:12]
    return Path(home) / "i2i_prior" / "xla" / name


def use_cache() -> Path | None:
    """Turns the cache on, before JAX is imported.

    Returns:
      the directory; None where JAX's environment decides, or where it cannot
      be written: then programs are compiled as if there were no cache.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    try:
        place = cache_directory()
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(place)
    # Small programs are many; a second of the compiler is worth a file.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    return place
