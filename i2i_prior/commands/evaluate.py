"""`i2i-prior evaluate`: scores the samples of a checkpoint."""

from __future__ import annotations

import argparse

from i2i_prior.commands import common

HELP = "Score a checkpoint."
EXAMPLE = "i2i-prior evaluate --workdir runs/quickstart --num-samples 256"
OVERRIDES = True


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    parser.add_argument("--workdir", required=True, help="run directory")
    common.add_step(parser)
    parser.add_argument(
        "--reference",
        help="SPEC of images to draw for and compare with, else the run's "
        "held_out; or a statistics file to compare with",
    )
    parser.add_argument("--num-samples", type=int, help="generated images")
    parser.add_argument(
        "--per-condition", type=int, help="of them for each held-out image"
    )
    parser.add_argument(
        "--metrics",
        help="as fd,match,fidelity or fid,kid,pr; fidelity_features takes "
        "--features instead of the run's encoder",
    )
    parser.add_argument("--features", help="feature set, or FILE.py:function")
    parser.add_argument("--preset", help="protocol: adm, edm2, ...")
    parser.add_argument("--weights", help="file of the features' network")
    parser.add_argument(
        "--npz", metavar="OUT.npz", help="write the samples for ADM's tool"
    )
    parser.add_argument(
        "--prompts", metavar="FILE", help="captions to draw, one a line"
    )
    parser.add_argument(
        "--text-encoder", metavar="FILE", help="of a model of captions"
    )
    common.add_processes(parser)


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Scores a run; overrides are of sample.* and evaluate.*."""
    common.before_jax()
    from i2i_prior.evaluation.score_run import score_run

    with common.session(options):
        return score_run(options, overrides)
