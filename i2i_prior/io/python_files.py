"""Loading of Python files given by path: configs, sweeps, launchers."""

import contextlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from i2i_prior.errors import UserError


@contextlib.contextmanager
def running(what: str, file: Path) -> Iterator[ModuleType]:
    """Loads a file as a module; its functions are called inside the context.

    Raises:
      UserError: raised by the file, or in place of any other exception;
        `what` names the kind of file.
    """
    spec = importlib.util.spec_from_file_location(f"_named_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    try:
        spec.loader.exec_module(module)
        yield module
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} {file}: {described(error)}") from error


def described(error: Exception) -> str:
    """Type and message of an error in a user's code, on one line."""
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return said + (_moved(error) if isinstance(error, ImportError) else "")


def _moved(error: ImportError) -> str:
    """Modules of this package that have the name of a missing one."""
    package = __package__.partition(".")[0]
    asked = re.match(r"cannot import name '(\w+)'", error.msg or "")
    name = f"{error.name}.{asked[1]}" if asked else error.name or ""
    if not name.startswith(f"{package}."):
        return ""
    root = Path(__file__).parents[1]
    found = [
        ".".join((package, *path.relative_to(root).with_suffix("").parts))
        for path in sorted(root.rglob(f"{name.rpartition('.')[2]}.py"))
    ]
    return f"; there is {' and '.join(found)}" if found else ""
