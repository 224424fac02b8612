"""`i2i-prior inspect` and `i2i-prior curate`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from i2i_prior.errors import UserError
from i2i_prior.io.disk import (
    check_output,
    write_errors,
)
from i2i_prior.io.progress import (
    Progress,
)


def inspect(options: argparse.Namespace, overrides: list[str]) -> int:
    """Looks at a source, or with --config at what a model is given."""
    if bool(options.spec) == bool(options.config):
        raise UserError(
            "inspect takes a SPEC, as in i2i-prior inspect folder:/data, or "
            "--config FILE for the batch of a step: give one of both"
        )
    if options.config:
        return _batch(options, overrides)
    if overrides:
        raise UserError(
            f"--config.{overrides[0]} means nothing to a SPEC: leave it out"
        )
    return _source(options)


def _batch(options: argparse.Namespace, overrides: list[str]) -> int:
    from i2i_prior.config import load_config
    from i2i_prior.inspection import batch

    if not options.out:
        raise UserError(
            "the batch of a step is shown in pictures: give a folder for them "
            "with --out DIR"
        )
    folder = Path(options.out)
    for name in ("batch.png", "inspect.html"):
        check_output(folder / name)
    config = load_config(options.config, overrides)
    shown = batch.take(config, options.step)
    print(batch.as_text(shown))
    with write_errors(folder):
        paths = batch.write_batch(shown, config.name, folder)
    for path in paths:
        print(path)
    return 0


def _source(options: argparse.Namespace) -> int:
    from i2i_prior.data.sources import open_source
    from i2i_prior.inspection import describe
    from i2i_prior.inspection.speed import measure
    from i2i_prior.inspection.survey import survey

    if options.out:
        check_output(Path(options.out) / "inspect.html")
    source = open_source(options.spec)
    total = min(len(source), max(1, options.sample))
    progress = Progress(total, description="looking at")
    try:
        found = survey(
            source, options.spec, options.sample, advance=progress.update
        )
    finally:
        progress.close()
    speeds = measure(source, [seen.record for seen in found.seen])
    print(describe.as_text(found, speeds))
    if options.out:
        folder = Path(options.out)
        with write_errors(folder):
            page = describe.write_page(found, speeds, source, folder)
        print(page)
    return 0


def curate(options: argparse.Namespace) -> int:
    """Writes a selection of a source, and with --report what it dropped."""
    from i2i_prior.data.curation.options import CurateOptions
    from i2i_prior.data.curation.passes import curate as run
    from i2i_prior.data.curation.report import write_curation_report
    from i2i_prior.data.sources import open_source
    from i2i_prior.data.sources.selected import refuse_mixture

    wanted = CurateOptions(
        min_side=options.min_side,
        max_aspect=options.max_aspect,
        min_entropy=options.min_entropy,
        near_duplicates=options.near_duplicates or "",
        threshold=options.threshold,
        filters=tuple(options.filter),
        max_broken=options.max_broken,
    )
    refuse_mixture(options.source)
    check_output(Path(options.out).expanduser())
    if options.report:
        check_output(Path(options.report) / "curation.html")
    source = open_source(options.source)
    for note in getattr(source, "notes", ()):
        print(f"note: {note}", file=sys.stderr)
    progress = Progress(len(source), description="curating")
    try:
        dropped = run(
            source, options.source, wanted, options.out, progress.update
        )
    finally:
        progress.close()
    kept = len(source) - sum(dropped.values())
    for reason, count in sorted(dropped.items(), key=lambda item: -item[1]):
        print(f"{count:>12,} dropped: {reason}")
    print(f"{kept:>12,} of {len(source):,} kept: select:{options.out}")
    if options.report:
        with write_errors(options.report):
            page = write_curation_report(options.out, source, options.report)
        print(page)
    return 0
