"""Restricted unpickler of torch files: no name in them is ever imported.

A tensor becomes a record of its place in the file. Other objects of training
checkpoints become placeholders if their name is known; any other name is
refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import ml_dtypes
import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.interop.files.lazy_tensor import (
    BFLOAT16,
    Shape,
    damaged_file,
    fits_numpy,
    is_natural,
    one_line,
)
from i2i_prior.interop.files.pickle_machine import Inert, run, set_items

_DTYPES = {
    f"torch.{name}": np.dtype(name)
    for name in (
        *("float64", "float32", "float16", "complex64", "complex128"),
        *("int64", "int32", "int16", "int8", "bool"),
        *("uint64", "uint32", "uint16", "uint8"),
    )
} | {
    "torch.bfloat16": BFLOAT16,
    "torch.float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "torch.float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
_STORAGES = {
    f"torch.{name}Storage": _DTYPES[f"torch.{dtype}"]
    for name, dtype in {
        "Double": "float64",
        "Float": "float32",
        "Half": "float16",
        "BFloat16": "bfloat16",
        "ComplexFloat": "complex64",
        "ComplexDouble": "complex128",
        "Long": "int64",
        "Int": "int32",
        "Short": "int16",
        "Char": "int8",
        "Byte": "uint8",
        "Bool": "bool",
        "Untyped": "uint8",
        "storage.Untyped": "uint8",
    }.items()
}


def _names(modules: str, names: str) -> set[str]:
    """Returns every name of every module, both given in words."""
    return {f"{m}.{name}" for m in modules.split() for name in names.split()}


# Other objects of training checkpoints: known by name, never built.
_DICTS = _names("collections", "OrderedDict defaultdict")
_INERT = {
    *("argparse.Namespace", "types.SimpleNamespace", "typing.Any"),
    *_names("torch", "device Tensor nn.parameter.Parameter"),
    *("torch.serialization._get_layout", "_codecs.encode"),
    *_names("numpy", "dtype ndarray"),
    *_names("numpy.core.multiarray numpy._core.multiarray", "scalar"),
    *_names("numpy.core.multiarray numpy._core.multiarray", "_reconstruct"),
    *_names("copyreg copy_reg", "_reconstructor"),
    *_names("builtins __builtin__", "bool bytearray bytes complex dict float"),
    *_names("builtins __builtin__", "frozenset int list long object range"),
    *_names("builtins __builtin__", "set slice str tuple unicode"),
    *_names("datetime", "date datetime timedelta"),
    *_names("pathlib pathlib._local", "Path PosixPath WindowsPath PurePath"),
    *_names("pathlib pathlib._local", "PurePosixPath PureWindowsPath"),
}
_TRAINERS = ("lightning.", "numpy.dtypes.", "omegaconf.", "pytorch_lightning.")
_SCRIPT = ("__torch__.", "torch.jit._pickle.")


@dataclass(frozen=True)
class Global:
    """Name of a class or function in the file."""

    name: str


@dataclass(frozen=True)
class Storage:
    """Storage of tensors, or a view of one."""

    key: str  # name in the file
    dtype: np.dtype
    start: int  # first byte of the view
    nbytes: int  # of the view
    root_nbytes: int  # bytes that are stored under the key


@dataclass(frozen=True)
class TorchTensor:
    """Tensor over a storage; offset and strides count numbers."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: Shape
    strides: tuple[int, ...]

    @property
    def span(self) -> int:
        """Count of numbers from `offset` to its last one."""
        if 0 in self.shape:
            return 0
        steps = zip(self.shape, self.strides, strict=True)
        return 1 + sum((size - 1) * stride for size, stride in steps)


