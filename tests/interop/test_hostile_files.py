"""Damaged and hostile weight files: one sentence, and nothing happens."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.interop.files import read_state_dict

# Opcodes of the pickle protocol, as torch.save writes them.
HEAD = b"\x80\x02"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED = b"ccollections\nOrderedDict\n"
MAGIC = 0x1950A86A20F9469CFC6C


def obj(value) -> bytes:
    """Plain data as opcodes, without head and stop."""
    return pickle.dumps(value, 2)[2:-1]


def storage(key="0", count=6, kind=b"ctorch\nFloatStorage\n") -> bytes:
    return (
        b"("
        + obj("storage")
        + kind
        + obj(key)
        + obj("cpu")
        + obj(count)
        + b"tQ"
    )


def tensor(offset=0, shape=(2, 3), strides=(3, 1), where=None) -> bytes:
    arguments = obj(offset) + obj(shape) + obj(strides) + obj(False) + obj(None)
    where = storage() if where is None else where
    return TENSOR + b"(" + where + arguments + b"tR"


def state(*entries: bytes) -> bytes:
    """{"w": a good tensor, "x0": the first entry, ...}, a whole pickle."""
    items = obj("w") + tensor() + b"s"
    for number, entry in enumerate(entries):
        items += obj(f"x{number}") + entry + b"s"
    return HEAD + b"}" + items + b"."


NUMBERS = np.arange(6, dtype=np.float32).tobytes()


def zipped(pickled: bytes, numbers=NUMBERS, change=None, **kinds) -> bytes:
    """The zip format; change(entries) may forge the central directory."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in (
            ("data.pkl", pickled),
            ("byteorder", b"little"),
            ("data/0", numbers),
        ):
            kind = kinds.get(name.replace("/", "").replace(".", ""), 0)
            archive.writestr(f"archive/{name}", content, kind)
        if change:
            change(
                {i.filename.partition("/")[2]: i for i in archive.infolist()}
            )
    return file.getvalue()


def legacy(
    pickled: bytes, keys=("0",), count=6, numbers=NUMBERS, first=None
) -> bytes:
    """The format before torch 1.6."""
    system = {"protocol_version": 1001, "little_endian": True}
    parts = [
        pickle.dumps(MAGIC, 2) if first is None else first,
        pickle.dumps(1001, 2),
        pickle.dumps(system, 2),
        pickled,
        pickle.dumps(list(keys), 2),
        struct.pack("<q", count),
        numbers,
    ]
    return b"".join(parts)


GOOD = legacy(state())


