"""The `i2i-prior` command: one thin function a subcommand."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from pathlib import Path

from i2i_prior.commands.arguments import build_parser
from i2i_prior.errors import CRASHED, UserError


def main(argv: list[str] | None = None) -> None:
    """Parses, runs, and turns a UserError into one sentence and its code."""
    arguments = sys.argv[1:] if argv is None else argv
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    options.arguments = arguments
    overrides = [
        text.removeprefix("--config.")
        for text in rest
        if text.startswith("--config.")
    ]
    unknown = [text for text in rest if not text.startswith("--config.")]
    if unknown or (overrides and options.command == "doctor"):
        parser.error(f"unrecognised: {' '.join(unknown or overrides)}")
    quiet()
    try:
        code = RUN[options.command](options, overrides)
        if sys.stdout is not None:  # as where a shell closed it: >&-
            sys.stdout.flush()
        sys.exit(code)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.code)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever reads our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + 13)
    except Exception:  # so that whoever restarts us can tell it from a mistake
        traceback.print_exc()
        sys.exit(CRASHED)


def quiet() -> None:
    """Silences the libraries' own chatter, keeps their warnings."""
    from i2i_prior.parallel.xla_flags import leave_idle_tpu

    leave_idle_tpu()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


def run_train(options: argparse.Namespace, overrides: list[str]) -> int:
    """`i2i-prior train`."""
    from i2i_prior.config import load_config

    config = load_config(options.config, overrides)
    if options.print_config:
        from i2i_prior.config import explain

        print(explain(config))
        return 0
    if options.explain_sharding:
        from i2i_prior.training.setup import explain_sharding

        print(explain_sharding(config))
        return 0
    if options.restarts:
        return _restarting(options)
    _before_jax()
    from i2i_prior.train import train
    from i2i_prior.training.telemetry.profiler import parse_steps

    profile = options.profile_steps and parse_steps(
        options.profile_steps, config.train.steps
    )
    with _session(options):
        return train(config, options.workdir, profile)


def _restarting(options: argparse.Namespace) -> int:
    """`i2i-prior train --restarts N`."""
    from i2i_prior.distributed.cluster import detect
    from i2i_prior.training.resilience.restarts import (
        supervise,
        without_restarts,
    )

    if options.restarts < 0:
        raise UserError(f"--restarts is {options.restarts}; give 0 or more")
    given = options.coordinator, options.processes, options.process_id
    if detect(os.environ, *given):
        raise UserError(
            "--restarts starts one process again, which others of its run "
            "would not wait for; leave it to what starts them all (exit codes "
            "70 and 75: the same command resumes)"
        )
    command = [sys.executable, "-m", "i2i_prior.cli"]
    command += without_restarts(options.arguments)
    return supervise(command, Path(options.workdir), options.restarts)


def run_sample(options: argparse.Namespace, overrides: list[str]) -> int:
    """`i2i-prior sample`."""
    _no_overrides(overrides)
    _before_jax()
    from i2i_prior.commands.sample import sample

    return sample(options)


def run_interpolate(options: argparse.Namespace, overrides: list[str]) -> int:
    """`i2i-prior interpolate`."""
    _no_overrides(overrides)
    _before_jax()
    from i2i_prior.commands.sample import interpolate

    return interpolate(options)


def run_evaluate(options: argparse.Namespace, overrides: list[str]) -> int:
    """`i2i-prior evaluate`; sample.* and evaluate.* may be overridden."""
    _before_jax()
    from i2i_prior.commands.evaluate import evaluate

    with _session(options):
        return evaluate(options, overrides)


def run_fid(options: argparse.Namespace, overrides: list[str]) -> int:
    """`i2i-prior fid`."""
    _no_overrides(overrides)
    _before_jax()
    from i2i_prior.commands.fid import fid

    return fid(options)


def run_prepare(options: argparse.Namespace, overrides: list[str]) -> int:
    """`i2i-prior prepare`."""
    _no_overrides(overrides)
    _before_jax()
    from i2i_prior.commands.prepare import prepare

    with _session(options):
        return prepare(options)


def run_import(options: argparse.Namespace, overrides: list[str]) -> int:
    """`i2i-prior import`."""
    _no_overrides(overrides)
    from i2i_prior.commands.convert import import_

    return import_(options)


