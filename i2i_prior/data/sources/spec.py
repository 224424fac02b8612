"""Grammar of a SPEC.

scheme:place#option=value,option=value
mix:0.7*SPEC + 0.3*SPEC
"""

import math
import os
import re

from i2i_prior.data.sources import places
from i2i_prior.errors import UserError

_OPTION = r"[a-z_]+=[^,#]*"
_OPTIONS = re.compile(rf"#({_OPTION}(?:,{_OPTION})*)$")
# A " + " in a path separates no parts, since no weight follows.
_PLUS = re.compile(r"\s+\+\s+(?=[^\s*]*\*)")


def parse(
    text: str, schemes: dict[str, tuple[str, ...]]
) -> tuple[str, str, dict[str, str]]:
    """Scheme, place (not empty) and options of a SPEC.

    `schemes` are the known schemes, and the options of each. UserError if the
    scheme or an option is unknown, one is given twice, or nothing follows the
    colon.
    """
    scheme, colon, place = text.partition(":")
    if not colon or scheme not in schemes:
        known = ", ".join(f"{name}:" for name in schemes)
        raise UserError(
            f"Image source {text!r} is not understood: write one of {known} "
            "followed by a path or name, as in folder:/data/images."
        )
    found = _OPTIONS.search(place)
    # A real path wins, so that any character can be in it.
    if found and os.path.exists(places.absolute(place)):
        found = None
    place = place[: found.start()] if found else place
    if not place:
        raise UserError(
            f"Image source {text!r} names nothing after the colon: write a "
            "path or name there, as in folder:/data/images."
        )
    options = found[1].split(",") if found else []
    pairs = [option.partition("=")[::2] for option in options]
    for name, _ in pairs:
        if name not in schemes[scheme] or len(dict(pairs)) < len(pairs):
            known = ", ".join(f"{n}=" for n in schemes[scheme]) or "none"
            raise UserError(
                f"Image source {text!r} has an option {name}= that {scheme}: "
                f"does not take, or takes once: it takes {known}."
            )
    return scheme, place, dict(pairs)


def parse_mix(text: str) -> list[tuple[float, str]]:
    """Weights and SPECs of the text after `mix:`.

    UserError if a weight is missing or not above 0, a part is a mixture itself,
    or there is one part only.
    """
    parts = []
    for part in _PLUS.split(text):
        number, star, spec = part.strip().partition("*")
        try:
            weight = float(number) if star else math.nan
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf or spec.startswith("mix:"):
            raise UserError(
                f"Mixture part {part.strip()!r} is not understood: write a "
                "weight above 0, a * and a SPEC that is no mixture, as in "
                "mix:0.7*tar:/a.tar + 0.3*folder:/b."
            )
        parts.append((weight, spec.strip()))
    if len(parts) < 2:
        raise UserError(
            f"Mixture mix:{text} has one part: give a second one, as in "
            "mix:0.7*tar:/a.tar + 0.3*folder:/b, or its SPEC alone."
        )
    return parts
