"""A config: made, loaded, overridden, flattened, hashed, explained.

An experiment is a Python file with `get_config(arg="") -> ConfigDict` that
starts from `default_config()`. The ConfigDict is locked and typed: an unknown
field or a value of another type is an error, here in one sentence.
"""

import ast
import difflib
import functools
import hashlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from i2i_prior.config.options import Field
from i2i_prior.config.sections import FIELDS
from i2i_prior.errors import UserError
from i2i_prior.io.python_files import running

# Fields that each process of a run may set for its own machine.
HOST_LOCAL = frozenset(f.name for f in FIELDS.values() if f.host_local)
# Fields that do not change what is learned; they may differ on resume.
RESUMABLE = frozenset(f.name for f in FIELDS.values() if f.resumable)

RENAMED = {
    "conditioner.choice": "conditioner.tokens_from",
    "diffusion.convention": "diffusion.time_convention",
}
# (name, value of the first version) -> value, and back.
_VALUES = {
    ("diffusion.time_convention", "own"): "native",
    ("diffusion.time_convention", "unit"): "repa",
}
_FIRST_VALUES = {(name, new): old for (name, old), new in _VALUES.items()}
_FIRST_NAMES = {new: old for old, new in RENAMED.items()}
# Older still: the first version itself read it under today's value.
_READ = _VALUES | {("encoder.pixels", "imagenet"): "family"}


def default_config() -> ConfigDict:
    """A locked ConfigDict of every field at its default."""
    config = ConfigDict()
    for name, field in FIELDS.items():
        section, _, leaf = name.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict()
        _section(config, section)[leaf] = field.default
    return config.lock()


def _section(config: ConfigDict, name: str) -> ConfigDict:
    return config[name] if name else config


def parse_arg(arg: str, **defaults: Any) -> ConfigDict:
    """Reads the part after the colon in `file.py:res=512,name=x`.

    Args:
      arg: comma-separated key=value pairs; a bare key means true.
      **defaults: the known keys; a value takes its default's type.

    Raises:
      UserError: for an unknown key or a value of another type.
    """
    values = ConfigDict(defaults)
    for pair in filter(None, arg.split(",")):
        key, _, text = pair.partition("=")
        if key not in defaults:
            raise UserError(
                f"config argument {key!r} is unknown; this file knows "
                f"{', '.join(defaults) or 'none'}"
            )
        values[key] = _typed(f"argument {key}", text or "True", defaults[key])
    return values


def load_config(spec: str, overrides: list[str] | None = None) -> ConfigDict:
    """Runs the config file and applies `path.to.field=value` overrides.

    Args:
      spec: FILE.py, FILE.py:ARG, or a FILE.json (see `frozen_config`).
      overrides: as `optim.learning_rate=1e-4`.

    Raises:
      UserError: for a missing file, an unknown field or a wrong type.
    """
    if spec.endswith(".json"):
        return override(frozen_config(Path(spec)), overrides or [])
    path, _, arg = spec.partition(".py:")
    file = Path(path if path.endswith(".py") else path + ".py")
    if not file.is_file():
        raise UserError(
            f"no config file {file}; give a path like configs/quickstart.py"
        )
    try:
        with running("config file", file) as module:
            config = _call(module.get_config, arg)
            if not isinstance(config, ConfigDict):
                raise TypeError("get_config returned no ConfigDict")
            flatten(config)
    except UserError as error:
        raise UserError(f"{error}{_renamed(file)}") from error
    return override(config, overrides or [])


def _renamed(file: Path) -> str:
    """Old field names that stand in a config file, as a hint."""
    text = file.read_text(errors="replace")
    return "".join(
        f"; {old} is called {new} now"
        for old, new in RENAMED.items()
        if re.search(r"\b{}\W+{}\b".format(*old.split(".")), text)
    )


def _call(get_config: Callable[..., Any], arg: str) -> Any:
    if inspect.signature(get_config).parameters:
        return get_config(arg)
    if arg:
        raise UserError(f"this config file takes no argument, not {arg!r}")
    return get_config()


