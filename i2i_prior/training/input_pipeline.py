"""Input of a run, from its source to batches on the devices.

Prepared data were made with networks and sizes of their own, which must be
those of the config: the prior would learn another latent space otherwise,
without any error.
"""

import functools
import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from i2i_prior.checkpoint import run_dir
from i2i_prior.data.aspect_ratios import training_sizes
from i2i_prior.data.broken import Batch, BrokenTally
from i2i_prior.data.buckets import Buckets, image_sizes
from i2i_prior.data.cached import CachedPipeline, CachedSource
from i2i_prior.data.manifest import Manifest
from i2i_prior.data.pipeline import Pipeline
from i2i_prior.data.record import Source
from i2i_prior.data.sources.registry import open_source
from i2i_prior.distributed import runtime
from i2i_prior.errors import UserError
from i2i_prior.interop.files.hashing import hash_of
from i2i_prior.io.progress import Progress
from i2i_prior.parallel import mesh as meshes
from i2i_prior.parallel.global_arrays import Rows, local_rows
from i2i_prior.tasks.inputs import example_spec
from i2i_prior.tasks.resolve import resolve
from i2i_prior.training.resilience.rollback import Rollbacks
from i2i_prior.training.setup import data_options, to_device

_SCHEME = "arrayrecord:"


def open_training(config: ConfigDict) -> Source | CachedSource:
    """Opens `data.source`; UserError if it was prepared for another config."""
    spec = config.data.source
    if config.data.cached and not spec.startswith(_SCHEME):
        raise UserError(
            f"data.cached reads what i2i-prior prepare wrote; set data.source "
            f"to {_SCHEME}FOLDER, not {spec}"
        )
    return _open(spec, config)


def _open(spec: str, config: ConfigDict) -> Source | CachedSource:
    """Opens images, or with `data.cached` data prepared for this config."""
    if not config.data.cached:
        return open_source(spec)
    source = CachedSource(spec.removeprefix(_SCHEME))
    check(source.manifest, config)
    return source


def open_held_out(config: ConfigDict) -> Source:
    """Opens the images that samples are conditioned on; UserError if they
    are no images."""
    spec = config.data.held_out or config.data.source
    used = config.train.sample_every or config.train.evaluate_every
    if config.data.cached and not config.data.held_out:
        if used:
            raise UserError(
                "data.held_out is empty and data.source holds no images; set "
                "data.held_out to the SPEC of some"
            )
        spec = "builtin:photos/heldout"  # opened, and never read
    return open_source(spec)


def open_validation(config: ConfigDict) -> Source | CachedSource | None:
    """Opens the images of validation losses; None if there are no losses."""
    section = config.validation
    if not section.every:
        return None
    return _open(section.source or config.data.held_out, config)


def make_pipeline(
    config: ConfigDict, source: Source | CachedSource, rows: Sequence[int]
) -> Pipeline | CachedPipeline:
    """Makes the pipeline of a source: batches, or one host's rows of them."""
    data = config.data
    if not isinstance(source, CachedSource):
        options = data_options(config)
        buckets = _buckets(config, source) if data.aspect_buckets else None
        return Pipeline(source, options, rows, buckets)
    return CachedPipeline(
        source,
        embedding_name(source.manifest, config),
        data.batch_size,
        seed=config.seed,
        flip=data.flip,
        threads=data.threads,
        workers=data.workers,
        prefetch=data.prefetch,
        rows=rows,
    )


def _buckets(config: ConfigDict, source: Source) -> Buckets:
    """Sizes of the batches, and their images; UserError for a mixture, or if
    no size fills a batch."""
    if hasattr(source, "weights"):
        raise UserError(
            "data.aspect_buckets takes one source: of a mixture it would not "
            "keep the weights; set it to false or name one source"
        )
    write = runtime.is_primary()
    progress = Progress(len(source), description="sizes", write=write)
    sizes = image_sizes(source, progress.update)
    progress.close()
    digest = hashlib.sha256(sizes.tobytes()).hexdigest()[:16]
    runtime.assert_equal("sizes", {"sizes of the images": digest})
    table = training_sizes(config.data.image_size)
    return Buckets(sizes, table, config.data.batch_size, config.seed)


def embedding_name(manifest: Manifest, config: ConfigDict) -> str:
    """Name of the prepared embeddings that the run is conditioned on;
    UserError if there are none of the name, or several and no name."""
    wanted, known = config.data.embedding, list(manifest.encoders)
    if wanted in known:
        return wanted
    if not wanted and len(known) == 1:
        return known[0]
    if not known:
        raise UserError(
            f"{manifest.folder} holds no embeddings; prepare it with "
            "--embeddings NAME=ENCODER"
        )
    raise UserError(
        f"data.embedding is {wanted!r}, but {manifest.folder} has "
        f"{', '.join(known)}; choose one of them"
    )