def run_export(options: argparse.Namespace, overrides: list[str]) -> int:
    """`i2i-prior export`."""
    _no_overrides(overrides)
    from i2i_prior.commands.convert import export

    return export(options)


def run_weights(options: argparse.Namespace, overrides: list[str]) -> int:
    """`i2i-prior weights`."""
    _no_overrides(overrides)
    from i2i_prior.commands.weights import weights

    return weights(options)


def run_compile(options: argparse.Namespace, overrides: list[str]) -> int:
    """`i2i-prior compile`."""
    # Before JAX is imported: this process only counts, its children compile.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from i2i_prior.commands.compile import compile_

    return compile_(options, overrides)


def run_coordinates(options: argparse.Namespace, overrides: list[str]) -> int:
    """`i2i-prior coordinates`."""
    _before_jax()
    from i2i_prior.commands.coord_check import coordinates

    return coordinates(options, overrides)


def run_fit(options: argparse.Namespace, overrides: list[str]) -> int:
    """`i2i-prior fit`."""
    _no_overrides(overrides)
    from i2i_prior.commands.fit import fit

    return fit(options)


def run_flops(options: argparse.Namespace, overrides: list[str]) -> int:
    """`i2i-prior flops`."""
    os.environ["JAX_PLATFORMS"] = "cpu"  # only counts
    from i2i_prior.commands.flops import flops

    return flops(options, overrides)


def run_report(options: argparse.Namespace, overrides: list[str]) -> int:
    """`i2i-prior report`."""
    _no_overrides(overrides)
    from i2i_prior.training.telemetry.run_report import write_report

    print(write_report(Path(options.workdir)))
    return 0


def run_inspect(options: argparse.Namespace, overrides: list[str]) -> int:
    """`i2i-prior inspect`; with --config its fields may be overridden."""
    from i2i_prior.commands.inspect import inspect

    return inspect(options, overrides)


def run_curate(options: argparse.Namespace, overrides: list[str]) -> int:
    """`i2i-prior curate`."""
    _no_overrides(overrides)
    from i2i_prior.commands.inspect import curate

    return curate(options)


def run_sweep(options: argparse.Namespace, overrides: list[str]) -> int:
    """`i2i-prior sweep VERB`; plan and submit may change the base config."""
    from i2i_prior.commands.sweep import run

    if options.verb not in ("plan", "submit"):
        _no_overrides(overrides)
    return run(options, overrides)


def run_doctor(options: argparse.Namespace, overrides: list[str]) -> int:
    """`i2i-prior doctor`."""
    from i2i_prior.commands.doctor import doctor

    return doctor()


def _session(options: argparse.Namespace) -> contextlib.AbstractContextManager:
    """The processes that the options or the environment name, joined."""
    from i2i_prior.distributed import runtime

    given = options.coordinator, options.processes, options.process_id
    return runtime.session(
        runtime.find(*given),
        options.startup_timeout,
        options.heartbeat_timeout,
    )


def _before_jax() -> None:
    """What has to be set before JAX is imported, which reads it once."""
    from i2i_prior.parallel import xla_flags
    from i2i_prior.training.resilience.compile_cache import use_cache
    from i2i_prior.training.resilience.cpu_allocator import keep_memory

    use_cache()
    xla_flags.apply()
    keep_memory()


def _no_overrides(overrides: list[str]) -> None:
    if overrides:
        raise UserError(
            f"--config.{overrides[0]} only applies where a config is read: "
            "train, compile, flops, evaluate and inspect --config"
        )


# Functions of (options, overrides) -> exit code.
RUN = {
    "train": run_train,
    "sample": run_sample,
    "interpolate": run_interpolate,
    "evaluate": run_evaluate,
    "fid": run_fid,
    "prepare": run_prepare,
    "import": run_import,
    "export": run_export,
    "weights": run_weights,
    "compile": run_compile,
    "coordinates": run_coordinates,
    "fit": run_fit,
    "flops": run_flops,
    "report": run_report,
    "inspect": run_inspect,
    "curate": run_curate,
    "sweep": run_sweep,
    "doctor": run_doctor,
}


if __name__ == "__main__":
    main()
