"""Torch files that are cut, forged or none: one sentence each."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile

import pytest

from i2i_prior.errors import UserError
from i2i_prior.interop.files.state_dicts import read_state_dict
from tests.interop.fixtures_weight_files import (
    GOOD,
    HEAD,
    MAGIC,
    NUMBERS,
    legacy,
    obj,
    state,
    storage,
    tensor,
    zipped,
)


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
            state(), change=claims("data/0", file_size=HUGE, compress_size=HUGE)
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
