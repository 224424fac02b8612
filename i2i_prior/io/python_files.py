"""Python files that a person names: configs, sweeps, launchers."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from i2i_prior.errors import UserError


@contextlib.contextmanager
def running(what: str, file: Path) -> Iterator[ModuleType]:
    """The file as a module, for as long as its functions are called.

    It is a program: whatever goes wrong in it, then or when it is loaded, is
    told in one sentence.

    Args:
      what: kind of the file, for messages.
      file: it exists.

    Raises:
      UserError: its own, or of any error inside.
    """
    spec = importlib.util.spec_from_file_location(f"_named_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their names
    try:
        spec.loader.exec_module(module)
        yield module
    except UserError:
        raise
    except Exception as error:
        first = " ".join(str(error).split())
        raise UserError(
            f"{what} {file}: {type(error).__name__}: {first[:300]}"
        ) from error
