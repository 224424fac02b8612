"""Samples in chunk files: drawn once, gone on from, the same on any mesh."""

from __future__ import annotations

import functools
import itertools
import json
import zipfile

import jax
import numpy as np
import pytest

from i2i_prior.data.sources.registry import open_source
from i2i_prior.errors import UserError
from i2i_prior.evaluation import sample_store, sampling
from i2i_prior.evaluation.sample_store import (
    SampleStore,
    settings_folder,
    write_npz,
)
from i2i_prior.evaluation.sampling import held_out_examples, sample_images
from i2i_prior.inference.generator import Generator
from i2i_prior.inference.load import load_run
from i2i_prior.parallel.mesh import make_mesh
from i2i_prior.tasks.registry import make_task


@pytest.fixture(scope="module")
def config(tiny):
    return tiny("evaluate.num_samples=10", "evaluate.per_condition=2")


@pytest.fixture(scope="module")
def source(config):
    return open_source(config.data.held_out)


@pytest.fixture(scope="module")
def draw(config, source, run_directory):
    """draw(samples, devices, batch size) -> uint8 (10, 8, 8, 3)."""
    task = make_task(config)

    @functools.cache
    def model(devices: int):
        mesh = make_mesh(devices=jax.devices()[:devices])
        parameters = load_run(run_directory, mesh=mesh).parameters
        return Generator(task, mesh), parameters

    def run(samples: SampleStore, devices: int = 1, batch_size: int = 4):
        changed = config.copy_and_resolve_references()
        changed.evaluate.batch_size = batch_size
        chunks = sample_images(changed, source, *model(devices), samples)
        return np.concatenate(
            [chunk.samples.reshape(-1, 8, 8, 3) for chunk in chunks]
        )

    return run


@pytest.fixture(scope="module")
def drawn(draw):
    return draw(SampleStore())


@pytest.mark.parametrize(("devices", "batch_size"), [(2, 4), (4, 10)])
def test_samples_are_the_same_on_any_mesh(draw, drawn, devices, batch_size):
    found = draw(SampleStore(), devices, batch_size)
    # Sums in another order may round a level to its neighbour.
    apart = np.abs(found.astype(int) - drawn)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 1e-2


def test_samples_differ_from_each_other(drawn):
    assert len(np.unique(drawn.reshape(10, -1), axis=0)) == 10


def test_a_killed_run_goes_on_and_leaves_the_same_bytes(
    draw, drawn, tmp_path, monkeypatch
):
    for module in (sampling, sample_store):
        monkeypatch.setattr(module, "CHUNK", 4)
    folder = settings_folder(tmp_path, 6, {"seed": 0})
    whole = draw(SampleStore(folder, {"seed": 0}))
    assert np.array_equal(whole, drawn)  # the size of chunks does not count
    wanted = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert list(sorted(wanted)) == [
        "000000.npy",
        "000004.npy",
        "000008.npy",
        "settings.json",
    ]
    assert json.loads(wanted["settings.json"]) == {"seed": 0}
    (folder / "000008.npy").unlink()
    (folder / ".000008.npy.abcd.part").write_bytes(b"half")
    images = Generator.images
    calls = []

    def counted(*arguments):
        calls.append(0)
        return images(*arguments)

    monkeypatch.setattr(Generator, "images", counted)
    folder = settings_folder(tmp_path, 6, {"seed": 0})
    assert np.array_equal(draw(SampleStore(folder, {"seed": 0})), drawn)
    assert len(calls) == 1  # only the last chunk is drawn
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found == wanted


def test_other_settings_lie_in_another_folder(tmp_path):
    one = settings_folder(tmp_path, 6, {"seed": 0, "steps": 2})
    assert one == settings_folder(tmp_path, 6, {"steps": 2, "seed": 0})
    assert one != settings_folder(tmp_path, 6, {"seed": 1, "steps": 2})
    assert one.name.startswith("00000006-")


@pytest.mark.parametrize("content", ["half", "shape", "pickle"])
def test_a_damaged_chunk_is_not_taken(tmp_path, content):
    samples = SampleStore(tmp_path / "s")
    images = np.zeros((3, 2, 2, 3), np.uint8)
    samples.chunk(0, 3, lambda: images)
    path = tmp_path / "s" / "000000.npy"
    if content == "half":
        path.write_bytes(path.read_bytes()[:-5])
    elif content == "shape":
        np.save(path, images[:2])
    else:
        np.save(path, np.array([print]), allow_pickle=True)
    with pytest.raises(UserError, match=r"000000.npy .*; delete it"):
        samples.chunk(0, 3, lambda: images)


def test_conditions_are_the_same_whatever_the_chunks(config, source):
    (whole,) = held_out_examples(config, source, 5)
    parts = list(held_out_examples(config, source, 5, size=2))
    assert whole["image"].shape == (5, 8, 8, 3)
    assert set(whole) == {"image", "view"}
    for name, array in whole.items():
        joined = np.concatenate([part[name] for part in parts])
        assert np.array_equal(array, joined)


def test_samples_divide_into_conditions(tiny, source):
    config = tiny("evaluate.num_samples=10", "evaluate.per_condition=3")
    with pytest.raises(UserError, match="choose a multiple of 3"):
        next(sample_images(config, source, None, {}, SampleStore()))


def test_npz_is_what_adm_reads(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
    one, two = (tmp_path / "out" / name for name in ("one.npz", "two.npz"))
    for path, starts in ((one, (0, 2, 5)), (two, (0, 3, 5))):
        store = SampleStore(tmp_path / path.stem)
        for start, end in itertools.pairwise(starts):
            some = images[start:end]
            store.chunk(start, len(some), lambda some=some: some)
        write_npz(path, store.folder)
    assert one.read_bytes() == two.read_bytes()
    with np.load(one, allow_pickle=False) as file:
        assert file.files == ["arr_0"]
        assert np.array_equal(file["arr_0"], images)
    assert zipfile.ZipFile(one).testzip() is None


def test_npz_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    store = SampleStore(tmp_path / "samples")
    store.chunk(0, 2, lambda: np.zeros((2, 4, 4, 3), np.uint8))

    def interrupted(*_):
        raise KeyboardInterrupt

    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_npz(tmp_path / "file" / "c.npz", store.folder)
    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_npz(tmp_path / "b.npz", store.folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "samples"]
