"""Torch files with code or nonsense in a pickle: told, never executed."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.interop.files.state_dicts import read_state_dict
from tests.interop.fixtures_weight_files import (
    GOOD,
    HEAD,
    ORDERED,
    TENSOR,
    legacy,
    obj,
    state,
    storage,
    tensor,
    zipped,
)


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
    """State that BUILD would set on a real object is kept and not used."""
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
