"""Evaluation of a run's checkpoint, as `i2i-prior evaluate` does it.

The samples are in RUN/evaluations (see `sample_store`): a command that was
killed goes on where it was, and one with other metrics draws nothing.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from i2i_prior.checkpoint.restore import identity
from i2i_prior.checkpoint.run_dir import load_config
from i2i_prior.config import RESUMABLE, set_field
from i2i_prior.data.sources.registry import open_source
from i2i_prior.distributed import runtime
from i2i_prior.errors import UserError
from i2i_prior.evaluation.condition_matching import encoder_embedder
from i2i_prior.evaluation.eval_spec import EvalSpec, parse_metrics
from i2i_prior.evaluation.evaluate import collect_reference, evaluate_samples
from i2i_prior.evaluation.features.vision_encoders import embed_captions
from i2i_prior.evaluation.metrics import METRICS
from i2i_prior.evaluation.prompts import prompt_hash, read_prompts, subset
from i2i_prior.evaluation.result import (
    format_line,
    result_path,
    with_sampling,
    write_evaluation,
)
from i2i_prior.evaluation.sample_store import (
    SampleStore,
    settings_folder,
    write_npz,
)
from i2i_prior.evaluation.sampling import (
    SampleChunk,
    sample_images,
    sample_prompts,
)
from i2i_prior.evaluation.sets.collect import Collected
from i2i_prior.evaluation.sets.statistics_files import is_statistics
from i2i_prior.inference.encoder import load_encoder
from i2i_prior.inference.generator import Generator
from i2i_prior.inference.load import load_run
from i2i_prior.interop.files.hashing import hash_of
from i2i_prior.io.disk import check_output, write_errors
from i2i_prior.io.progress import Progress
from i2i_prior.parallel.mesh import make_mesh
from i2i_prior.tasks.registry import make_task


@dataclass(frozen=True)
class _Conditions:
    """Conditions of the samples, and the side that these are compared with."""

    record: dict[str, Any]  # plain values
    # (generator, parameters, store, report) -> chunks of samples
    draw: Callable[..., Iterator[SampleChunk]]
    reference: Callable[[], Collected]
    captions: Callable[[], np.ndarray] | None = None  # embeds prompts


def evaluate_run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Writes a result, see `evaluation.result`, and prints one line."""
    workdir = Path(options.workdir)
    if workdir.is_file():
        raise UserError(
            f"{workdir} is a file; scores are written into a run directory, "
            "so give one"
        )
    if options.npz:
        check_output(options.npz)
    config = _config(options, overrides)
    if options.prompts:
        _drop_condition_metrics(config, options.metrics is not None)
    spec = EvalSpec.from_config(config)
    find = _prompts if options.prompts else _images
    conditions = find(options, config, spec)
    mesh, batch_size = _mesh(config), config.evaluate.batch_size
    loaded = load_run(workdir, options.step, mesh=mesh)
    parameters, step = loaded.parameters, loaded.step or 0
    generator = Generator(make_task(config), mesh, spec.truncate)
    settings = {
        "step": step,
        "checkpoint": identity(workdir, step),
        "conditions": conditions.record,
        "per_condition": config.evaluate.per_condition,
        "num_samples": config.evaluate.num_samples,
        "seed": config.seed,
        "truncate": spec.truncate,
        "sample": {
            name: value
            for name, value in config.sample.items()
            if name not in ("conditions", "variations")
        },
    }
    folder = settings_folder(workdir / "evaluations", step, settings)
    store = SampleStore(folder, settings)
    progress = Progress(
        config.evaluate.num_samples,
        description="evaluating",
        write=runtime.is_primary(),
    )
    with contextlib.closing(progress):
        result, picture = evaluate_samples(
            conditions.draw(generator, parameters, store, progress.update),
            spec,
            conditions.reference,
            encoder_embedder(generator, parameters, batch_size),
            batch_size=batch_size,
            captions=conditions.captions,
        )
    if not runtime.is_primary():
        return 0
    if options.npz:
        write_npz(Path(options.npz), folder)
    result = with_sampling(config, step, result)
    result |= conditions.record if options.prompts else {}
    result["samples"] = folder.name
    digest = folder.name.partition("-")[2]
    path = result_path(workdir, step, spec.extractor, digest)
    with write_errors(path.parent):
        write_evaluation(path, result, picture)
    for note in result["notes"]:
        print(f"note: {note}", file=sys.stderr)
    print(
        f"step {step}, {format_line(result)}, {result['solver']} "
        f"{result['steps']} steps, guidance {result['guidance']:g}"
    )
    return 0


def _images(
    options: argparse.Namespace, config: ConfigDict, spec: EvalSpec
) -> _Conditions:
    """Conditions of held-out images."""
    place = config.data.held_out or config.data.source
    source = open_source(place)
    return _Conditions(
        {"source": place, "fingerprint": source.fingerprint()},
        partial(sample_images, config, source),
        partial(collect_reference, config, source, spec),
    )


def _prompts(
    options: argparse.Namespace, config: ConfigDict, spec: EvalSpec
) -> _Conditions:
    """Conditions of a text-conditioned model, one sample a prompt."""
    section = config.evaluate
    if not (options.text_encoder and section.reference):
        raise UserError(
            "--prompts needs --text-encoder FILE, and --reference with images "
            "or statistics to compare with"
        )
    prompts = subset(
        read_prompts(options.prompts), section.num_samples, config.seed
    )
    encoder = load_encoder(options.text_encoder, part="text")
    return _Conditions(
        {
            "prompts_sha256": prompt_hash(prompts),
            "text_encoder_sha256": hash_of(options.text_encoder),
        },
        partial(sample_prompts, config, prompts, encoder),
        partial(
            collect_reference, config, None, spec, size=config.data.image_size
        ),
        lambda: embed_captions(
            section.weights, [prompt.caption for prompt in prompts]
        ),
    )


def _config(options: argparse.Namespace, overrides: list[str]) -> ConfigDict:
    """Config of the run, with the overrides of the command line."""
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
        section[name] = getattr(options, name) or section[name]
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


def _mesh(config: ConfigDict) -> Mesh:
    """Mesh of the run; where its devices are not here, all as one axis."""
    try:
        return make_mesh(**config.mesh)
    except UserError:
        return make_mesh()


def _drop_condition_metrics(config: ConfigDict, given: bool) -> None:
    """Leaves condition metrics out of the config, or refuses `given` ones."""
    names = parse_metrics(config.evaluate.metrics)
    dropped = [name for name in names if METRICS[name].match]
    kept = [name for name in names if name not in dropped]
    if (dropped and given) or not kept:
        raise UserError(
            f"{' and '.join(dropped)} compare samples with the images they "
            "are of, and prompts are none; leave them out of --metrics"
        )
    config.evaluate.metrics = ",".join(kept)
    config.evaluate.per_condition = 1
