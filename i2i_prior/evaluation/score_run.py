"""`i2i-prior evaluate`: samples of a checkpoint, drawn once, and their scores.

The samples lie in RUN/evaluations (see `sampling_run`): a command that was
killed goes on where it was, and one that asks for other metrics draws nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from i2i_prior.checkpoint.restore import (
    identity,
    load_parameters,
)
from i2i_prior.checkpoint.run_dir import load_config
from i2i_prior.config import RESUMABLE, set_field
from i2i_prior.data.sources import open_source
from i2i_prior.distributed import runtime
from i2i_prior.errors import UserError
from i2i_prior.evaluation import sample_chunks
from i2i_prior.evaluation.condition_matching import (
    Embed,
    embedder,
)
from i2i_prior.evaluation.evaluate import (
    EvalSpec,
    evaluate,
    reference_side,
    split_metrics,
)
from i2i_prior.evaluation.evaluate import wanted as wanted_of
from i2i_prior.evaluation.features.vision_encoders import embed_captions
from i2i_prior.evaluation.prompts import read_prompts, subset
from i2i_prior.evaluation.result import line
from i2i_prior.evaluation.sample_chunks import Chunk
from i2i_prior.evaluation.sample_store import (
    Samples,
    folder_of,
    npz_written,
)
from i2i_prior.evaluation.score_files import (
    described,
    scores_path,
    write_scores,
)
from i2i_prior.evaluation.sets.collect import Collected
from i2i_prior.evaluation.sets.reference import open_side
from i2i_prior.evaluation.sets.statistics_files import is_statistics
from i2i_prior.inference.encoder import load_encoder
from i2i_prior.inference.generator import Generator
from i2i_prior.inference.load import load_model
from i2i_prior.inference.prior import Prior
from i2i_prior.interop.files.hashing import hash_of
from i2i_prior.io.progress import (
    Progress,
)
from i2i_prior.models.functional import Flat
from i2i_prior.parallel import mesh as meshes
from i2i_prior.parallel.sharding import parameter_shardings
from i2i_prior.tasks.network import parameter_shapes
from i2i_prior.tasks.registry import make_task


def score_run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Writes the scores (see `evaluation.scores`) and prints one line."""
    workdir = Path(options.workdir)
    if workdir.is_file():
        raise UserError(
            f"{workdir} is a file; scores are written into a run directory, "
            "so give one"
        )
    config = _config(options, overrides)
    if options.prompts:
        _without_conditions(config, options.metrics is not None)
    wanted = wanted_of(config)
    run = _prompted if options.prompts else _conditioned
    run(options, config, wanted)
    return 0


def _config(options: argparse.Namespace, overrides: list[str]) -> ConfigDict:
    """The run's, with what the command line says."""
    config = load_config(options.workdir)
    for override in overrides:
        name, _, text = override.partition("=")
        if name not in RESUMABLE:
            raise UserError(
                f"--config.{name} would change the model; only sample.* and "
                "evaluate.* may differ here"
            )
        set_field(config, name, text)
    section = config.evaluate
    for name in ("metrics", "features", "preset", "weights"):
        if getattr(options, name):
            section[name] = getattr(options, name)
    for name in ("num_samples", "per_condition"):
        if getattr(options, name) is not None:
            section[name] = getattr(options, name)
    place = options.reference
    if place and (options.prompts or is_statistics(place)):
        section.reference = place
    elif place:
        config.data.held_out = place
    if section.num_samples < 2:
        raise UserError("--num-samples must be 2 or more")
    if section.per_condition < 1:
        raise UserError("--per-condition must be 1 or more")
    return config


def _conditioned(
    options: argparse.Namespace, config: ConfigDict, wanted: EvalSpec
) -> None:
    """Samples for held-out images, over all devices."""
    source = open_source(config.data.held_out or config.data.source)
    mesh = _mesh(config)
    parameters, step = _parameters(options, config, mesh)
    generator = Generator(make_task(config), mesh, wanted.truncate)
    samples = _samples(
        options, config, step, sample_chunks.of_source(config, source), wanted
    )
    with _progress(config) as done:
        chunks = sample_chunks.of_images(
            config, generator, parameters, source, samples, done
        )
        result, picture = _measured(
            options,
            config,
            chunks,
            wanted,
            lambda: reference_side(config, source, wanted, mesh),
            embedder(generator, parameters, config.evaluate.batch_size),
            mesh,
        )
    result = described(config, step, result)
    _tell(options, samples, wanted, result, picture)


