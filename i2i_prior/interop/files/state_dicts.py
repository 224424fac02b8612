"""State dicts in files, read and written an array at a time.

`.safetensors`, sharded Hugging Face folders, and `.pth`, `.pt`, `.bin` by a
restricted reader (`files.torch`) that executes nothing and needs no torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.interop.files import safetensors, state_dict_keys
from i2i_prior.interop.files import torch as torch_files
from i2i_prior.interop.files.lazy_tensor import (
    BFLOAT16,
    LazyTensor,
    file_size,
    one_line,
    open_atomic,
    read_bytes,
)

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
_IN_FOLDER = (
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.json",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.bin.index.json",
)
_DTYPES = ("float32", "float16", "bfloat16")
_MAX_JSON = 2**26  # bytes


class StateDict(Mapping[str, np.ndarray]):
    """Mapping of key -> array, read from disk on access and not kept.

    Attributes:
      path: of the file.
      shapes: key -> shape.
      dtypes: key -> dtype name in numpy and ml_dtypes, such as `bfloat16`.
      config: content of the config.json in the same folder, or None.
      wrapper: path of the dict in the file that held the weights, such as
        `ema` or `state_dict.module`; empty for a flat file.
    """

    def __init__(
        self,
        tensors: Mapping[str, LazyTensor],
        *,
        path: Path | str,
        config: dict[str, Any] | None = None,
        wrapper: str = "",
    ) -> None:
        self._tensors = dict(tensors)
        self.path = Path(path)
        self.shapes = {key: t.shape for key, t in self._tensors.items()}
        self.dtypes = {key: t.dtype for key, t in self._tensors.items()}
        self.config = config
        self.wrapper = wrapper

    def __getitem__(self, key: str) -> np.ndarray:
        """Reads an array, in the file's dtype; UserError if the file was
        removed or cut short meanwhile."""
        return self._tensors[key].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, key: object) -> bool:
        return key in self._tensors  # without reading it

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, np.ndarray],
        config: dict[str, Any] | None = None,
        path: Path | str = "memory",
    ) -> StateDict:
        """Makes a state dict of arrays in memory."""
        return cls(
            {
                key: LazyTensor(array.shape, array.__array__, array.dtype.name)
                for key, array in arrays.items()
            },
            path=path,
            config=config,
        )


def read_state_dict(path: Path | str, weights: str = "ema") -> StateDict:
    """Opens weights: reads their names and shapes, no array yet.

    Wrapping dicts and prefixes are removed, see `state_dict_keys`. The path is
    a .safetensors, .pth, .pt, .bin or .ckpt file, an `.index.json` of shards,
    or a folder of Hugging Face. `weights` is the copy to take of a training
    checkpoint with two: "ema", the moving average, or "raw". UserError where
    there are no readable weights.
    """
    path = Path(path)
    if weights not in ("ema", "raw"):
        raise UserError(f"weights {weights!r} is unknown; choose ema or raw")
    if os.path.isdir(path):
        path = _in_folder(path)
    if path.name.endswith(".index.json"):
        tensors, wrapper = _read_shards(path), ""
    else:
        tensors, wrapper = _read_file(path, weights)
    names = state_dict_keys.strip_prefixes(tensors)
    return StateDict(
        {name: tensors[key] for name, key in names.items()},
        path=path,
        config=_config(path.with_name("config.json")),
        wrapper=wrapper,
    )


def write_state_dict(
    path: Path | str,
    tensors: Iterable[tuple[str, LazyTensor]],
    *,
    dtype: str = "float32",
    metadata: dict[str, str] | None = None,
) -> int:
    """Writes a state dict to a file that appears when it is complete.

    A .safetensors needs the memory of one tensor, .pth and .pt need torch and
    the memory of all. The tensors, each with its key, are read in any float
    dtype; `dtype`, that of the file, is "float32", "float16" or "bfloat16".
    `metadata` is for the header of .safetensors; it is not written to .pth.

    Returns the bytes written. UserError where the file cannot be written, torch
    is missing, or a number is too large for the dtype.
    """
    path = Path(path)
    if dtype not in _DTYPES:
        raise UserError(
            f"dtype {dtype!r} is unknown; choose {', '.join(_DTYPES)}"
        )
    cast: dict[str, LazyTensor] = {}
    for key, tensor in tensors:
        if key in cast:
            raise UserError(f"{key} comes twice; {path} was not written")
        cast[key] = LazyTensor(tensor.shape, _caster(key, tensor, dtype), dtype)
    if path.suffix == ".safetensors":
        return safetensors.write(path, cast, metadata)
    if path.suffix in (".pth", ".pt"):
        return _write_torch(path, cast)
    raise UserError(f"{path} should end in .safetensors, .pth or .pt")


def _caster(key: str, tensor: LazyTensor, dtype: str) -> Callable:
    def read() -> np.ndarray:
        array = np.asarray(tensor.read())
        with np.errstate(over="ignore"):
            cast = array.astype(np.dtype(dtype), copy=False)
        if cast.dtype != array.dtype and (
            np.isinf(cast).sum() > np.isinf(array).sum()
        ):
            raise UserError(
                f"{key} has numbers that {dtype} cannot hold; export as "
                "bfloat16 or float32"
            )
        return cast

    return read


def _write_torch(path: Path, tensors: Mapping[str, LazyTensor]) -> int:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"writing {path} needs torch: pip install 'i2i-prior[torch]', "
            "or choose a name that ends in .safetensors"
        ) from error
    state = {}
    for key, tensor in tensors.items():
        array = np.require(tensor.read(), None, ["C", "W"])  # for torch
        if array.dtype == BFLOAT16:  # torch does not convert it
            bits = torch.from_numpy(array.view(np.int16))
            converted = bits.view(torch.bfloat16)
        else:
            converted = torch.from_numpy(array)
        state[key] = converted.reshape(tensor.shape)
    with open_atomic(path) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's error of a full disk
            raise OSError(str(error).splitlines()[0]) from error
    return path.stat().st_size


def _read_file(path: Path, weights: str) -> tuple[dict[str, LazyTensor], str]:
    """Opens one file; returns as `files.torch.read`."""
    if path.suffix == ".safetensors":
        tensors = safetensors.read(path)[0]
        if not tensors:
            raise UserError(f"{path} holds no tensors")
        return tensors, ""
    if path.suffix in TORCH_SUFFIXES:
        return torch_files.read(path, weights)
    file_size(path)  # a missing file is reported first
    raise UserError(
        f"{path} is no weight file by its name; it should end in "
        f".safetensors, .index.json, {', '.join(TORCH_SUFFIXES)}"
    )


def _in_folder(folder: Path) -> Path:
    for name in _IN_FOLDER:
        if os.path.isfile(folder / name):
            return folder / name
    raise UserError(
        f"{folder} holds none of {', '.join(_IN_FOLDER)}; name the weight "
        "file itself"
    )


def _read_shards(path: Path) -> dict[str, LazyTensor]:
    """Opens the shards of an index, in the same folder."""
    index = _json(path)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not all(
        isinstance(name, str) for name in shards.values()
    ):
        raise UserError(f"{path} has no weight_map of keys to file names")
    files: dict[str, dict[str, LazyTensor]] = {}
    for name in dict.fromkeys(shards.values()):
        # Nothing outside the folder is opened.
        if name != Path(name).name or name in ("", "..") or "\\" in name:
            raise UserError(
                f"{path} names the shard {one_line(name)}, which is not a file "
                "in its folder; nothing was read"
            )
        if not os.path.isfile(path.with_name(name)):
            raise UserError(
                f"the shard {one_line(name)} of {path} is missing; fetch it"
            )
        files[name] = _read_file(path.with_name(name), "raw")[0]
    for key, name in shards.items():
        if key not in files[name]:
            raise UserError(
                f"{path} names {one_line(key)} in {name}, which does not "
                "hold it; fetch both again"
            )
    if not shards:
        raise UserError(f"{path} names no tensors")
    return {key: files[name][key] for key, name in shards.items()}


def _config(path: Path) -> dict[str, Any] | None:
    """Reads a config.json; None where there is none."""
    if not os.path.isfile(path):
        return None
    return found if isinstance(found := _json(path), dict) else None


def _json(path: Path) -> Any:
    size = file_size(path)
    if size > _MAX_JSON:
        raise UserError(f"{path} is too large for a JSON file; fetch it again")
    try:
        return json.loads(read_bytes(path, 0, size).tobytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON; fetch it again") from error