def frozen_config(file: Path) -> ConfigDict:
    """The config in a JSON file: {"config": {dotted name: value}, ...}.

    As config.json of a run directory, and those that a sweep was planned to.
    UserError where it is none.
    """
    try:
        return from_flat(json.loads(file.read_text())["config"])
    except OSError as error:
        raise UserError(
            f"cannot read the config {file} ({error.strerror})"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is no config as a run directory's config.json; give that, "
            "or a Python file"
        ) from error


def override(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """Sets fields from `path.to.field=value` texts; gives the config back.
    UserError for an unknown field or a wrong type."""
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"override --config.{name} needs =value")
        set_field(config, name, value)
    return config


def set_field(
    config: ConfigDict, name: str, text: str, note: bool = True
) -> None:
    """Sets one dotted field from text, in the type of its default."""
    name, text = current(name, text, note)
    if name not in FIELDS:
        close = difflib.get_close_matches(name, FIELDS, 1, 0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"config has no field {name}{hint}")
    section, _, leaf = name.rpartition(".")
    value = _typed(f"field {name}", text, FIELDS[name].default)
    _section(config, section)[leaf] = value


def _typed(what: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    literal = text.strip()
    if text.lower() in ("true", "false"):
        literal = literal.capitalize()
    try:
        value = ast.literal_eval(literal)
    except (ValueError, SyntaxError):
        value = text
    kind = type(default)
    if kind is float and type(value) is int:
        value = float(value)
    if kind is int and type(value) is float and value.is_integer():
        value = int(value)  # 1e5 steps
    if type(value) is not kind:
        wanted = Field(default, "").kind
        raise UserError(f"config {what} takes {wanted}, not {text!r}")
    return value


def flatten(config: ConfigDict) -> dict[str, Any]:
    """Dotted names to values, in the order of `FIELDS`."""
    split = {name: name.rpartition(".") for name in FIELDS}
    return {n: _section(config, s)[leaf] for n, (s, _, leaf) in split.items()}


def check_fields(config: ConfigDict) -> None:
    """Raises UserError if a field by itself has a wrong type or value."""
    for name, value in flatten(config).items():
        FIELDS[name].check(value)


def config_hash(config: ConfigDict) -> str:
    """12 hex digits over every field that shapes what is learned."""
    shaping = {k: v for k, v in flatten(config).items() if k not in RESUMABLE}
    text = json.dumps(recorded(shaping), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def from_flat(flat: dict[str, Any], note: bool = True) -> ConfigDict:
    """The inverse of `flatten`; names of earlier versions are read, and noted
    on stderr with `note`. UserError for an unknown name or a wrong type."""
    config = default_config()
    for name, value in flat.items():
        set_field(config, name, str(value), note)
    return config


def explain(config: ConfigDict) -> str:
    """One line a field: name, value, meaning."""
    values = flatten(config)
    return "\n".join(
        f"{name:28} {values[name]!r:28} {field.help}"
        for name, field in FIELDS.items()
    )


def current(name: str, value: Any, note: bool = True) -> tuple[str, Any]:
    """A field and its value under the names of this version.

    With `note` a renamed field is noted on stderr, once a process.
    """
    if note and name in RENAMED:
        _note(name)
    name = RENAMED.get(name, name)
    if isinstance(value, str):
        value = _READ.get((name, value), value)
    return name, value


def recorded(flat: dict[str, Any]) -> dict[str, Any]:
    """Copy of some fields as the first version would name them, for hashes
    that last: later ones are left out where they have their default."""
    found = {}
    for name, value in flat.items():
        if FIELDS[name].added and value == FIELDS[name].default:
            continue
        value = _FIRST_VALUES.get((name, value), value)
        found[_FIRST_NAMES.get(name, name)] = value
    return found


@functools.cache
def _note(name: str) -> None:
    print(f"note: {name} is called {RENAMED[name]} now", file=sys.stderr)
