"""State dicts of torch and safetensors, read to the bit."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from i2i_prior.interop.files.state_dicts import StateDict, read_state_dict  # noqa: E402
from tests.interop.state_dicts_compared import B, W, numpy_of, same  # noqa: E402

WEIGHTS = Path(__file__).resolve().parents[2].parent / "shared/data/weights"


@pytest.fixture(scope="module")
def tensors():
    """Tensors of every dtype and every view of a storage."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 10, generator=generator)
    tied = torch.nn.Parameter(torch.randn(3, 4, generator=generator))
    return OrderedDict(
        plain=base.clone(),
        transposed=base.T,
        sliced=base[2:5, 3:7],
        strided=base[::2, ::3],
        row=base[4],
        thin=base[:, 9],
        permuted=torch.randn(2, 3, 4, generator=generator).permute(2, 0, 1),
        expanded=torch.randn(1, 5, generator=generator).expand(7, 5),
        scalar=torch.tensor(0.5),
        empty=torch.zeros(0, 3),
        one=torch.ones(4, 1)[:, :1],
        half=base.half(),
        brain=base.bfloat16().T,
        double=base.double(),
        long=torch.arange(5),
        int=torch.arange(5, dtype=torch.int32),
        short=torch.arange(5, dtype=torch.int16),
        char=torch.arange(-2, 3, dtype=torch.int8),
        byte=torch.arange(5, dtype=torch.uint8),
        bool=torch.tensor([True, False, True]),
        complex=torch.complex(base, -base),
        parameter=torch.nn.Parameter(base.clone()),
        tied=tied,
        tied_again=tied,
        # _rebuild_from_type_v2 and _rebuild_parameter_with_state
        attribute=marked(base.clone()),
        marked=marked(torch.nn.Parameter(base.clone())),
    )


