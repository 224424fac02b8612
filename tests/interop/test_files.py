"""State dicts of others: what torch and safetensors wrote reads the same."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.interop import containers
from i2i_prior.interop.files import (
    StateDict,
    read_state_dict,
    write_state_dict,
)
from i2i_prior.interop.mapping import Tensor

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

WEIGHTS = Path(__file__).resolve().parents[2].parent / "shared/data/weights"
BFLOAT16 = ml_dtypes.bfloat16


def numpy_of(tensor) -> np.ndarray:
    """A torch tensor as numpy has it, bfloat16 included."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(BFLOAT16)
    return tensor.numpy()


def same(state: StateDict, tensors) -> None:
    """Keys, shapes, dtypes and every bit."""
    assert list(state) == list(tensors)
    for key, tensor in tensors.items():
        wanted, found = numpy_of(tensor), state[key]
        assert found.dtype == wanted.dtype, key
        assert state.dtypes[key] == wanted.dtype.name
        assert found.shape == wanted.shape == state.shapes[key], key
        assert np.array_equal(found, wanted, equal_nan=found.dtype != bool)


@pytest.fixture(scope="module")
def tensors():
    """Of every dtype and every way to lie in a storage."""
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
    assert state.container == ""
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
    """As `zip -r` would pack it again, and as a big-endian machine saves."""
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


def test_training_checkpoints(tmp_path):
    """{'model', 'ema', 'opt', 'args'} as DiT and SiT save them."""
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    raw = {f"module.{k}": v for k, v in module.state_dict().items()}
    ema = {k: v + 1 for k, v in module.state_dict().items()}
    arguments = argparse.Namespace(
        data=Path("/data"), lr=np.float64(1e-4), size=torch.Size((2, 3)),
        kind=torch.float16, device=torch.device("cpu"), seeds={1, 2},
        history=np.arange(3), made={("a", 1): 2}, raw=b"bytes",
    )  # fmt: skip
    file = tmp_path / "0400000.pt"
    torch.save(
        {
            "model": raw,
            "ema": ema,
            "opt": optimizer.state_dict(),
            "args": arguments,
            "step": torch.tensor(3),
        },
        file,
    )
    state = read_state_dict(file)
    same(state, ema)
    assert state.container == "ema"
    state = read_state_dict(file, weights="raw")
    same(state, module.state_dict())
    assert state.container == "model"


W, B = np.ones((2, 2), np.float32), np.zeros(2, np.float32)


@pytest.mark.parametrize(
    ("content", "ema", "raw", "keys"),
    [
        ({"state_dict": {"w": B}}, "state_dict", "state_dict", "w"),
        (
            {"state_dict": {"w": W}, "state_dict_ema": {"w": B}},
            "state_dict_ema",
            "state_dict",
            "w",
        ),
        (
            {"state_dict": {"w": B}, "state_dict_ema": None},
            "state_dict",
            "state_dict",
            "w",
        ),
        (
            {"ema": {"module": {"w": B}, "decay": 0.9}, "model": {"w": W}},
            "ema.module",
            "model",
            "w",
        ),
        (
            {"model": {"state_dict": {"module._orig_mod.w": B}}, "epoch": 3},
            "model.state_dict",
            "model.state_dict",
            "w",
        ),
        (
            {"_orig_mod.module.module.w": B, "_orig_mod.module.module.b": B},
            "",
            "",
            "w b",
        ),
        ({"module.w": B, "b": B}, "", "", "module.w b"),
        ({"vit.w": B}, "", "", "vit.w"),
        ({"model.w": B}, "", "", "model.w"),
        ({"w": B, "name": "x", "sizes": [1]}, "", "", "w"),
        ({"ema": {"shadow": [B]}, "model": {"w": B}}, "model", "model", "w"),
        (
            {
                "student": {"module.backbone.w": W, "module.head.w": W},
                "teacher": {"backbone.w": B, "head.last.w": B},
                "epoch": 100,
            },
            "teacher",
            "student",
            "w head",
        ),
        (
            {
                "backbone.w": B,
                "dino_head.last.w": B,
                "ibot_head.last.w": B,
            },
            "",
            "",
            "w dino_head ibot_head",
        ),
        ({"backbone.w": B, "neck.w": B}, "", "", "backbone.w neck.w"),
        ({"backbone.head.w": B, "head.w": B}, "", "", "backbone.head.w head.w"),
    ],
)
def test_containers_and_prefixes(content, ema, raw, keys, tmp_path):
    def tensors(node):
        if isinstance(node, dict):
            return {key: tensors(value) for key, value in node.items()}
        return torch.tensor(node) if isinstance(node, np.ndarray) else node

    file = tmp_path / "weights.pth"
    torch.save(tensors(content), file)
    state = read_state_dict(file, "ema")
    assert state.container == ema
    assert [key.removesuffix(".last.w") for key in state] == keys.split()
    assert next(iter(state.values())).shape == (2,)  # B, never W
    state = read_state_dict(file, "raw")
    assert state.container == raw
    if raw != ema:
        assert next(iter(state.values())).shape == (2, 2)


def test_prefixes_keep_every_key():
    keys = [f"module.backbone.{i}" for i in range(3)]
    assert containers.strip_prefixes(keys) == dict(
        zip("012", keys, strict=True)
    )
    assert containers.strip_prefixes([]) == {}


def test_torchscript(tmp_path):
    """As OpenAI's CLIP comes: a module, its tensors by attribute path."""

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


@pytest.fixture(scope="module")
def small():
    generator = np.random.default_rng(0)
    return {
        name: generator.standard_normal(shape).astype(dtype)
        for name, shape, dtype in (
            ("b", (3,), np.float16),
            ("a", (4, 3), np.float32),
            ("scalar", (), np.float32),
            ("brain", (2, 5), BFLOAT16),
            ("none", (0, 2), np.float32),
            ("wide", (3,), np.float64),
        )
    } | {"flags": np.array([True, False, True]), "count": np.arange(3)}


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


def lazy(arrays):
    return [(k, Tensor(a.shape, lambda a=a: a)) for k, a in arrays.items()]


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

        return key, Tensor((2, 2), numbers)

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
            write_state_dict(tmp_path / name, [("a", Tensor((2,), fail))])
        with pytest.raises(UserError, match="comes twice"):
            write_state_dict(tmp_path / name, 2 * lazy({"a": B}))
    wrong = [("a", Tensor((2,), lambda: W))]
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
from i2i_prior.interop.files import write_state_dict
from i2i_prior.interop.mapping import Tensor
if {name.endswith("pth")}:
    import torch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    big = np.ones((1000, 100), np.float32)
    tensors = [("a", Tensor(big.shape, lambda: big))]
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


def test_without_torch(tmp_path, tensors):
    """Reading needs no torch; writing .pth says so."""
    torch.save(tensors, tmp_path / "weights.pth")
    script = f"""
import sys
sys.modules["torch"] = None
from i2i_prior.errors import UserError
from i2i_prior.interop.files import read_state_dict, write_state_dict
from i2i_prior.interop.mapping import Tensor
state = read_state_dict({str(tmp_path / "weights.pth")!r})
print(sum(array.size for array in state.values()))
state = [(key, Tensor(state.shapes[key], lambda: None)) for key in state]
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
