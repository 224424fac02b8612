"""Options of `i2i-prior inspect` and `i2i-prior curate`."""

from __future__ import annotations

import argparse


def add_inspect(command: argparse.ArgumentParser) -> None:
    """Options of `inspect`."""
    command.add_argument(
        "spec", nargs="?", metavar="SPEC", help="source, as tar:/data/*.tar"
    )
    command.add_argument(
        "--config",
        metavar="FILE[:ARGS]",
        help="instead of SPEC: show the batch that training with it is given",
    )
    command.add_argument(
        "--step", type=int, default=0, help="of the batch, with --config"
    )
    command.add_argument("--out", metavar="DIR", help="for inspect.html")
    command.add_argument(
        "--sample",
        type=int,
        default=2000,
        metavar="N",
        help="records of SPEC that are read, drawn at random",
    )


def add_curate(command: argparse.ArgumentParser) -> None:
    """Options of `curate`."""
    command.add_argument("--source", required=True, metavar="SPEC")
    command.add_argument(
        "--out",
        required=True,
        metavar="FILE.jsonl",
        help="the selection, used as source select:FILE.jsonl",
    )
    command.add_argument(
        "--min-side", type=int, default=0, metavar="N", help="in pixels"
    )
    command.add_argument(
        "--max-aspect",
        type=float,
        default=0.0,
        metavar="R",
        help="longer side over shorter side; 0 for any",
    )
    command.add_argument(
        "--min-entropy",
        type=float,
        default=0.0,
        metavar="BITS",
        help="of the levels of a thumbnail; 4 drops plain and flat images",
    )
    command.add_argument(
        "--near-duplicates",
        metavar="phash|FILE.npy",
        help="by perceptual hash, or by embeddings (N, D) of all records",
    )
    command.add_argument(
        "--threshold",
        type=float,
        metavar="T",
        help="greatest distance in bits (else 6), or least cosine (else 0.95)",
    )
    command.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="FILE.py:FUNCTION[:LEAST]",
        help="(image, record) -> (keep, reason) or a score; may be repeated",
    )
    command.add_argument(
        "--max-broken",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="of records that cannot be read or decoded; more end it",
    )
    command.add_argument(
        "--report", metavar="DIR", help="for curation.html, with thumbnails"
    )
