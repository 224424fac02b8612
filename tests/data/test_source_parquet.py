"""Parquet files in the forms of the Hugging Face Hub."""

from __future__ import annotations

import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from i2i_prior.data.sources import parquet
from i2i_prior.data.sources.registry import open_source
from i2i_prior.errors import UserError
from tests.data.fixtures_sources import png, value_of

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
import pyarrow.parquet as pq  # noqa: E402


def write(path, values, *, group=2, **columns):
    struct = [{"bytes": png(v), "path": f"{v}.png"} for v in values]
    table = pa.table({"image": struct, **columns})
    pq.write_table(table, path, row_group_size=group)


def test_rows_become_records(tmp_path):
    write(
        tmp_path / "0.parquet",
        [0, 1, 2],
        text=["a", "b", None],
        label=[5, None, 7],
    )
    write(tmp_path / "1.parquet", [], text=[], label=[])
    write(tmp_path / "2.parquet", [3], text=["d"], label=[8])
    source = open_source(f"parquet:{tmp_path}/*.parquet")
    assert [value_of(record) for record in source] == [0, 1, 2, 3]
    assert [record.name for record in source] == [
        *(f"0.parquet/{row}" for row in range(3)),
        "2.parquet/0",
    ]
    assert [record.fields for record in source] == [
        {"captions": ("a",), "label": 5},
        {"captions": ("b",)},
        {"label": 7},
        {"captions": ("d",), "label": 8},
    ]
    again = pickle.loads(pickle.dumps(source))
    assert again[-1] == source[3]
    assert again.fingerprint() == source.fingerprint()


def test_columns_can_be_named(tmp_path):
    table = pa.table(
        {
            "jpg": [png(1)],
            "said": [["one", "uno"]],
            "class": [4],
            "other": [b"not read"],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    spec = f"parquet:{tmp_path}/a.parquet#image=jpg"
    (record,) = open_source(f"{spec},caption=said,label=class")
    assert value_of(record) == 1
    assert record.fields == {"captions": ("one", "uno"), "label": 4}
    assert open_source(spec)[0].fields == {}
    with pytest.raises(UserError, match=r"has no column image: .*class, jpg"):
        open_source(f"parquet:{tmp_path}/a.parquet")
    with pytest.raises(UserError, match="has no column text"):
        open_source(f"{spec},caption=text")


def test_threads_share_a_bounded_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_CACHE_BYTES", 1000)
    write(tmp_path / "a.parquet", list(range(60)))
    source = open_source(f"parquet:{tmp_path}/a.parquet")
    order = [7 * i % 60 for i in range(300)]
    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(lambda i: value_of(source[i]), order))
    assert values == order
    tables = source._tables.values.values()
    assert 1 <= len(tables) < 10
    assert sum(table.nbytes for table in tables) <= 1000


def test_rows_without_bytes_are_told_when_read(tmp_path):
    struct = [{"bytes": None, "path": "gone.png"}, {"bytes": png(1)}]
    pq.write_table(pa.table({"image": struct}), tmp_path / "a.parquet")
    source = open_source(f"parquet:{tmp_path}/a.parquet")
    with pytest.raises(OSError, match="row 0 has no image bytes"):
        source[0]
    assert value_of(source[1]) == 1


def test_damaged_files_are_named(tmp_path):
    write(tmp_path / "a.parquet", [1, 2, 3])
    os.truncate(tmp_path / "a.parquet", 300)
    (tmp_path / "b.parquet").write_bytes(b"")
    write(tmp_path / "c.parquet", [])
    for name, what in [
        ("a", "no complete Parquet file"),
        ("b", "no complete Parquet file"),
        ("c", "holds no row"),
        ("d", "does not exist"),
    ]:
        with pytest.raises(UserError, match=rf"^[^\n]*{what}[^\n]*\.$"):
            open_source(f"parquet:{tmp_path}/{name}.parquet")


def test_damage_within_a_file_costs_its_group(tmp_path):
    write(tmp_path / "a.parquet", list(range(6)))
    source = open_source(f"parquet:{tmp_path}/a.parquet")
    os.truncate(tmp_path / "a.parquet", 100)
    with pytest.raises(OSError, match=r"\w"):
        source[5]


def test_pyarrow_may_be_missing(tmp_path, monkeypatch):
    write(tmp_path / "a.parquet", [1])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"pip install 'i2i-prior\[parquet\]'"):
        open_source(f"parquet:{tmp_path}/a.parquet")
