"""`i2i-prior evaluate`: scores the samples of a checkpoint."""

import argparse

from i2i_prior.commands import common

EXAMPLE = "i2i-prior evaluate --workdir runs/quickstart --num-samples 256"
OVERRIDES = True


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    add = parser.add_argument
    add("--workdir", required=True, help="run directory")
    common.add_step(parser)
    add(
        "--reference",
        help="SPEC of images to draw for and compare with, else the run's "
        "held_out; or a statistics file to compare with",
    )
    add("--num-samples", type=int, help="generated images")
    add("--per-condition", type=int, help="of them for each held-out image")
    add(
        "--metrics",
        help="as fd,match,fidelity or fid,kid,pr; fidelity_features takes "
        "--features instead of the run's encoder",
    )
    add("--features", help="feature set, or FILE.py:function")
    add("--preset", help="protocol: adm, edm2, ...")
    add("--weights", help="file of the features' network")
    add("--npz", metavar="OUT.npz", help="write the samples for ADM's tool")
    add("--prompts", metavar="FILE", help="captions to draw, one a line")
    add("--text-encoder", metavar="FILE", help="of a model of captions")
    common.add_processes(parser)


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Scores a run; overrides are of sample.* and evaluate.*."""
    common.before_jax()
    from i2i_prior.evaluation.evaluate_run import evaluate_run

    with common.session(options):
        return evaluate_run(options, overrides)
