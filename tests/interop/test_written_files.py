"""State dicts written for others: whole, lazily, or not at all."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from i2i_prior.errors import UserError  # noqa: E402
from i2i_prior.interop.files.lazy_tensor import LazyTensor  # noqa: E402
from i2i_prior.interop.files.state_dicts import (  # noqa: E402
    read_state_dict,
    write_state_dict,
)
from tests.interop.state_dicts_compared import BFLOAT16, B, W, numpy_of  # noqa: E402


def lazy(arrays):
    return [(k, LazyTensor(a.shape, lambda a=a: a)) for k, a in arrays.items()]


@pytest.mark.parametrize("name", ["out.safetensors", "out.pth", "out.pt"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_written_for_others(small, name, dtype, tmp_path):
    file = tmp_path / "new" / name
    arrays = {k: small[k] for k in ("a", "b", "scalar", "brain", "none")}
    arrays["fortran"] = np.asfortranarray(small["a"])
    arrays["frozen"] = np.arange(3, dtype=np.float32)
    arrays["frozen"].flags.writeable = False  # as arrays of JAX are
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        size = write_state_dict(
            file, lazy(arrays), dtype=dtype, metadata={"format": "pt"}
        )
    assert size == file.stat().st_size
    assert [path.name for path in file.parent.iterdir()] == [name]
    if name.endswith(".safetensors"):
        theirs = safetensors_torch.load_file(file)
        assert file.read_bytes()[0] % 8 == 0  # numbers begin aligned
        safe_open = pytest.importorskip("safetensors").safe_open
        with safe_open(file, framework="numpy") as opened:
            assert opened.metadata() == {"format": "pt"}
    else:
        theirs = torch.load(file, weights_only=True)
    wanted = np.dtype(BFLOAT16 if dtype == "bfloat16" else dtype)
    ours = read_state_dict(file)
    assert set(theirs) == set(ours) == set(arrays)
    for key, array in arrays.items():
        cast = array.astype(wanted)
        assert ours.dtypes[key] == dtype
        for found in (numpy_of(theirs[key]), ours[key]):
            assert found.dtype == wanted
            assert found.shape == array.shape
            assert np.array_equal(found, cast)


@pytest.mark.parametrize("name", ["out.safetensors", "out.pth"])
def test_tensors_are_read_one_at_a_time_and_in_order(name, tmp_path):
    read = []

    def tensor(key):
        def numbers():
            read.append(key)
            return np.ones((2, 2), np.float32)

        return key, LazyTensor((2, 2), numbers)

    write_state_dict(tmp_path / name, map(tensor, "cab"))
    assert read == ["c", "a", "b"]
    assert list(read_state_dict(tmp_path / name)) == ["c", "a", "b"]


@pytest.mark.parametrize("name", ["out.safetensors", "out.pth"])
def test_numbers_too_large_for_float16(name, tmp_path):
    file = tmp_path / name
    arrays = {"small": B, "huge.weight": np.float32([1e6, np.inf])}
    file.write_bytes(b"before")
    with pytest.raises(UserError, match=r"huge\.weight has numbers") as told:
        write_state_dict(file, lazy(arrays), dtype="float16")
    assert "bfloat16 or float32" in str(told.value)
    assert file.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [file]
    write_state_dict(file, lazy(arrays), dtype="bfloat16")
    assert read_state_dict(file)["huge.weight"][0] == BFLOAT16(1e6)


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def fail():
        raise RuntimeError("the device is gone")

    for name in ("out.safetensors", "out.pth"):
        with pytest.raises(RuntimeError, match="device is gone"):
            write_state_dict(tmp_path / name, [("a", LazyTensor((2,), fail))])
        with pytest.raises(UserError, match="comes twice"):
            write_state_dict(tmp_path / name, 2 * lazy({"a": B}))
    wrong = [("a", LazyTensor((2,), lambda: W))]
    with pytest.raises(ValueError, match="not float32"):
        write_state_dict(tmp_path / "out.safetensors", wrong)
    assert not list(tmp_path.iterdir())
    file = tmp_path / "file"
    file.touch()
    for name in ("out.safetensors", "out.pth"):
        with pytest.raises(UserError, match="cannot write"):
            write_state_dict(file / name, lazy({"a": B}))
    with pytest.raises(UserError, match=r"\.safetensors, \.pth or \.pt"):
        write_state_dict(tmp_path / "out.npz", lazy({"a": B}))
    with pytest.raises(UserError, match="choose float32, float16"):
        write_state_dict(tmp_path / "o.pt", lazy({"a": B}), dtype="int8")
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", ["out.safetensors", "out.pth"])
def test_a_full_disk(name, tmp_path):
    """Writing stops at a limit of bytes, as on a disk that is full."""
    script = f"""
import resource, signal
import numpy as np
from i2i_prior.errors import UserError
from i2i_prior.interop.files.state_dicts import write_state_dict
from i2i_prior.interop.files.lazy_tensor import LazyTensor
if {name.endswith("pth")}:
    import torch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    big = np.ones((1000, 100), np.float32)
    tensors = [("a", LazyTensor(big.shape, lambda: big))]
    write_state_dict({str(tmp_path / name)!r}, tensors)
except UserError as error:
    print(error)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    (line,) = ended.stdout.splitlines()
    assert line.startswith(f"cannot write {tmp_path / name} (")
    assert not list(tmp_path.iterdir())
