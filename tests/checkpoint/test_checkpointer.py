"""Checkpoints: bit-exact, on any mesh, never disturbed by a reader."""

from __future__ import annotations

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i2i_prior.checkpoint.checkpointer import Checkpoints
from i2i_prior.checkpoint.restore import load_parameters, restore_or_init
from i2i_prior.errors import UserError
from i2i_prior.training.setup import build


def assert_identical(found, wanted):
    def check(a, b):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)

    jax.tree.map(check, found, wanted)


@pytest.fixture(scope="module")
def state(fresh):
    """A sharded state in which no two arrays are equal."""
    state = fresh("fsdp")
    leaves, treedef = jax.tree.flatten(state)
    rng = np.random.default_rng(0)
    leaves = [
        jax.device_put(
            rng.standard_normal(leaf.shape).astype(leaf.dtype), leaf.sharding
        )
        for leaf in leaves
    ]
    return at_step(jax.tree.unflatten(treedef, leaves), 7)


def at_step(state, step):
    number = jax.device_put(jnp.int32(step), state.step.sharding)
    return dataclasses.replace(state, step=number)


@pytest.fixture(scope="module")
def saved(state, tmp_path_factory):
    """A workdir with a checkpoint of step 7."""
    workdir = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(workdir)
    checkpoints.save(state)
    checkpoints.close()
    return workdir


@pytest.mark.parametrize("mesh", ["fsdp", "one", "tensor"])
def test_restored_bit_exact_on_this_and_other_meshes(
    saved, state, programs, mesh
):
    abstract = programs[mesh].abstract
    checkpoints = Checkpoints(saved)
    restored = checkpoints.restore(abstract, 7)
    checkpoints.close()
    assert_identical(restored, state)
    same = jax.tree.map(
        lambda a, wanted: a.sharding.is_equivalent_to(wanted.sharding, a.ndim),
        restored,
        abstract,
    )
    assert jax.tree.all(same)


def test_nothing_is_made_before_the_first_save(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run")
    assert checkpoints.latest() is None
    assert checkpoints.steps() == []
    checkpoints.wait()
    checkpoints.close()
    assert not (tmp_path / "run").exists()


def test_only_the_newest_are_kept(state, tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3, 3):
        checkpoints.save(at_step(state, step))
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.steps() == [2, 3]
    assert checkpoints.latest() == 3
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"2", "3"}


def test_load_parameters(saved, state, programs):
    one = programs["one"].abstract
    found, step = load_parameters(saved, {**one.ema, **one.frozen})
    assert step == 7
    assert_identical(found, state.ema_parameters())
    assert all(len(a.sharding.device_set) == 1 for a in found.values())
    found, step = load_parameters(saved, one.ema, step=7)
    assert step == 7
    with pytest.raises(
        UserError, match=r"no complete checkpoint of step 3, but"
    ):
        load_parameters(saved, one.ema, step=3)


def test_load_parameters_where_there_is_none(programs, tmp_path):
    one = programs["one"].abstract
    with pytest.raises(UserError, match="holds no checkpoints"):
        load_parameters(tmp_path, one.ema)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="holds no complete checkpoint"):
        load_parameters(tmp_path, one.ema)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_init_from_takes_the_average_and_nothing_else(
    saved, state, programs, fresh, tmp_path
):
    abstract = programs["fsdp"].abstract
    begun, origin = restore_or_init(
        Checkpoints(tmp_path), abstract, lambda: fresh("fsdp"), str(saved)
    )
    assert origin == f"parameters from {saved}"
    assert int(begun.step) == 0
    assert_identical(begun.params, state.ema)
    assert_identical(begun.ema, state.ema)
    assert_identical(begun.opt_state, fresh("fsdp").opt_state)
    # Steps donate: the two must not share buffers.
    for name, array in begun.params.items():
        array.delete()
        assert not begun.ema[name].is_deleted()