def safetensors(header, numbers=b"", length=None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if length is None else length
    return struct.pack("<Q", length) + text + numbers


@pytest.fixture
def refused(tmp_path):
    """refused(name, content): the sentence; nothing else may happen."""

    def run(name: str, content: bytes | None = None) -> str:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        before = sorted(tmp_path.rglob("*"))
        tracemalloc.start()
        try:
            with pytest.raises(UserError) as told:
                read_state_dict(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        said = str(told.value)
        assert sorted(tmp_path.rglob("*")) == before
        assert peak < 8e6 + 4 * len(content or b""), "believed a claim"
        assert "\n" not in said
        assert len(said.replace(str(tmp_path), "")) < 400
        assert str(tmp_path) in said
        return said

    return run


def test_the_builders_build_what_can_be_read(tmp_path):
    """So that what is refused below is refused for its one flaw."""
    for name, content in (
        ("zip.pth", zipped(state(tensor(shape=(3,), strides=(2,))))),
        ("deflated.pth", zipped(state(), data0=8, datapkl=8)),
        ("legacy.pth", legacy(state())),
        (
            "a.safetensors",
            safetensors(
                {"w": entry(shape=[2, 3], data_offsets=[0, 24])}, NUMBERS
            ),
        ),
    ):
        (tmp_path / name).write_bytes(content)
        found = read_state_dict(tmp_path / name)["w"]
        assert found.tolist() == [[0, 1, 2], [3, 4, 5]]


# --- code in a pickle -----------------------------------------------------


class Payload:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("form", [zipped, legacy])
@pytest.mark.parametrize(
    ("function", "named"),
    [
        (os.system, "system"),
        (eval, "builtin"),
        (exec, "exec"),
        (getattr, "get"),
    ],
)
def test_nothing_is_executed(form, function, named, refused, tmp_path):
    touched = tmp_path / "touched"
    code = f"touch {touched}"
    if function in (eval, exec):
        code = f"open({str(touched)!r}, 'w').close()"
    arguments = (os, "system") if function is getattr else (code,)
    if function is getattr:
        hidden = b"cbuiltins\ngetattr\n" + b"cos\nsystem\n" + b"\x85R"
    else:
        hidden = obj(Payload(function, *arguments))
    for entry in (
        hidden,
        ORDERED + hidden + b"\x85R",  # an argument of what is allowed
        b"cargparse\nNamespace\n)\x81" + b"}" + obj("a") + hidden + b"sb",
        TENSOR + b"(" + hidden + b"tR",
    ):
        said = refused("evil.pth", form(state(entry)))
        assert "which has no place in a state dict" in said
        assert "nothing was executed" in said
        assert named in said
        assert not touched.exists()


def test_code_in_the_first_pickles_of_a_legacy_file(refused, tmp_path):
    evil = pickle.dumps(Payload(os.system, f"touch {tmp_path / 'touched'}"), 2)
    assert "system" in refused("evil.pth", legacy(state(), first=evil))


@pytest.mark.parametrize(
    ("name", "opcodes"),
    [
        # dotted names reach into an allowed class with STACK_GLOBAL
        (
            "collections.OrderedDict.fromkeys",
            obj("collections") + obj("OrderedDict.fromkeys") + b"\x93",
        ),
        ("torch.hub.load", b"ctorch.hub\nload\n"),
        ("torch.load", b"ctorch\nload\n"),
        ("numpy.load", b"cnumpy\nload\n"),
        ("functools.partial", b"cfunctools\npartial\n"),
        ("__torch__.Module", b"c__torch__\nModule\n"),
        ("builtins.getattr", b"cbuiltins\ngetattr\n"),
        ("nn.modules.linear", b"ctorch.nn.modules.linear\nLinear\n"),
        # names are for a message: one line, not endless
        ("x\\\\ny.z", obj("x\ny") + obj("z") + b"\x93"),
        ("xxxxx...", obj("x" * 100_000) + obj("z") + b"\x93"),
    ],
)
def test_forbidden_names(name, opcodes, refused):
    said = refused("evil.pth", zipped(state(opcodes)))
    assert "has no place in a state dict" in said
    assert name.replace("\\\\", "\\") in said


DEEP = b"(" * 100_000 + b"t" * 100_000


@pytest.mark.parametrize(
    "opcodes",
    [
        b"(" + obj("echo") + b"ios\nsystem\n",  # INST
        b"(cargparse\nNamespace\no",  # OBJ
        b"\x82\x01",  # EXT1
        b"P0\n",  # PERSID
        obj("text") + b")R",  # a call of a string
        b"}" + b")R",  # of a dict
        tensor() + b")R",
        ORDERED + obj([1]) + b"R",  # arguments that are no tuple
        obj("argparse") + DEEP + b"\x93",  # a name that is no string
        TENSOR + b")R",
        TENSOR + b"(" + obj([1, 0, (2,), (1,), False, None])[:-1] + b"tR",
        b"(" + obj("storage") + obj("FloatStorage") + obj("0") + b"tQ",
        b"(" + obj("module") + b"ctorch\nFloatStorage\nNNK\x01tQ",
        storage(kind=b"ctorch\ndevice\n"),
        storage(kind=b"ctorch\nSize\n"),
        b"ctorch.nn.parameter\nParameter\nQ",
        b"ctorch._utils\n_rebuild_parameter\n(NNNtR",
        b"ctorch._tensor\n_rebuild_from_type_v2\n(NNNtR",
        b"j\xff\xff\xff\x7f",  # LONG_BINGET of what was never put
        b"X\xff\xff\xff\x7fabc",  # a string of 2 GB
        b"\x8d" + b"\xff" * 8,  # a string of 16 EB
        b"\x8b\xff\xff\xff\x7f",  # an integer of 2 GB
        b"0" * 10,  # POP
        b"ttt",
        b"\xff",
    ],
    ids=range(25),
)
@pytest.mark.parametrize("form", [zipped, legacy])
def test_malformed_pickles(form, opcodes, refused):
    said = refused("bad.pth", form(state(opcodes)))
    assert "is not a readable torch file (its pickle is damaged)" in said


def test_allowed_classes_stay_inert(tmp_path):
    """What BUILD would set on a real object is kept, seen by nobody."""
    harmless = [
        b"cargparse\nNamespace\n)\x81" + obj({"__class__": 1}) + b"b",
        b"cargparse\nNamespace\n" + obj((None, {"__setstate__": 1})) + b"b",
        ORDERED + obj((None, {"fromkeys": 1})) + b"b",
        ORDERED + b")R" + obj({"__reduce__": 1}) + b"b",
        b"cbuiltins\nset\n" + DEEP + b"\x85R",
        b"cbuiltins\nbytearray\n" + obj(2**60) + b"\x85R",
        b"cbuiltins\nrange\n" + obj(2**60) + b"\x85R",
        obj(0) + b"r\xff\xff\xff\x7f",  # LONG_BINPUT of a huge number
        b"comegaconf.dictconfig\nDictConfig\n)\x81}b",
        b"cpytorch_lightning.callbacks\nModelCheckpoint\n",
        DEEP,
        b"}" + DEEP + obj(1) + b"s",  # a key that would take long to hash
    ]
    file = tmp_path / "odd.pth"
    file.write_bytes(zipped(state(*harmless)))
    assert list(read_state_dict(file)) == ["w"]


@pytest.mark.parametrize(
    "entry",
    [
        tensor(shape=(7,), strides=(1,)),
        tensor(shape=(2, 3), strides=(4, 1)),
        tensor(offset=1),
        tensor(offset=-1),
        tensor(offset=2**70),
        tensor(offset=7, shape=(0,), strides=(1,)),
        tensor(shape=(2, -3)),
        tensor(strides=(-3, 1)),
        tensor(strides=(3,)),
        tensor(shape=(2**40,), strides=(1,)),
        tensor(shape=(2**40, 2**40), strides=(0, 0)),
        tensor(shape=(0, 2**70), strides=(0, 0)),
        tensor(shape=(1,) * 65, strides=(1,) * 65),
        tensor(shape=(2.0, 3)),
        tensor(shape=(True, 3)),
        tensor(shape=[2, 3]),
        tensor(where=storage(count=-6)),
        tensor(where=storage(count=7)),  # "0" has 6 elsewhere
        tensor(where=storage(kind=b"ctorch\nDoubleStorage\n")),
        tensor(where=storage("7")),
        tensor(where=storage("../../../etc/passwd")),
    ],
    ids=range(21),
)
@pytest.mark.parametrize("form", [zipped, legacy])
def test_tensors_outside_their_storage(form, entry, refused):
    assert "is not a readable torch file (" in refused(
        "bad.pth", form(state(entry))
    )


def test_strides_that_nothing_takes(tmp_path):
    """An axis of 1 may claim any stride; one of 0 repeats a number."""
    file = tmp_path / "odd.pth"
    file.write_bytes(
        zipped(
            state(
                tensor(shape=(1, 6), strides=(2**70, 1)),
                tensor(shape=(2**40, 3), strides=(0, 1)),
            )
        )
    )
    found = read_state_dict(file)
    assert found["x0"].tolist() == [[0, 1, 2, 3, 4, 5]]
    assert found["x1"].shape == (2**40, 3)  # and still three numbers
    assert found["x1"][-1].tolist() == [0, 1, 2]


def test_what_python_2_and_old_torch_wrote(tmp_path):
    """An OrderedDict of a list of pairs, a storage that is a view."""
    view = storage()[:-2] + obj(("view", 2, 4)) + b"tQ"
    second = b"(" + obj("b") + tensor(0, (2, 2), (2, 1), view) + b"t"
    first = b"](U\x01a" + tensor() + b"e"
    pickled = HEAD + ORDERED + b"](" + first + second + b"e\x85R."
    file = tmp_path / "old.pth"
    file.write_bytes(legacy(pickled))
    found = read_state_dict(file)
    assert list(found) == ["a", "b"]
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["b"].tolist() == [[2, 3], [4, 5]]


def test_any_flipped_byte_reads_or_is_told(tmp_path):
    rng = np.random.default_rng(0)
    file = tmp_path / "flipped.pth"
    wholes = [zipped(state()), GOOD, zipped(state(), data0=8)]
    told = []
    for number in range(600):
        if number % 2:
            content = bytearray(wholes[number % 3])
        else:
            content = bytearray(state())
        for place in rng.integers(len(content), size=1 + number % 3):
            content[place] = rng.integers(256)
        file.write_bytes(content if number % 2 else zipped(bytes(content)))
        try:
            found = read_state_dict(file)
            shapes = {key: array.shape for key, array in found.items()}
            assert shapes == found.shapes
        except UserError as error:
            told.append(str(error))
    assert 100 < len(told) < 600
    assert not any("\n" in said for said in told)


# --- torch files that are cut, forged or none ------------------------------


def claims(name: str, **changes):
    def change(entries):
        for key, value in changes.items():
            setattr(entries[name], key, value)

    return change


HUGE = 2**40


@pytest.mark.parametrize(
    "content",
    [
        zipped(state())[:-1],
        zipped(state())[:200],
        zipped(state())[:4],
        zipped(state(), numbers=NUMBERS[:-1]),
        zipped(state(), change=claims("data/0", file_size=HUGE)),
        zipped(
            state(),
            change=claims("data/0", file_size=HUGE, compress_size=HUGE),
        ),
        zipped(state(), change=claims("data/0", header_offset=10**6)),
        zipped(state(), change=claims("data/0", header_offset=1)),
        zipped(state(), data0=8, change=claims("data/0", file_size=HUGE)),
        zipped(state(), data0=8, change=claims("data/0", flag_bits=1)),
        zipped(state(), data0=zipfile.ZIP_BZIP2),
        zipped(state(), datapkl=8, change=claims("data.pkl", file_size=HUGE)),
        zipped(state() + bytes(2**25), datapkl=8),  # 32 kB that are 32 MB
        zipped(state(), change=claims("data.pkl", file_size=HUGE)),
        zipped(state()[:-1]),
        zipped(state()[:50]),
        zipped(b""),
    ],
    ids=range(17),
)
def test_forged_and_cut_zips(content, refused):
    assert "is not a readable torch file (" in refused("bad.pth", content)


def test_a_storage_that_deflates_to_less_than_it_claims(tmp_path):
    """Found when it is read, by which time only the claim was believed."""
    content = zipped(
        state(tensor(where=storage("0", 6))),
        numbers=NUMBERS[:20] + b"",
        data0=8,
        change=claims("data/0", file_size=24),
    )
    file = tmp_path / "bad.pth"
    file.write_bytes(content)
    found = read_state_dict(file)
    with pytest.raises(UserError, match="not a readable torch file"):
        found["w"]


@pytest.mark.parametrize(
    "content",
    [
        *(GOOD[:length] for length in (1, 10, 40, 200, len(GOOD) - 1)),
        legacy(state(), count=7),
        legacy(state(), count=-1),
        legacy(state(), count=2**60),
        legacy(state(), keys=()),
        legacy(state(), keys=("1",)),
        legacy(state(), keys=("0", "0")),
        legacy(state(), keys=(0,)),
        legacy(state(), first=pickle.dumps(MAGIC + 1, 2)),
        legacy(state(), first=pickle.dumps([MAGIC], 2)),
        pickle.dumps({"w": [1.0]}, 2),
        b"version https://git-lfs.github.com/spec/v1\n",
        b"<!DOCTYPE html>",
        bytes(1000),
    ],
    ids=range(18),
)
def test_forged_and_cut_legacy_files(content, refused):
    assert "is not a readable torch file (" in refused("bad.pth", content)


def test_a_file_cut_after_it_was_opened(tmp_path):
    for name, content in (("a.pth", zipped(state())), ("b.pth", GOOD)):
        file = tmp_path / name
        file.write_bytes(content)
        found = read_state_dict(file)
        file.write_bytes(content[:30])
        with pytest.raises(UserError, match="was cut short"):
            found["w"]
        file.unlink()
        with pytest.raises(UserError, match="cannot read"):
            found["w"]


def test_torch_files_without_weights(refused):
    empty = io.BytesIO()
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("folder/picture.png", b"")
    said = refused("photos.pth", empty.getvalue())
    assert "no file that torch.save wrote" in said
    for content in (
        zipped(HEAD + obj({"epoch": 3, "name": "x"}) + b"."),
        zipped(HEAD + b"]" + tensor() + b"a."),
        zipped(HEAD + b"N."),
    ):
        said = refused("empty.pth", content)
        assert "holds no tensors where a state dict keeps them" in said
        assert "save the state_dict()" in said
    assert "(only epoch, name)" in refused(
        "empty.pth", zipped(HEAD + obj({"epoch": 3, "name": "x"}) + b".")
    )


def test_containers_that_share_and_nest_without_end(refused):
    """Dicts in dicts, each twice: a walk that visits all never ends."""
    names = ("model", "ema")
    nested = b"}q\x00"
    for number in range(1, 200):
        link = b"h" + bytes([number - 1])
        nested += b"}" + b"".join(obj_name(n) + link + b"s" for n in names)
        nested += b"q" + bytes([number])
    said = refused("deep.pth", zipped(HEAD + nested + b"."))
    assert "holds no tensors" in said


def obj_name(text: str) -> bytes:
    """A string that is not memoised."""
    return b"X" + struct.pack("<I", len(text)) + text.encode()


# --- safetensors -----------------------------------------------------------


def entry(**changes):
    good = {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}
    return {key: v for key, v in {**good, **changes}.items() if v is not None}


@pytest.mark.parametrize(
    "content",
    [
        b"1234567",
        safetensors({"w": entry()}, NUMBERS)[:-1],
        safetensors({"w": entry()}, NUMBERS)[:20],
        safetensors({"w": entry()}, NUMBERS + b"x"),
        safetensors({"w": entry()}, NUMBERS, length=2**40),
        safetensors({"w": entry()}, NUMBERS, length=2**64 - 1),
        safetensors(b"", b""),
        safetensors(b"{]", NUMBERS),
        safetensors(b"[]"),
        safetensors(b"3"),
        safetensors(b"\xff\xfe\xff"),
        safetensors(b"[" * 50_000),
        safetensors(b'{"w": 1, "w": 2}'),
        safetensors(b'{"w": ' + b"9" * 5000 + b"}"),
        *(
            safetensors({"w": wrong}, NUMBERS)
            for wrong in (
                *(None, 3, [], "F32", {}),
                *(entry(dtype=None), entry(shape=None), entry(dtype=["F32"])),
                *(entry(shape=6), entry(shape="6"), entry(shape=[5])),
                *(
                    entry(shape=[-6]),
                    entry(shape=[6.0]),
                    entry(shape=[True, 6]),
                ),
                *(entry(shape=[2**63, 2]), entry(shape=[2**62, 2**62, 0])),
                entry(shape=[0, 2**70], data_offsets=[0, 0]),
                entry(shape=[1] * 65 + [6]),
                *(entry(data_offsets=[0]), entry(data_offsets=[24, 0])),
                entry(data_offsets=[-24, 0]),
                entry(data_offsets=[0, 2**40], shape=[2**38]),
                entry(data_offsets=["0", "24"]),
                entry(data_offsets=[4, 24], shape=[5]),
            )
        ),
        safetensors({"v": entry(), "w": entry()}, NUMBERS),  # overlap
        safetensors(
            {
                "v": entry(shape=[2], data_offsets=[0, 8]),
                "w": entry(shape=[3], data_offsets=[12, 24]),  # a gap
            },
            NUMBERS,
        ),
        safetensors(
            {
                "v": entry(shape=[4], data_offsets=[0, 16]),
                "w": entry(shape=[4], data_offsets=[8, 24]),
            },
            NUMBERS,
        ),
    ],
    ids=range(41),
)
def test_bad_safetensors(content, refused):
    said = refused("bad.safetensors", content)
    assert "is not a readable safetensors file (" in said


def test_safetensors_of_no_use(refused):
    said = refused("a.safetensors", safetensors({}))
    assert "holds no tensors" in said
    wide = {"w": entry(dtype="F4", shape=[48])}
    said = refused("a.safetensors", safetensors(wide, NUMBERS))
    assert "holds w as F4, which this reader does not know" in said


# --- folders, links and names ------------------------------------------------


def test_what_is_no_file(refused, tmp_path):
    assert "no weight file" in refused("missing.pth")
    assert "no weight file" in refused("missing.safetensors")
    assert "no weight file" in refused("missing.txt")
    assert "no weight file" in refused("x.index.json")
    assert "no weight file by its name" in refused("notes.txt", b"text")
    assert "no weight file by its name" in refused("config.json", b"{}")
    (tmp_path / "config.json").unlink()
    for suffix in ("pth", "safetensors", "index.json"):
        (tmp_path / f"link.{suffix}").symlink_to("nowhere")
        assert "no weight file" in refused(f"link.{suffix}")
        (tmp_path / f"loop.{suffix}").symlink_to(f"loop.{suffix}")
        assert "no weight file" in refused(f"loop.{suffix}")
        os.mkfifo(tmp_path / f"pipe.{suffix}")
        assert "no weight file" in refused(f"pipe.{suffix}")
        assert "is empty" in refused(f"empty.{suffix}", b"")
    with pytest.raises(UserError, match="choose ema or raw"):
        read_state_dict(tmp_path / "missing.pth", "EMA")


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ({"w": "model-2.safetensors"}, "shard model-2.safetensors of"),
        ({"w": "../outside.safetensors"}, "not a file beside it"),
        ({"w": "/etc/passwd"}, "not a file beside it"),
        ({"w": "sub/model.safetensors"}, "not a file beside it"),
        ({"w": "..\\outside.safetensors"}, "not a file beside it"),
        ({"w": ".."}, "not a file beside it"),
        ({"w": "."}, "not a file beside it"),
        ({"w": ""}, "not a file beside it"),
        ({"w": "x" * 5000}, "xxx... of"),
        ({"w": "a\0b.safetensors"}, "is missing"),
        ({"w": "notes.txt"}, "no weight file by its name"),
        ({"w": "model.safetensors.index.json"}, "no weight file by its name"),
        ({"x": "model-1.safetensors"}, "promises x in model-1.safetensors"),
        ({"w": 1}, "no weight_map"),
        (["w"], "no weight_map"),
        (None, "no weight_map"),
        ({}, "names no tensors"),
    ],
)
def test_bad_indexes(weight_map, said, refused, tmp_path):
    content = safetensors({"w": entry()}, NUMBERS)
    (tmp_path / "outside.safetensors").write_bytes(content)
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    for name in ("model-1.safetensors", "sub/model.safetensors"):
        (folder / name).write_bytes(content)
    (folder / "notes.txt").write_text("text")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert said in refused("folder")
    assert said in refused("folder/model.safetensors.index.json")


def test_bad_folders(refused, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "holds none of model.safetensors, " in refused("folder")
    (folder / "model.safetensors").mkdir()
    assert "holds none of model.safetensors, " in refused("folder")
    for content in (b"not JSON", b"[" * 50_000, b"[]", b"\xff"):
        (folder / "model.safetensors.index.json").write_bytes(content)
        said = refused("folder")
        assert "is not JSON" in said or "no weight_map" in said
    file = folder / "model-1.safetensors"
    file.write_bytes(safetensors({"w": entry()}, NUMBERS))
    (folder / "config.json").write_bytes(b"{")
    assert "config.json is not JSON" in refused("folder/model-1.safetensors")
    (folder / "config.json").write_bytes(b"[1]")
    assert read_state_dict(file).config is None
