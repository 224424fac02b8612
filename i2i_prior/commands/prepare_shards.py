"""Shards of a prepared data set, made by all processes of a run."""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from i2i_prior.data.manifest import Plan
from i2i_prior.data.prepare.encode import Encoding
from i2i_prior.data.prepare.examples import Maker, Pictures, probe
from i2i_prior.data.prepare.folder import Tally, claim, fields_of, finish, tidy
from i2i_prior.data.prepare.options import (
    BATCH_SIZE,
    DTYPE,
    check_stored,
    pictures_of,
)
from i2i_prior.data.prepare.shards import make_shards, read_outcome
from i2i_prior.data.record import Source
from i2i_prior.data.sources.registry import open_source
from i2i_prior.distributed import runtime
from i2i_prior.errors import FullDiskError, UserError
from i2i_prior.io import disk, files
from i2i_prior.io.locks import exclusive
from i2i_prior.io.progress import Progress
from i2i_prior.training.resilience.preemption import (
    DONE,
    REQUEUE,
    Interrupted,
    Preemption,
)
from i2i_prior.version import __version__

_WEEKS = 1e7  # seconds that a host waits for the others; deaths are noticed


def prepare(options: argparse.Namespace) -> int:
    """Makes the shards that are missing, and the manifest.

    Returns:
      0 if all is done, 75 after a signal: the same command goes on.

    Raises:
      UserError: for options that do not fit together or to the folder, too
        many broken records, a full disk, or a worker that died.
    """
    pictures = pictures_of(options)
    folder = Path(options.out)
    source = open_source(options.source)
    notes = list(getattr(source, "notes", ()))
    further, decided = probe(source)
    check_stored(options, further)
    networks, encoding = _networks(options)
    plan = _plan(options, pictures, source, further, networks, encoding)
    make = Maker(
        source,
        pictures,
        further,
        image=plan.kind == "images",
        inputs=encoding.inputs if encoding else None,
    )
    # Not by JAX, which would take a GPU for it.
    index, count = runtime.index(), runtime.count()
    for note in [*notes, *filter(None, [decided])]:
        _print_note(index, f"note: {note}")
    shared = {n: json.dumps(v) for n, v in plan.to_json().items()}
    del shared["source"]  # a path may differ from machine to machine
    runtime.assert_equal("preparing", shared)
    alone = nullcontext() if index else exclusive(folder)
    with _disk_errors(folder), alone, Preemption() as preemption:
        done = index == 0 and claim(folder, plan)
        if done:
            tidy(folder)
        elif index == 0:
            files.remove_partial(folder)
        if runtime.allgather_text("claiming", str(int(done)))[0] == "1":
            _print_note(index, f"nothing to do: {folder} is complete")
            return DONE
        mine = range(index, plan.shard_count, count)
        try:
            _make(folder, plan, make, mine, options, preemption, encoding)
        except Interrupted as signal:
            return _interrupted(folder, str(signal))
        finally:
            if count == 1:  # or others may be writing
                files.remove_partial(folder)
        runtime.allgather_text("finishing shards", "", _WEEKS)
        total = 0
        if index == 0:
            total = finish(folder, plan, options.max_broken, notes)
        runtime.allgather_text("writing the manifest")
    left = plan.records - total
    dropped = f"{left} left out (dropped.jsonl)" if left else "none left out"
    _print_note(index, f"done: {total} examples, {dropped}, in {folder}")
    return DONE


def _make(
    folder: Path,
    plan: Plan,
    make: Maker,
    mine: Sequence[int],
    options: argparse.Namespace,
    preemption: Preemption,
    encoding: Encoding | None,
) -> None:
    """Makes the missing shards of this process; Interrupted by a signal."""
    tally, missing = Tally(options.max_broken, plan.records), []
    for shard in mine:
        outcome = read_outcome(folder, plan, shard)
        if outcome is None:
            missing.append(shard)
        else:
            tally.add(outcome)
    tally.check()
    total = sum(len(plan.indices(shard)) for shard in mine)
    begun, step = time.monotonic(), tally.records
    progress = Progress(total, step, "preparing", write=0 in mine)

    def tick(records: int) -> None:
        nonlocal step
        step += records
        progress.update(step)
        # Each process of several by itself: they share no step.
        if preemption.requested:
            raise Interrupted(preemption.requested)

    before = step
    workers = options.workers or len(os.sched_getaffinity(0))
    shards = make_shards(folder, plan, make, missing, workers, tick, encoding)
    with closing(shards):  # at once, which ends its processes
        for outcome in shards:
            tally.add(outcome)
            tally.check()
    rate = (step - before) / max(time.monotonic() - begun, 1e-9)
    if missing:
        progress.update(step, examples_per_second=rate)
    progress.close()


def _networks(
    options: argparse.Namespace,
) -> tuple[dict[str, dict[str, Any]], Encoding | None]:
    """Opens the networks, if any, and prints what was assumed.

    Returns:
      entries of the manifest by field ("latent", "embedding/NAME").
    """
    if not (options.latents or options.embeddings):
        return {}, None
    # Late: without networks JAX is not asked for its devices.
    from i2i_prior.inference import frozen_encoders as encoding

    found = {}
    if options.latents:
        found["latent"] = encoding.open_autoencoder(
            options.latents, options.latent_weights, options.size
        )
    for text in options.embeddings:
        network = encoding.open_encoder(text)
        if network.name in found:
            raise UserError("--embeddings has one name twice; choose another")
        found[network.name] = network
    for note in (note for network in found.values() for note in network.notes):
        print(f"note: {note}", file=sys.stderr)
    together = encoding.make_encoding(
        list(found.values()),
        options.batch_size or BATCH_SIZE,
        options.dtype or DTYPE,
        options.flip,
    )
    return {n: network.record for n, network in found.items()}, together


def _plan(
    options: argparse.Namespace,
    pictures: Pictures,
    source: Source,
    further: tuple[str, ...],
    networks: dict[str, dict[str, Any]],
    encoding: Encoding | None,
) -> Plan:
    encoders = {n.removeprefix("embedding/"): v for n, v in networks.items()}
    autoencoder = encoders.pop("latent", None)
    image = autoencoder is None
    preprocessing = pictures.to_json(bool(further) or image)
    if encoding:
        preprocessing |= {
            "flip": options.flip,
            "dtype": options.dtype or DTYPE,
            "batch_size": options.batch_size or BATCH_SIZE,
        }
    return Plan(
        kind="images" if image else "latents",
        fields=fields_of(encoding.fields if encoding else (), image, further),
        source=options.source,
        source_fingerprint=source.fingerprint(),
        records=len(source),
        examples_per_shard=options.examples_per_shard,
        preprocessing=preprocessing,
        autoencoder=autoencoder,
        encoders=encoders,
        version=__version__,
    )


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turns an error of the disk into a UserError."""
    try:
        yield
    except OSError as error:
        again = "run the same command again, which goes on"
        if error.errno in disk.DISK_FULL:
            raise FullDiskError(
                f"no space left in {folder}: free some and {again}"
            ) from error
        raise UserError(
            f"cannot write into {folder} ({error.strerror or error}): fix "
            f"that and {again}"
        ) from error


def _interrupted(folder: Path, signal: str) -> int:
    message = (
        f"{signal}: finished shards are in {folder}; run the same command to "
        "go on"
    )
    print(message, file=sys.stderr, flush=True)
    if runtime.count() == 1:
        return REQUEUE
    runtime.abort(message, REQUEUE)


def _print_note(index: int, text: str) -> None:
    if index == 0:
        print(text, file=sys.stderr, flush=True)