def check(manifest: Manifest, config: ConfigDict) -> None:
    """Raises UserError at the first difference of prepared data and config."""
    name = embedding_name(manifest, config)
    for what, there, here in _pairs(manifest, config, name):
        if there != here:
            raise UserError(
                f"{manifest.folder} was prepared with {what} {there}, but the "
                f"config wants {here}; change the config or prepare it anew"
            )
    variants = _shape(manifest, "latent")[0]
    if config.data.flip > 0 and variants == 1:
        raise UserError(
            f"{manifest.folder} holds no mirrored latents; set data.flip=0, "
            "or prepare it with --flip"
        )


def _pairs(manifest: Manifest, config: ConfigDict, name: str):
    """Yields (name, as prepared, as configured) of what is compared."""
    shapes = resolve(config)
    spec = example_spec(config, shapes)
    encoder, section = manifest.encoders[name], config.encoder
    autoencoder = manifest.autoencoder or {}
    yield "size", manifest.preprocessing["size"], config.data.image_size
    if autoencoder.get("shape"):
        here = getattr(shapes.latent, "to_json", lambda: "")()
        yield "an autoencoder of shape", autoencoder["shape"], here
    else:
        there = autoencoder.get("kind")
        yield "autoencoder.kind", there, config.autoencoder.kind
    latent = _shape(manifest, "latent")
    yield "latents of shape", latent[1:], spec["latent"].shape
    tokens_from = config.conditioner.tokens_from
    if tokens_from != "tokens":
        here = "cls" if tokens_from == "cls" else "patches"
        yield "embeddings that are", encoder["choice"], here
    embedding = _shape(manifest, f"embedding/{name}")
    yield "embeddings of shape", embedding[1:], spec["embedding"].shape
    if section.kind == "frozen":
        yield "encoder.family", encoder["family"], section.family
        there = encoder.get("pixels", section.pixels)  # older ones say nothing
        yield "encoder.pixels", there, section.pixels
        yield "a view of", encoder["view_size"], shapes.view_size
    # One process reads the gigabytes; its error ends the others.
    if not runtime.is_primary():
        return
    for part, made in (("autoencoder", autoencoder), ("encoder", encoder)):
        weights = config[part].weights
        if weights not in ("", "random"):
            sha256 = hash_of(weights)
            yield f"{part}.weights of SHA-256", made.get("sha256"), sha256


def _shape(manifest: Manifest, name: str) -> tuple[int, ...]:
    """Shape of a prepared array, variants first."""
    for field in manifest.layout.fields:
        if field.name == name:
            return field.shape
    raise UserError(f"{manifest.folder} holds no {name}; prepare it anew")


@dataclass
class TrainingData:
    """Source of a run and its batches."""

    source: Source | CachedSource
    pipeline: Pipeline | CachedPipeline
    rows: Rows  # of the global batch that this process makes
    tally: BrokenTally  # unreadable images so far
    sharding: NamedSharding

    def batches(
        self, rollbacks: Rollbacks, step: int, depth: int
    ) -> Generator[tuple[Batch, Any]]:
        """Endless (host batch, device batch) of the updates after `step`, less
        those that `rollbacks` skip; `depth` as in `prefetch`."""
        put = functools.partial(
            to_device, sharding=self.sharding, rows=self.rows
        )
        return prefetch(rollbacks.batches(self.pipeline, step), put, depth)


def open_data(config: ConfigDict, workdir: Path, mesh: Mesh) -> TrainingData:
    """Opens the source, and makes a batch to see that it can be read; UserError
    if not, or if the run in the workdir has learnt from another."""
    source = open_training(config)
    run_dir.check_data(workdir, source.fingerprint())
    for note in getattr(source, "notes", ()):
        runtime.print_once(f"note: {note}")
    sharding = meshes.batch_sharding(mesh)
    rows = local_rows(sharding, config.data.batch_size)
    pipeline = make_pipeline(config, source, rows.here)
    pipeline.batch(0)
    tally = BrokenTally(source, rows.counted, runtime.allgather_text)
    return TrainingData(source, pipeline, rows, tally, sharding)


def prefetch(
    batches: Iterator[Batch], put: Callable[[Batch], Any], depth: int
) -> Generator[tuple[Batch, Any]]:
    """Yields (host batch, device batch) in order, `depth` put ahead.

    The next one is fetched and put only when the consumer asks again, that
    is, after it has dispatched its step: transfers overlap with the step
    without a thread (as `flax.jax_utils.prefetch_to_device`).

    The batches, of this host, are closed with this generator; `put` starts the
    transfer of one. `depth`, at least 1, counts batches on the devices besides
    the one in use.
    """
    ready: deque[tuple[Batch, Any]] = deque()
    try:
        for batch in batches:
            ready.append((batch, put(batch)))
            if len(ready) > depth:
                yield ready.popleft()
        yield from ready
    finally:
        if isinstance(batches, Generator):
            batches.close()
