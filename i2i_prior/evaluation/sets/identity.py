"""Whether two sets of features were computed in one way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.presets import of_statistics

_SHOWN = 12  # characters of a value in a refusal


def check_identity(
    place: str, said: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
    """Refuses features that were computed in another way.

    Args:
        place: whose they are, for the sentence.
        said: the identity of the extractor that made them.
        wanted: of the one that is used now.

    Raises:
        UserError: names the first difference that counts, see
            `presets.of_statistics`.
    """
    plain = json.loads(json.dumps(dict(wanted)))
    for key in sorted({*said, *plain}, key=lambda key: key != "preset"):
        if _counting(said.get(key)) != _counting(plain.get(key)):
            raise UserError(
                f"{place} was made with {key} {_short(said.get(key))}, here "
                f"it is {_short(plain.get(key))}: the two do not compare; "
                "make it again from the images, or use what it was made with."
            )


def _counting(value: Any) -> Any:
    """What of a value of an identity makes statistics differ."""
    return of_statistics(value) if isinstance(value, Mapping) else value


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("name", dict(value)))
    return "not said" if value is None else str(value)[:_SHOWN]
