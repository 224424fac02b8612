"""`i2i-prior curate`: selects the records worth training on."""

import argparse
import sys
from contextlib import closing
from pathlib import Path

EXAMPLE = (
    "i2i-prior curate --source folder:photos --out good.jsonl --min-side 256 "
    "--near-duplicates phash"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    add = parser.add_argument
    add("--source", required=True, metavar="SPEC")
    add(
        "--out",
        required=True,
        metavar="FILE.jsonl",
        help="the selection, used as source select:FILE.jsonl",
    )
    add("--min-side", type=int, default=0, metavar="N", help="in pixels")
    add(
        "--max-aspect",
        type=float,
        default=0.0,
        metavar="R",
        help="longer side over shorter side; 0 for any",
    )
    add(
        "--min-entropy",
        type=float,
        default=0.0,
        metavar="BITS",
        help="of the levels of a thumbnail; 4 drops plain and flat images",
    )
    add(
        "--near-duplicates",
        metavar="phash|FILE.npy",
        help="by perceptual hash, or by embeddings (N, D) of all records",
    )
    add(
        "--threshold",
        type=float,
        metavar="T",
        help="greatest distance in bits (else 6), or least cosine (else 0.95)",
    )
    add(
        "--filter",
        action="append",
        default=[],
        metavar="FILE.py:FUNCTION[:LEAST]",
        help="(image, record) -> (keep, reason) or a score; may be repeated",
    )
    add(
        "--max-broken",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="of records that cannot be read or decoded; more end it",
    )
    add("--report", metavar="DIR", help="for curation.html, with thumbnails")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Writes a selection of a source, and with --report the dropped records."""
    from i2i_prior.data.curation.filters import CurateOptions
    from i2i_prior.data.curation.passes import curate
    from i2i_prior.data.curation.report import write_curation_report
    from i2i_prior.data.sources.registry import open_source
    from i2i_prior.data.sources.selected import refuse_mixture
    from i2i_prior.io.disk import check_output, write_errors
    from i2i_prior.io.progress import Progress

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
    with closing(Progress(len(source), description="curating")) as progress:
        dropped = curate(
            source, options.source, wanted, options.out, progress.update
        )
    kept = len(source) - sum(dropped.values())
    for reason, count in sorted(dropped.items(), key=lambda item: -item[1]):
        print(f"{count:>12,} dropped: {reason}")
    print(f"{kept:>12,} of {len(source):,} kept: select:{options.out}")
    if options.report:
        with write_errors(options.report):
            page = write_curation_report(options.out, source, options.report)
        print(page)
    return 0
