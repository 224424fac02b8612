"""JAX's persistent compilation cache, on by default.

A run that is started again (after a preemption, or by a sweep) loads its
programs instead of compiling them. JAX's own environment variables win:
JAX_COMPILATION_CACHE_DIR names another folder, and
JAX_ENABLE_COMPILATION_CACHE=false turns it off.
"""

import contextlib
import hashlib
import os
import platform
import re
import tempfile
from pathlib import Path


def cache_directory() -> Path:
    """Folder of this user and this kind of processor.

    XLA's CPU programs use the instructions of the machine that compiled them,
    and a home folder may be shared by different machines.
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

    Returns the folder; None if JAX's environment decides, or if it cannot be
    written: then programs are compiled without a cache.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    try:
        folder = cache_directory()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    # Of the many small programs only those worth a file are kept.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    return folder
