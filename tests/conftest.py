"""Shared by all tests: 4 fake CPU devices, quick compilation, a tiny run."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import fcntl
import importlib.metadata
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TINY = Path(__file__).with_name("tiny_config.py")


def _prepare_jax() -> None:
    """Sets what JAX reads at import, for this process and its children.

    Workers of pytest-xdist are such children: all compile into one cache.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    flags = [
        "--xla_force_host_platform_device_count=4",
        # Many workers compile at once: threads of one would only wait.
        "--xla_cpu_parallel_codegen_split_count=1",
        # Compiling is most of the time: 3x faster so, 8x with the next.
        "--xla_backend_optimization_level=0",
    ]
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        # XLA stops a process over a flag that it does not know (any more).
        flags.append("--xla_cpu_use_fusion_emitters=false")
    given = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = " ".join([*flags, given]).strip()
    # `make` exports it empty; with libtpu installed that would mean a TPU.
    os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS") or "cpu"
    # The same program is compiled once a session, not once a process.
    cache = tempfile.mkdtemp(prefix="i2i-prior-xla-")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ["XDG_CACHE_HOME"] = cache  # indices of sources
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


_prepare_jax()


def pytest_configure(config: pytest.Config) -> None:
    """The tiny run is scored on too few images, knowingly."""
    config.addinivalue_line(
        "filterwarnings", "ignore:.*so this distance is biased:UserWarning"
    )


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, stdout and stderr."""

    code: int
    out: str
    err: str


# Fields that no program depends on, whatever else a run does with them.
_AROUND = (
    *("data.source", "data.held_out", "data.max_broken", "data.threads"),
    *("data.workers", "data.prefetch", "train.log_every", "train.tensorboard"),
    *("train.checkpoint_every", "train.checkpoint_keep"),
    *("train.checkpoint_minutes", "train.sample_every", "train.evaluate_every"),
    *("validation.every", "validation.source", "validation.examples"),
    *("validation.times", "validation.batch_size"),
    *("train.max_rollbacks", "train.init_from", "data.min_side"),
)


@pytest.fixture(scope="session")
def one_program_a_config() -> Iterator[None]:
    """Runs of this process share what they would trace and compile again.

    A program is a pure function of its config; what is new in a new process
    is tested in new ones.
    """
    from i2i_prior import train
    from i2i_prior.config import flatten

    build, built = train.build, {}

    def kept(config, mesh):
        fields = {k: v for k, v in flatten(config).items() if k not in _AROUND}
        if config.optim.schedule == "constant":
            fields.pop("train.steps")
        key = str(fields)
        if key not in built:
            built[key] = build(config, mesh)
        return built[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "build", kept)
        yield


@pytest.fixture(scope="session")
def command(one_program_a_config) -> Callable[..., Ended]:
    """Runs `i2i-prior ARGUMENTS` in this process."""
    from i2i_prior.cli import main

    def run(*arguments: str | Path) -> Ended:
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main([str(argument) for argument in arguments])
        return Ended(ended.value.code or 0, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def python() -> Callable[..., subprocess.Popen]:
    """Starts another Python with this package and these devices."""

    def start(*arguments: str | Path, prefix: tuple[str, ...] = ()):
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        return subprocess.Popen(
            [*prefix, sys.executable, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    return start


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """once(name, make): the folder that make(folder) filled, for all workers.

    The first that asks makes it, others wait: what is in it is only read.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def folder(name: str, make: Callable[[Path], None]) -> Path:
        with open(root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (root / name).exists():
                unfinished = root / f"{name}.unfinished"
                shutil.rmtree(unfinished, ignore_errors=True)
                make(unfinished)
                unfinished.rename(root / name)
        return root / name

    return folder


@pytest.fixture(scope="session")
def photos(once) -> Path:
    """A folder of 24 small pictures, each of its own colour and texture."""
    return once("photos", _write_photos)


def _write_photos(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):
        colour = rng.integers(0, 256, 3)
        coarse = rng.normal(colour, 40, (4, 4, 3)).clip(0, 255)
        picture = Image.fromarray(coarse.astype(np.uint8)).resize((20, 16))
        picture.save(folder / f"{number:02}.png")


@pytest.fixture(scope="session")
def tiny_spec(photos) -> str:
    """What `--config` takes for the tiny run on `photos`."""
    return f"{TINY}:source=folder:{photos}"


@pytest.fixture
def train(command, tiny_spec, tmp_path):
    """train("field=value", ...) into this test's workdir."""

    def run(*overrides):
        return command(
            "train",
            "--config",
            tiny_spec,
            "--workdir",
            tmp_path / "run",
            *(f"--config.{override}" for override in overrides),
        )

    return run


@pytest.fixture(scope="session")
def tiny(tiny_spec) -> Callable:
    """tiny("train.steps=3", ...): the tiny config with overrides."""
    from i2i_prior.config import load_config

    return lambda *overrides: load_config(tiny_spec, list(overrides))


@pytest.fixture(scope="session")
def meshes() -> dict:
    """The layouts that are compared, by name."""
    import jax

    from i2i_prior.parallel.mesh import make_mesh

    return {
        "one": make_mesh(devices=jax.devices()[:1]),
        "fsdp": make_mesh(fsdp=4),
        "replica": make_mesh(replica=2, fsdp=2),
        "tensor": make_mesh(fsdp=2, tensor=2),
        "context": make_mesh(fsdp=1, context=2, tensor=2),
    }


@pytest.fixture(scope="session")
def programs(tiny, meshes) -> dict:
    """The tiny run's Program on each mesh; a step compiles when called."""
    from i2i_prior.training.setup import build

    return {name: build(tiny(), mesh) for name, mesh in meshes.items()}


@pytest.fixture(scope="session")
def fresh(programs) -> Callable:
    """fresh("fsdp"): the state of step 0 in the shardings of a mesh."""
    import jax

    first = jax.device_get(programs["one"].initialise())

    def state(mesh: str):
        # Through NumPy, since steps donate what they are given.
        return jax.tree.map(
            lambda array, shape: jax.device_put(array, shape.sharding),
            first,
            programs[mesh].abstract,
        )

    return state


@pytest.fixture(scope="session")
def restore(programs) -> Callable:
    """restore(workdir, step): the whole state as NumPy arrays."""
    import jax

    from i2i_prior.checkpoint.checkpointer import Checkpoints

    def read(workdir, step):
        checkpoints = Checkpoints(workdir, read_only=True)
        state = checkpoints.restore(programs["fsdp"].abstract, step)
        checkpoints.close()
        return jax.device_get(state)

    return read


@pytest.fixture
def inject(monkeypatch) -> Callable:
    """inject(chosen, factor): multiplies parameters before some updates.

    chosen(update, batch): True if they are multiplied before that update,
    from 1, learns from that batch.
    """
    import jax

    from i2i_prior import train

    def patch(chosen, factor, patch=monkeypatch):
        build = train.build

        def built(config, mesh):
            program = build(config, mesh)

            def step(state, batch):
                if chosen(int(state.step) + 1, batch):
                    params = jax.tree.map(lambda a: a * factor, state.params)
                    state = dataclasses.replace(state, params=params)
                return program.step(state, batch)

            return dataclasses.replace(program, step=step)

        patch.setattr(train, "build", built)

    return patch


@pytest.fixture(scope="session")
def batches(tiny) -> list[dict[str, np.ndarray]]:
    """The first six batches of the tiny run."""
    from i2i_prior.data.pipeline import Pipeline
    from i2i_prior.data.sources.registry import open_source
    from i2i_prior.training.setup import data_options

    config = tiny()
    pipeline = Pipeline(open_source(config.data.source), data_options(config))
    return [pipeline.batch(step) for step in range(6)]


@pytest.fixture(scope="session")
def run_directory(command, tiny_spec, once) -> Path:
    """A finished tiny run of 6 steps with a grid and a score: read only."""

    def train(folder: Path) -> None:
        ended = command(
            "train",
            "--config",
            tiny_spec,
            "--workdir",
            folder / "tiny",
            "--config.train.sample_every=6",
            "--config.train.evaluate_every=6",
            "--config.validation.every=6",
            "--config.validation.examples=10",
            "--config.validation.times=4",
            "--config.validation.batch_size=4",
            "--config.train.tensorboard=true",
        )
        assert ended.code == 0, ended.err

    return once("runs", train) / "tiny"
