"""Config fields, declared in one class a section.

A field stands in one place: name, default (whose type is the field's), meaning
with its unit, bounds, choices, and whether a resumed run may change it.

    @section("optim")
    class OptimSection:
        learning_rate = option(1e-4, "peak learning rate", 0)
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from i2i_prior.errors import UserError

_KINDS = {"int": "an integer", "float": "a number", "bool": "true or false"}


@dataclass(frozen=True)
class Field:
    """One config field."""

    default: Any  # its value, whose type is the field's
    help: str  # its meaning with its unit
    least: float | None = None  # inclusive bounds, None for none
    most: float | None = None
    below: float | None = None  # exclusive upper bound
    # The only values; names that a registry holds are checked by that registry.
    choices: tuple[str, ...] = ()
    resumable: bool = False  # does not change what is learned, may on resume
    host_local: bool = False  # each process may set it for its own machine
    # A later version added it; at its default it is left out of the config
    # hash, which runs from before keep.
    added: bool = False
    name: str = ""  # dotted, as "optim.learning_rate"; set by `section`

    @property
    def kind(self) -> str:
        """Kind of its values in words, as "a number"."""
        return _KINDS.get(type(self.default).__name__, "a text")

    def check(self, value: Any) -> None:
        """Raises UserError where the field cannot have this value."""
        if type(value) is not type(self.default):
            raise UserError(
                f"config field {self.name} takes {self.kind}, not {value!r}"
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


# All fields by name, in the order of declaration.
FIELDS: dict[str, Field] = {}


def section(name: str, resumable: bool = False) -> Callable[[type], type]:
    """Declares a class as the config section `name`, "" for the top level;
    with `resumable` all its fields are."""

    def declare(cls: type) -> type:
        for leaf, field in vars(cls).items():
            if isinstance(field, Field):
                full = f"{name}.{leaf}" if name else leaf
                FIELDS[full] = dataclasses.replace(
                    field, name=full, resumable=resumable or field.resumable
                )
        return cls

    return declare


def choice(choices: tuple[str, ...], help: str, **facts: Any) -> Field:
    """A field that takes one of some texts, the first one by default."""
    return Field(choices[0], help, choices=choices, **facts)


# A field that shapes what is learned.
option = Field
# A field that a resumed run may change.
resumable = functools.partial(Field, resumable=True)
# A field that each process of a run may set for its own machine.
host_local = functools.partial(Field, resumable=True, host_local=True)
# A field between 0 and 1.
share = functools.partial(Field, least=0, most=1)
