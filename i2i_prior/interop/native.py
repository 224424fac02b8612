"""Weight file of this project: safetensors with the config in its header.

Names are those of `models.functional`, layers stacked on the first axis,
kernels (in, out), float32. Nothing is unpickled.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from i2i_prior.config import flatten, from_flat, recorded
from i2i_prior.errors import UserError
from i2i_prior.interop.files import safetensors
from i2i_prior.interop.files.lazy_tensor import LazyTensor

FORMAT = "i2i_prior/1"


def write(
    path: Path,
    parameters: dict[str, Any],
    config: ConfigDict,
    provenance: dict[str, Any],
) -> int:
    """Writes a file that appears when it is complete; returns its bytes.

    The path ends in .safetensors; the parameters are arrays by name. The header
    keeps the config of the run, and provenance such as step, hash and
    fingerprint. UserError where the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"--out {path} should end in .safetensors")
    tensors = {
        # From the devices when it is written: one tensor in memory at a time
        # (jax.device_get would keep a copy of each, on CPU too).
        name: LazyTensor(
            tuple(array.shape), partial(np.asarray, array), array.dtype.name
        )
        for name, array in parameters.items()
    }
    header = {
        "format": FORMAT,
        "config": json.dumps(recorded(flatten(config))),
        "provenance": json.dumps(provenance),
    }
    return safetensors.write(path, tensors, header)


def is_native(path: Path) -> bool:
    """Returns True for a file that `write` wrote."""
    try:
        return safetensors.read(Path(path))[1].get("format") == FORMAT
    except UserError:
        return False


def open_file(path: Path) -> tuple[dict[str, LazyTensor], ConfigDict]:
    """Opens a file that `write` wrote: name -> tensor, and its run's config;
    UserError where it is missing, no safetensors file, or of another format."""
    tensors, header = safetensors.read(Path(path))
    if header.get("format") != FORMAT:
        raise UserError(
            f"{path} is not a file that `i2i-prior export` wrote (its header "
            "names no such format)"
        )
    return tensors, from_flat(json.loads(header["config"]), note=False)


def read(
    path: Path, prefix: str = ""
) -> tuple[dict[str, np.ndarray], ConfigDict]:
    """Reads the arrays with names that start with `prefix`, and the config."""
    tensors, config = open_file(path)
    arrays = {
        name: tensor.read()
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    return arrays, config
