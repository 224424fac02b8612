"""`i2i-prior inspect`: shows data before training on them."""

import argparse
from contextlib import closing
from pathlib import Path

from i2i_prior.errors import UserError

EXAMPLE = "i2i-prior inspect 'tar:/data/*.tar' --out looked_at"
OVERRIDES = True


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    add = parser.add_argument
    add("spec", nargs="?", metavar="SPEC", help="source, as tar:/data/*.tar")
    add(
        "--config",
        metavar="FILE[:ARGS]",
        help="instead of SPEC: show the batch that training gets",
    )
    add("--step", type=int, default=0, help="of the batch, with --config")
    add("--out", metavar="DIR", help="for inspect.html")
    add(
        "--sample",
        type=int,
        default=2000,
        metavar="N",
        help="records of SPEC that are read, drawn at random",
    )


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Describes a source, or with --config the batch of a step."""
    if bool(options.spec) == bool(options.config):
        raise UserError(
            "inspect takes a SPEC, as in i2i-prior inspect folder:/data, or "
            "--config FILE for the batch of a step: give one of both"
        )
    if options.config:
        return _inspect_batch(options, overrides)
    if overrides:
        raise UserError(
            f"--config.{overrides[0]} means nothing to a SPEC: leave it out"
        )
    return _inspect_source(options)


def _inspect_batch(options: argparse.Namespace, overrides: list[str]) -> int:
    from i2i_prior.config import load_config
    from i2i_prior.inspection import batch
    from i2i_prior.io.disk import check_output, write_errors

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


def _inspect_source(options: argparse.Namespace) -> int:
    from i2i_prior.data.sources.registry import open_source
    from i2i_prior.inspection import describe
    from i2i_prior.inspection.survey import measure, survey
    from i2i_prior.io.disk import check_output, write_errors
    from i2i_prior.io.progress import Progress

    if options.out:
        check_output(Path(options.out) / "inspect.html")
    source = open_source(options.spec)
    total = min(len(source), max(1, options.sample))
    with closing(Progress(total, description="looking at")) as progress:
        found = survey(
            source, options.spec, options.sample, advance=progress.update
        )
    speeds = measure(source, [each.record for each in found.sample])
    print(describe.as_text(found, speeds))
    if options.out:
        folder = Path(options.out)
        with write_errors(folder):
            page = describe.write_page(found, speeds, source, folder)
        print(page)
    return 0