def test_the_newest_checkpoint_wins_over_init_from(saved, state, programs):
    def never():
        raise AssertionError("initialised for nothing")

    abstract = programs["fsdp"].abstract
    checkpoints = Checkpoints(saved)
    found, origin = restore_or_init(checkpoints, abstract, never, "/no/run")
    checkpoints.close()
    assert origin == "resumed, step 7"
    assert_identical(found, state)


def test_without_either_the_seed_begins(programs, fresh, tmp_path):
    begun, origin = restore_or_init(
        Checkpoints(tmp_path), programs["fsdp"].abstract, lambda: fresh("fsdp")
    )
    assert origin == "fresh from the seed"
    assert_identical(begun, fresh("fsdp"))


# Its threads tell of it once more when the error has been raised.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint(saved, programs, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(saved, workdir)
    data = workdir / "checkpoints" / "7" / "ema"
    for file in data.rglob("d/*"):
        file.write_bytes(file.read_bytes()[:-100])
    abstract = programs["fsdp"].abstract
    with pytest.raises(UserError, match=r"7 is damaged .*delete it"):
        Checkpoints(workdir).restore(abstract, 7)
    shutil.rmtree(data)
    with pytest.raises(UserError, match=r"7 is damaged .*delete it"):
        load_parameters(workdir, abstract.ema)


@pytest.mark.parametrize(
    "override",
    [
        "model.depth=3",
        "model.width=48",
        "model.block=lumos",
        "conditioner.null=random",
    ],
)
def test_a_checkpoint_of_another_config(tiny, meshes, saved, override):
    abstract = build(tiny(override), meshes["fsdp"]).abstract
    checkpoints = Checkpoints(saved)
    with pytest.raises(UserError) as error:
        checkpoints.restore(abstract, 7)
    checkpoints.close()
    sentence = str(error.value)
    assert str(saved) in sentence
    assert "does not hold the state of this config" in sentence
    assert "\n" not in sentence
    assert len(sentence) < 500


def test_another_dtype_is_not_cast(saved, programs):
    ema = programs["one"].abstract.ema
    name, shape = next(iter(ema.items()))
    half = jax.ShapeDtypeStruct(
        shape.shape, jnp.bfloat16, sharding=shape.sharding
    )
    with pytest.raises(
        UserError, match=f"{name}.* is float32 .*here".replace("/", ".")
    ):
        load_parameters(saved, {**ema, name: half})


def test_a_reader_does_not_disturb_a_live_run(state, programs, tmp_path):
    ema = programs["one"].abstract.ema
    writer = Checkpoints(tmp_path, keep=2)
    writer.save(at_step(state, 1))
    writer.wait()
    # What a save under way looks like, and stays.
    unfinished = tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp"
    (unfinished / "ema").mkdir(parents=True)
    for step in (2, 3, 4):
        writer.save(at_step(state, step))  # in the background
        found, seen = load_parameters(tmp_path, ema)
        assert seen in (step - 1, step)
        assert_identical(found, state.ema)
        assert unfinished.is_dir()
    writer.close()
    assert writer_steps(tmp_path) == [3, 4]


def writer_steps(workdir):
    names = [path.name for path in (workdir / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdigit())


def test_what_a_killed_save_left_is_cleared_away(state, tmp_path):
    unfinished = tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp"
    (unfinished / "ema").mkdir(parents=True)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    checkpoints.save(at_step(state, 9))
    checkpoints.close()
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert names == ["9"]


def test_a_full_disk_is_said_before_anything_is_written(
    state, tmp_path, monkeypatch
):
    checkpoints = Checkpoints(tmp_path)
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))

    class Usage:
        free = needed - 1

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    with pytest.raises(UserError, match=r"no space left.* from the start$"):
        checkpoints.save(state)
    assert not any((tmp_path / "checkpoints").iterdir())
    Usage.free = needed
    checkpoints.save(state)
    checkpoints.close()
    assert checkpoints.steps() == [7]
