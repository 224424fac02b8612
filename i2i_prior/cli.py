"""The `i2i-prior` command: runs `commands.NAME`, and exits with its code."""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Iterable
from types import ModuleType

from i2i_prior.commands import COMMANDS, common
from i2i_prior.errors import CRASHED, FullDiskError, UserError
from i2i_prior.io.disk import DISK_FULL
from i2i_prior.io.log_stream import drop_unwritable, tolerant_stderr


def command_module(name: str) -> ModuleType:
    """The module of a command; its protocol is in `i2i_prior.commands`."""
    return importlib.import_module(f"i2i_prior.commands.{COMMANDS[name][0]}")


def build_parser(names: Iterable[str] = COMMANDS) -> argparse.ArgumentParser:
    """A parser that knows all commands, and the options of those named."""
    parser = argparse.ArgumentParser(
        prog="i2i-prior",
        allow_abbrev=False,
        description="Image-to-image generative priors: train, sample, "
        "measure, export.",
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND"
    )
    for name, (_, text) in COMMANDS.items():
        if name in names:
            module = command_module(name)
            module.add_options(
                common.add_command(commands, name, text, module.EXAMPLE)
            )
        else:
            commands.add_parser(name, help=text)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Parses, runs, and turns a UserError into one sentence and its code.

    A standard error that cannot be written changes nothing.
    """
    with tolerant_stderr():
        _main(argv)


def _main(argv: list[str] | None) -> None:
    arguments = sys.argv[1:] if argv is None else argv
    parser = build_parser(arguments)
    options, rest = parser.parse_known_args(arguments)
    options.arguments = arguments
    prefix = "--config."
    overrides = [t.removeprefix(prefix) for t in rest if t.startswith(prefix)]
    unknown = [text for text in rest if not text.startswith(prefix)]
    if unknown or (overrides and options.command == "doctor"):
        parser.error(f"unrecognised: {' '.join(unknown or overrides)}")
    _quiet_libraries()
    try:
        command = command_module(options.command)
        common.make_local(options)
        if not hasattr(command, "OVERRIDES"):
            common.refuse_overrides(overrides)
        code = command.run(options, overrides)
        if sys.stdout is not None:  # None if a shell closed it: >&-
            sys.stdout.flush()
        sys.exit(code)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.code)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has closed it
        drop_unwritable(sys.stdout)
        sys.exit(128 + 13)
    except Exception as error:  # its own code: a supervisor starts it again
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            place = error.filename or "the output"
            print(
                f"error: cannot write {place} ({error.strerror}); free some "
                "space and run the same command again",
                file=sys.stderr,
            )
            drop_unwritable(sys.stdout)
            sys.exit(FullDiskError.code)
        traceback.print_exc()
        sys.exit(CRASHED)


def _quiet_libraries() -> None:
    """Silences what libraries print at start, except their warnings."""
    from i2i_prior.parallel.xla_flags import leave_idle_tpu

    leave_idle_tpu()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


if __name__ == "__main__":
    main()