def _prompted(
    options: argparse.Namespace, config: ConfigDict, wanted: EvalSpec
) -> None:
    """Samples of a text-conditioned model, one for each prompt."""
    if not (options.text_encoder and config.evaluate.reference):
        raise UserError(
            "--prompts needs --text-encoder FILE, and --reference with images "
            "or statistics to compare with"
        )
    prompts = subset(
        read_prompts(options.prompts), config.evaluate.num_samples, config.seed
    )
    loaded = load_model(options.workdir, step=options.step)
    prior = Prior(
        loaded.config, loaded.parameters, loaded.step, wanted.truncate
    )
    encoder = load_encoder(options.text_encoder, part="text")
    listed = sample_chunks.of_list(prompts, hash_of(options.text_encoder))
    step = prior.step or 0
    samples = _samples(options, config, step, listed, wanted)
    need = wanted.needs
    with _progress(config) as done:
        chunks = sample_chunks.of_prompts(
            config, prior, prompts, encoder, samples, done
        )
        result, picture = _measured(
            options,
            config,
            chunks,
            wanted,
            lambda: open_side(
                config.evaluate.reference,
                wanted.extractor,
                moments=need.moments,
                keep=need.reference,
                size=None if _is_file(config) else config.data.image_size,
            ),
            captions=lambda: embed_captions(
                config.evaluate.weights, [prompt.caption for prompt in prompts]
            ),
        )
    result = described(config, step, result) | listed
    _tell(options, samples, wanted, result, picture)


def _is_file(config: ConfigDict) -> bool:
    return is_statistics(config.evaluate.reference)


def _mesh(config: ConfigDict) -> Mesh:
    """The run's, or all devices as one axis where these are others."""
    try:
        return meshes.make_mesh(**config.mesh)
    except UserError:
        return meshes.make_mesh()


def _parameters(
    options: argparse.Namespace, config: ConfigDict, mesh: Mesh
) -> tuple[Flat, int]:
    """All EMA parameters over the mesh, and their step."""
    shapes = parameter_shapes(config)
    shardings = parameter_shardings(shapes, mesh)
    abstract = {
        name: jax.ShapeDtypeStruct(
            shape.shape, shape.dtype, sharding=shardings[name]
        )
        for name, shape in shapes.items()
    }
    return load_parameters(Path(options.workdir), abstract, options.step)


def _samples(
    options: argparse.Namespace,
    config: ConfigDict,
    step: int,
    conditions: dict[str, Any],
    wanted: EvalSpec,
) -> Samples:
    """The samples that are there already, or a place for them."""
    workdir = Path(options.workdir)
    settings = sample_chunks.settings(
        config, step, identity(workdir, step), conditions, wanted.truncate
    )
    folder = folder_of(workdir / "evaluations", step, settings)
    return Samples(folder, settings)


@contextlib.contextmanager
def _progress(config: ConfigDict) -> Iterator[sample_chunks.Done]:
    total = config.evaluate.num_samples
    first = runtime.is_primary()
    progress = Progress(total, description="evaluating", write=first)
    yield progress.update
    progress.close()


def _measured(
    options: argparse.Namespace,
    config: ConfigDict,
    chunks: Iterable[Chunk],
    wanted: EvalSpec,
    reference: Callable[[], Collected],
    embed: Embed | None = None,
    mesh: Mesh | None = None,
    captions: Callable[[], np.ndarray] | None = None,
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Measured, with the samples' npz written beside where it is wanted."""
    with contextlib.ExitStack() as stack:
        looks = []
        if options.npz and runtime.is_primary():
            add = stack.enter_context(
                npz_written(Path(options.npz), config.evaluate.num_samples)
            )
            looks.append(
                lambda chunk: add(
                    chunk.samples.reshape(-1, *chunk.samples.shape[2:])
                )
            )
        return evaluate(
            chunks,
            wanted,
            reference,
            embed,
            mesh=mesh,
            batch_size=config.evaluate.batch_size,
            looks=looks,
            captions=captions,
        )


def _tell(
    options: argparse.Namespace,
    samples: Samples,
    wanted: EvalSpec,
    result: dict[str, Any],
    picture: np.ndarray | None,
) -> None:
    """Files, and the line."""
    if not runtime.is_primary():
        return
    assert samples.folder is not None
    digest = samples.folder.name.partition("-")[2]
    path = scores_path(Path(options.workdir), result["step"], wanted, digest)
    result["samples"] = samples.folder.name
    write_scores(path, result, picture)
    for note in result["notes"]:
        print(f"note: {note}", file=sys.stderr)
    print(
        f"step {result['step']}, {line(result)}, {result['solver']} "
        f"{result['steps']} steps, guidance {result['guidance']:g}"
    )


def _without_conditions(config: ConfigDict, given: bool) -> None:
    """Takes out what is asked of a sample and the image it is of."""
    own, metrics = split_metrics(config.evaluate.metrics)
    if (own and given) or not metrics:
        raise UserError(
            f"{' and '.join(own)} compare samples with the images they are "
            "of, and prompts are none; leave them out of --metrics"
        )
    config.evaluate.metrics = ",".join(metrics)
    config.evaluate.per_condition = 1
