"""A config: made, loaded, overridden, flattened, hashed, explained.

An experiment is a Python file with `get_config(arg="") -> ConfigDict` that
starts from `default_config()`. The ConfigDict is locked and typed: an unknown
field or a value of another type is an error, here in one sentence.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from i2i_prior.config.fields import (
    FIELDS,
    RESUMABLE,
)
from i2i_prior.errors import UserError
from i2i_prior.io.python_files import running


def default_config() -> ConfigDict:
    """A locked ConfigDict of every field at its default."""
    config = ConfigDict()
    for name, default, _ in FIELDS:
        node = config
        *parents, leaf = name.split(".")
        for parent in parents:
            if parent not in node:
                node[parent] = ConfigDict()
            node = node[parent]
        node[leaf] = default
    return config.lock()


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
    with running("config file", file) as module:
        config = module.get_config(arg)
        if not isinstance(config, ConfigDict):
            raise TypeError("get_config returned no ConfigDict")
        flatten(config)
    return override(config, overrides or [])


def frozen_config(file: Path) -> ConfigDict:
    """The config in a JSON file: {"config": {dotted name: value}, ...}.

    As config.json of a run directory, and those that a sweep was planned to.

    Raises:
      UserError: where it is none.
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

    Raises:
      UserError: for an unknown field or a wrong type.
    """
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"override --config.{name} needs =value")
        set_field(config, name, value)
    return config


def set_field(config: ConfigDict, name: str, text: str) -> None:
    """Sets one dotted field from text, in the type of its default."""
    known = dict((n, d) for n, d, _ in FIELDS)
    if name not in known:
        close = difflib.get_close_matches(name, known, 1, 0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"config has no field {name}{hint}")
    node = config
    *parents, leaf = name.split(".")
    for parent in parents:
        node = node[parent]
    node[leaf] = _typed(f"field {name}", text, known[name])


def _typed(what: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    try:
        value = ast.literal_eval(
            text.strip().capitalize()
            if text.lower() in ("true", "false")
            else text.strip()
        )
    except (ValueError, SyntaxError):
        value = text
    kind = type(default)
    if kind is float and type(value) is int:
        value = float(value)
    if kind is int and type(value) is float and value.is_integer():
        value = int(value)  # 1e5 steps
    if type(value) is not kind:
        raise UserError(
            f"config {what} takes {_article(kind.__name__)}, not {text!r}"
        )
    return value


def _article(kind: str) -> str:
    return {"int": "an integer", "float": "a number", "bool": "true or false"}[
        kind
    ]


def flatten(config: ConfigDict) -> dict[str, Any]:
    """Dotted names to values, in the order of `FIELDS`."""
    flat = {}
    for name, _, _ in FIELDS:
        node = config
        for part in name.split("."):
            node = node[part]
        flat[name] = node
    return flat


def config_hash(config: ConfigDict) -> str:
    """12 hex digits over every field that shapes what is learned."""
    shaping = {k: v for k, v in flatten(config).items() if k not in RESUMABLE}
    text = json.dumps(shaping, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def from_flat(flat: dict[str, Any]) -> ConfigDict:
    """The inverse of `flatten`, for config.json; unknown names are errors."""
    config = default_config()
    for name, value in flat.items():
        # Runs from before there were other families than DINO say imagenet.
        if (name, value) == ("encoder.pixels", "imagenet"):
            value = "family"
        set_field(config, name, str(value))
    return config


def explain(config: ConfigDict) -> str:
    """One line a field: name, value, meaning."""
    values = flatten(config)
    return "\n".join(
        f"{name:28} {values[name]!r:28} {meaning}"
        for name, _, meaning in FIELDS
    )
