"""Config fields as fields of small frozen dataclasses, one a section.

A field stands in one place: name, type, default, meaning with its unit,
bounds, choices, and whether a resumed run may change it.

    @section("optim")
    class OptimSection:
        learning_rate: float = option(1e-4, "peak learning rate", 0)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from i2i_prior.errors import UserError

# Section name -> its fields, in the order of declaration.
_SECTIONS: dict[str, tuple[Field, ...]] = {}
_KINDS = {"int": "an integer", "float": "a number", "bool": "true or false"}


@dataclass(frozen=True)
class Field:
    """One config field.

    Attributes:
      name: dotted, as "optim.learning_rate".
      default: its value, whose type is the field's.
      help: its meaning with its unit.
      least, most: inclusive bounds, None for none.
      below: exclusive upper bound.
      choices: the only values it takes; names that a registry holds are
        checked by that registry.
      resumable: it does not change what is learned, so a resumed run may
        change it.
      host_local: each process of a run may set it for its own machine.
      added: a later version added it; at its default it is left out of the
        config hash, which runs from before keep.
    """

    name: str
    default: Any
    help: str
    least: float | None = None
    most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    resumable: bool = False
    host_local: bool = False
    added: bool = False

    def check(self, value: Any) -> None:
        """Raises UserError where the field cannot have this value."""
        if type(value) is not type(self.default):
            kind = type(self.default).__name__
            raise UserError(
                f"config field {self.name} takes {_KINDS.get(kind, 'a text')}, "
                f"not {value!r}"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(
                f"config field {self.name} is {value}; give a number"
            )
        if self.choices and value not in self.choices:
            raise UserError(
                f"config field {self.name} is {value!r}; choose "
                f"{' or '.join(self.choices)}"
            )
        if bound := self._violated(value):
            raise UserError(
                f"config field {self.name} is {value}; it must be {bound}"
            )

    def _violated(self, value: Any) -> str:
        least, most, below = self.least, self.most, self.below
        low = least is not None and value < least
        if most is not None and (low or value > most):
            return f"{least} to {most}"
        if below is not None and (low or value >= below):
            return f"{least} or more, and below {below}"
        return f"{least} or more" if low else ""


def section(name: str, resumable: bool = False) -> Callable[[type], type]:
    """Declares a class as the config section `name`, "" for the top level.

    Args:
      name: of the section, the part before the dot.
      resumable: all its fields are.
    """

    def declare(cls: type) -> type:
        cls = dataclass(frozen=True)(cls)
        _SECTIONS[name] = tuple(
            Field(
                f"{name}.{field.name}" if name else field.name,
                field.default,
                **{"resumable": resumable, **field.metadata},
            )
            for field in dataclasses.fields(cls)
        )
        return cls

    return declare


def declared() -> tuple[Field, ...]:
    """All fields of all sections declared so far, in order."""
    return tuple(f for fields in _SECTIONS.values() for f in fields)


def option(default: Any, help: str, least: Any = None, **facts: Any) -> Any:
    """A field that shapes what is learned; `facts` as in `Field`."""
    facts = {"help": help, "least": least, **facts}
    return dataclasses.field(default=default, metadata=facts)


def resumable(default: Any, help: str, least: Any = None, **facts: Any) -> Any:
    """A field that a resumed run may change."""
    return option(default, help, least, resumable=True, **facts)


def host_local(default: Any, help: str, least: Any = None, **facts: Any) -> Any:
    """A field that each process of a run may set for its own machine."""
    return resumable(default, help, least, host_local=True, **facts)


def share(default: float, help: str, **facts: Any) -> Any:
    """A field between 0 and 1."""
    return option(default, help, 0, most=1, **facts)
