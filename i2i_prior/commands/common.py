"""Options and preparations that several commands share."""

import argparse
import contextlib
from typing import Any

from i2i_prior.errors import UserError
from i2i_prior.io.files import local_path

# Options of all commands that name files and folders of this machine.
_LOCAL = (
    *("workdir", "out", "json", "hlo", "npz", "picture", "report"),
    *("save_features", "save_statistics", "sweep", "runs", "laws"),
)


def add_command(
    commands: Any, name: str, help_text: str, example: str
) -> argparse.ArgumentParser:
    """Adds a parser to what `add_subparsers` returned."""
    return commands.add_parser(
        name,
        help=help_text,
        allow_abbrev=False,
        description=help_text,
        epilog=f"example: {example}",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )


def add_step(parser: argparse.ArgumentParser) -> None:
    """Adds --step: int, "best", or None for the newest checkpoint."""
    parser.add_argument(
        "--step", type=_step, help='checkpoint or "best", else newest'
    )


def _step(text: str) -> int | str:
    if text == "best" or text.isdecimal():
        return text if text == "best" else int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor best")


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds --config, required."""
    parser.add_argument(
        "--config", required=True, metavar="FILE[:ARGS]", help="config file"
    )


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Adds --weights: "ema" or "raw"."""
    parser.add_argument(
        "--weights",
        choices=("ema", "raw"),
        default="ema",
        help="EMA or raw weights, if both are there",
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Adds the run to draw from, and the sampler's options."""
    add = parser.add_argument
    add("--workdir", required=True, help="run directory or safetensors file")
    add_step(parser)
    add("--steps", type=int, help="solver steps")
    add("--guidance", type=float, help="guidance scale")
    add("--solver", help="as dpmpp_2m, ddim, euler, heun")
    add("--seed", type=int, default=0)


def add_machine(group: argparse._ArgumentGroup) -> None:
    """Adds the arguments of `aot.machine.machine`."""
    add = group.add_argument
    add("--accelerator", help="machine of a run, as h100x8 or v5e:4x4")
    add("--mfu", type=float, default=0.4, help="share of its bf16 peak")
    add(
        "--flops-per-second",
        type=float,
        metavar="F",
        help="measured FLOP/s, instead of peak and MFU",
    )


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `session` reads."""
    add = parser.add_argument_group(
        "several processes",
        "SLURM, Kubernetes, MPI, torchrun, Flux and TPU pods are recognised; "
        "without one:",
    ).add_argument
    add("--coordinator", metavar="HOST:PORT", help="address of process 0")
    add("--processes", type=int, help="how many there are")
    add("--process-id", type=int, help="this one, from 0")
    add(
        "--startup-timeout",
        type=float,
        default=300.0,
        help="seconds until all processes must have joined",
    )
    add(
        "--heartbeat-timeout",
        type=float,
        default=100.0,
        help="seconds of silence after which a process counts as gone",
    )


def session(options: argparse.Namespace) -> contextlib.AbstractContextManager:
    """Joins the processes that the options or the environment name."""
    from i2i_prior.distributed import runtime

    given = options.coordinator, options.processes, options.process_id
    return runtime.session(
        runtime.find(*given), options.startup_timeout, options.heartbeat_timeout
    )


def before_jax() -> None:
    """Sets what JAX reads once, when it is imported."""
    from i2i_prior.parallel import xla_flags
    from i2i_prior.training.resilience.compile_cache import use_cache
    from i2i_prior.training.resilience.cpu_allocator import keep_memory

    use_cache()
    xla_flags.apply()
    keep_memory()


def make_local(options: argparse.Namespace) -> None:
    """Makes paths of `file://` URLs; UserError for a bucket's or server's."""

    def local(given: Any) -> Any:
        if isinstance(given, list):
            return [local(one) for one in given]
        # Others stay as they are written, for messages.
        is_url = isinstance(given, str) and ":/" in given
        return str(local_path(given)) if is_url else given

    for name in _LOCAL:
        if hasattr(options, name):
            setattr(options, name, local(getattr(options, name)))


def refuse_overrides(overrides: list[str]) -> None:
    """Raises a UserError for overrides that would have no effect."""
    if overrides:
        raise UserError(
            f"--config.{overrides[0]} only applies where a config is read: "
            "train, compile, flops, evaluate and inspect --config"
        )
