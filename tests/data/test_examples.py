"""Prepared examples, packed and unpacked."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest

from i2i_prior.data.examples import Field, Layout

LAYOUT = Layout(
    [
        Field("latent", "array", "bfloat16", (2, 4, 4, 8)),
        Field("size", "array", "int32", (2,)),
        Field("name", "text"),
        Field("image", "bytes"),
        Field("json", "json"),
    ]
)
EXAMPLE = {
    "latent": np.arange(256).reshape(2, 4, 4, 8).astype(ml_dtypes.bfloat16),
    "size": np.array([480, 640], np.int32),
    "name": "a/b é.jpg",
    "image": b"\0\xff",
    "json": {"captions": ["one", "two"], "label": 3},
}


def test_what_goes_in_comes_out():
    layout = Layout.from_json(json.loads(json.dumps(LAYOUT.to_json())))
    found = layout.unpack(LAYOUT.pack(EXAMPLE))
    assert found.keys() == EXAMPLE.keys()
    for name, value in EXAMPLE.items():
        np.testing.assert_array_equal(found[name], value)
    assert found["latent"].dtype == ml_dtypes.bfloat16
    assert layout.arrays(LAYOUT.pack(EXAMPLE)).keys() == {"latent", "size"}


def test_damaged_bytes_are_told():
    data = LAYOUT.pack(EXAMPLE)
    for cut in range(len(data)):
        with pytest.raises(ValueError, match="a damaged example"):
            LAYOUT.unpack(data[:cut])
    with pytest.raises(ValueError, match="another length"):
        LAYOUT.unpack(data + b"\0")


def test_an_array_has_its_shape_and_dtype():
    for wrong in (np.zeros(2), np.zeros(3, np.int32)):
        with pytest.raises(ValueError, match="size is "):
            LAYOUT.pack({**EXAMPLE, "size": wrong})


@pytest.mark.parametrize(
    "rows",
    [
        None,
        [{}],
        [{"name": "a", "kind": "pickle", "shape": []}],
        [{"name": "a", "kind": "array", "dtype": "object", "shape": [1]}],
        [{"name": "a", "kind": "array", "dtype": "uint8", "shape": [-1]}],
        [{"name": "a", "kind": "array", "dtype": "uint8", "shape": [2.0]}],
        [{"name": "a", "kind": "array", "dtype": "uint8", "shape": [True]}],
        [{"name": "a", "kind": "array", "dtype": ["uint8"], "shape": [1]}],
        [{"name": "a", "kind": "text", "shape": [2]}],
        [{"name": 3, "kind": "text", "shape": []}],
        [{"name": "a", "kind": "text", "shape": []}] * 2,
    ],
)
def test_layouts_that_are_none(rows):
    with pytest.raises(ValueError, match=r"field|None"):
        Layout.from_json(rows)