def marked(tensor):
    tensor.decay = False
    return tensor


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_torch_files(tensors, zipped, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(tensors, file, _use_new_zipfile_serialization=zipped)
    state = read_state_dict(file)
    same(state, tensors)
    assert state.wrapper == ""
    assert state.config is None
    assert state.path == file
    with pytest.raises(KeyError):
        state["absent"]
    assert "absent" not in state


def test_newer_dtypes_and_protocols(tmp_path):
    """_rebuild_tensor_v3 over bytes; framed pickles with STACK_GLOBAL."""
    tensors = {
        "u16": torch.arange(6).to(torch.uint16).reshape(2, 3).T,
        "u64": torch.arange(3).to(torch.uint64),
    }
    file = tmp_path / "weights.pt"
    torch.save(tensors, file, pickle_protocol=4)
    same(read_state_dict(file), tensors)
    eight = torch.tensor([0.5, -2.0, 448.0]).to(torch.float8_e4m3fn)
    torch.save({"w": eight}, file)
    found = read_state_dict(file)
    assert found.dtypes == {"w": "float8_e4m3fn"}
    assert found["w"].astype(np.float32).tolist() == [0.5, -2.0, 448.0]


def test_a_deflated_and_a_big_endian_archive(tensors, tmp_path):
    """Archives as of `zip -r`, and as of a big-endian machine."""
    file = tmp_path / "weights.pth"
    torch.save(tensors, file)
    deflated = tmp_path / "deflated.pth"
    big = tmp_path / "big.pth"
    kept = ("plain", "brain", "long", "complex")
    torch.save({key: tensors[key] for key in kept}, big)
    with (
        zipfile.ZipFile(file) as source,
        zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    same(read_state_dict(deflated), tensors)
    with zipfile.ZipFile(big) as source:
        entries = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(big, "w") as target:
        for name, content in entries.items():
            if name.endswith("byteorder"):
                content = b"big"
            if "/data/" in name:
                key = kept[int(name.rpartition("/")[2])]
                item = numpy_of(tensors[key]).dtype.itemsize
                word = f"u{4 if key == 'complex' else item}"
                content = np.frombuffer(content, word).byteswap().tobytes()
            target.writestr(name, content)
    same(read_state_dict(big), {key: tensors[key] for key in kept})


def test_torchscript(tmp_path):
    """Module as in OpenAI's CLIP: tensors by attribute path."""

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 3)
            self.scale = torch.nn.Parameter(torch.ones(1))
            self.register_buffer("count", torch.tensor(77))
            self.blocks = torch.nn.Sequential(torch.nn.LayerNorm(3))

        def forward(self, x):
            return self.blocks(self.layer(x)) * self.scale

    module = Block().half()
    file = tmp_path / "ViT.pt"
    torch.jit.save(torch.jit.script(module), file)
    state = read_state_dict(file)
    wanted = module.state_dict()
    assert set(state) == set(wanted)
    same(state, {key: wanted[key] for key in state})


def test_safetensors(small, tmp_path):
    numpy_files = pytest.importorskip("safetensors.numpy")
    file = tmp_path / "weights.safetensors"
    numpy_files.save_file(small, file, metadata={"format": "pt"})
    (tmp_path / "config.json").write_text('{"hidden_size": 3}')
    for path in (file, str(file)):
        state = read_state_dict(path)
        assert set(state) == set(small)
        for name, array in small.items():
            assert state[name].dtype == array.dtype
            assert np.array_equal(state[name], array)
            assert state.shapes[name] == array.shape
        assert state.config == {"hidden_size": 3}
        state["a"][:] = 0  # a fresh array, of nothing in the file
        assert np.array_equal(state["a"], small["a"])


@pytest.mark.parametrize(
    "name", ["model", "diffusion_pytorch_model", "pytorch_model"]
)
def test_folders(name, small, tmp_path):
    """A sharded one, by the index or the folder, then a single file."""
    folder = tmp_path / "folder"
    folder.mkdir()
    suffix = "bin" if name == "pytorch_model" else "safetensors"
    tensors = {key: torch.tensor(small[key]) for key in ("a", "b", "wide")}
    halves = {
        f"{name}-00001-of-00002.{suffix}": {"a": tensors["a"]},
        f"{name}-00002-of-00002.{suffix}": {
            "b": tensors["b"],
            "wide": tensors["wide"],
        },
    }
    save = torch.save if suffix == "bin" else safetensors_torch.save_file
    for file, half in halves.items():
        save(half, folder / file)
    index = folder / f"{name}.{suffix}.index.json"
    index.write_text(
        json.dumps(
            {
                "metadata": {"total_size": 1},
                "weight_map": {
                    key: file for file, half in halves.items() for key in half
                },
            }
        )
    )
    (folder / "config.json").write_text('{"model_type": "vit"}')
    for path in (folder, index):
        state = read_state_dict(path)
        same(state, tensors)
        assert state.config == {"model_type": "vit"}
        assert state.path == index
    index.unlink()
    save(tensors, folder / f"{name}.{suffix}")
    state = read_state_dict(folder)
    assert set(state) == set(tensors)
    same(state, {key: tensors[key] for key in state})


def test_a_linked_shard_is_followed(small, tmp_path):
    """Hugging Face's cache links each file to a blob elsewhere."""
    (tmp_path / "blobs").mkdir()
    folder = tmp_path / "snapshot"
    folder.mkdir()
    blob = tmp_path / "blobs" / "0f3a"
    safetensors_torch.save_file({"a": torch.tensor(small["a"])}, blob)
    (folder / "model.safetensors").symlink_to("../blobs/0f3a")
    assert np.array_equal(read_state_dict(folder)["a"], small["a"])


def test_without_torch(tmp_path, tensors):
    """Reading needs no torch; writing .pth says so."""
    torch.save(tensors, tmp_path / "weights.pth")
    script = f"""
import sys
sys.modules["torch"] = None
from i2i_prior.errors import UserError
from i2i_prior.interop.files.state_dicts import (
    read_state_dict,
    write_state_dict,
)
from i2i_prior.interop.files.lazy_tensor import LazyTensor
state = read_state_dict({str(tmp_path / "weights.pth")!r})
print(sum(array.size for array in state.values()))
state = [(key, LazyTensor(state.shapes[key], lambda: None)) for key in state]
try:
    write_state_dict({str(tmp_path / "out.pth")!r}, state)
except UserError as error:
    print(error)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    count, told = ended.stdout.splitlines()
    assert int(count) == sum(tensor.numel() for tensor in tensors.values())
    assert "pip install 'i2i-prior[torch]'" in told
    assert "ends in .safetensors" in told


def test_from_arrays():
    state = StateDict.from_arrays({"w": W, "b": B}, config={"depth": 2})
    assert state.shapes == {"w": (2, 2), "b": (2,)}
    assert state.dtypes == {"w": "float32", "b": "float32"}
    assert state.config == {"depth": 2}
    assert state.path == Path("memory")
    assert np.array_equal(state["w"], W)


@pytest.mark.parametrize(
    "name",
    ["taef2_encoder.pth", "taef2_decoder.pth", "mobilenet_v2.safetensors"],
)
def test_real_files(name):
    file = WEIGHTS / name
    if not file.is_file():
        pytest.skip(f"no {file}")
    if name.endswith(".pth"):
        wanted = torch.load(file, weights_only=True)
    else:
        wanted = safetensors_torch.load_file(file)
    state = read_state_dict(file)
    assert len(state) > 70
    same(state, {key: wanted[key] for key in state})
    assert set(state) == set(wanted)