class Unpickler:
    """Builds plain data, tensor records and placeholders from a pickle.

    `script` is for a TorchScript file. `storages` has those of its tensors,
    by their keys.
    """

    def __init__(self, path: Any, *, script: bool = False) -> None:
        self._path = path
        self._families = _TRAINERS + (_SCRIPT if script else ())
        self.storages: dict[str, Storage] = {}

    def load(self, file: IO[bytes]) -> Any:
        """Reads one pickle, up to its end in the file.

        Raises UserError if it is damaged, or names an object that has no place
        in a state dict.
        """
        find, call, storage = self._find, self._call, self._storage
        try:
            return run(file, find=find, call=call, persistent=storage)
        except (
            ArithmeticError,
            AttributeError,
            EOFError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise damaged_file(
                "torch", self._path, "its pickle is damaged"
            ) from error

    def _find(self, module: Any, attribute: Any) -> Global:
        if type(module) is not str or type(attribute) is not str:
            raise TypeError("no name")
        name = f"{module}.{attribute}"
        known = any(
            name in names
            for names in (_CALLS, _STORAGES, _DTYPES, _DICTS, _INERT)
        )
        if not known and not name.startswith(self._families):
            raise UserError(
                f"{self._path} names {one_line(name)}, which has no place in "
                "a state dict; nothing was executed; save the state_dict() of "
                "the model alone"
            )
        return Global(name)

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or type(arguments) is not tuple:
            raise TypeError("no function")
        if function.name in _CALLS:
            return _CALLS[function.name](*arguments)
        if function.name not in _DICTS:
            return Inert(function.name)
        made: dict[str, Any] = {}
        pairs = arguments[0] if arguments else None
        if isinstance(pairs, list):  # as Python 2 wrote an OrderedDict
            for pair in pairs:
                set_items(made, list(pair))
            pairs.clear()  # a list for every dict: work stays linear
        return made

    def _storage(self, persistent_id: Any) -> Storage:
        """Returns the storage of ("storage", class, key, device, count).

        Old files append the view: None, or a key, its first number and its
        count of numbers.
        """
        kind, of, key, _, count, *more = persistent_id
        dtype = _STORAGES[of.name]
        _, first, part = more[0] if more and more[0] else (key, 0, count)
        if (
            kind != "storage"
            or type(key) is not str
            or not is_natural(count, first, part)
            or first + part > count
        ):
            raise ValueError("no storage")
        size = dtype.itemsize
        made = Storage(key, dtype, first * size, part * size, count * size)
        known = self.storages.setdefault(key, made)
        if known.root_nbytes != made.root_nbytes:
            raise ValueError("a storage of two sizes")
        return made


def _rebuild(
    storage: Storage,
    offset: int,
    shape: Shape,
    strides: tuple[int, ...],
    *_: Any,
    dtype: np.dtype | None = None,
) -> TorchTensor:
    """Stand-in of torch._utils._rebuild_tensor and _v2."""
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without a storage")
    if type(shape) is not tuple or type(strides) is not tuple:
        raise TypeError("a tensor without a shape")
    dtype = storage.dtype if dtype is None else dtype
    tensor = TorchTensor(storage, dtype, offset, shape, strides)
    if (
        not is_natural(offset, *shape, *strides)
        or len(shape) != len(strides)
        or not fits_numpy(shape, dtype.itemsize)
        or (offset + tensor.span) * dtype.itemsize > storage.nbytes
    ):
        raise ValueError("a tensor reaches outside its storage")
    return tensor


def _rebuild_v3(*arguments: Any) -> TorchTensor:
    """Stand-in of torch._utils._rebuild_tensor_v3, with a storage of bytes."""
    *place, _grad, _hooks, dtype = arguments[:7]
    return _rebuild(*place, dtype=_DTYPES[dtype.name])


def _rebuild_typed(function: Global, kind: Any, arguments: tuple, *_: Any):
    """Stand-in of torch._tensor._rebuild_from_type_v2, with attributes."""
    return _CALLS[function.name](*arguments)


def _unwrap(kind: type) -> Callable[..., Any]:
    """Stand-in of what wraps its first argument."""

    def unwrap(value: Any, *_: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(f"no {kind.__name__}")
        return value

    return unwrap


_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_v3,
    "torch._utils._rebuild_parameter": _unwrap(TorchTensor),
    "torch._utils._rebuild_parameter_with_state": _unwrap(TorchTensor),
    "torch._tensor._rebuild_from_type_v2": _rebuild_typed,
    "torch.Size": _unwrap(tuple),
}
