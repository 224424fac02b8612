"""What a fit leaves on disk, and predictions take from there.

laws.json is `document`'s; draws.npz has the draws behind intervals.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.checkpoint.run_dir import read_json, write_json
from i2i_prior.errors import UserError
from i2i_prior.io.disk import write_errors
from i2i_prior.io.files import atomic_path
from i2i_prior.scaling_laws.document import OPTIMA
from i2i_prior.scaling_laws.fitting import Fitted
from i2i_prior.scaling_laws.isoflop import PowerLaw
from i2i_prior.scaling_laws.offset import OffsetLaw
from i2i_prior.scaling_laws.parametric import NAMES
from i2i_prior.scaling_laws.points import column
from i2i_prior.scaling_laws.rates import Rate, RateLaw
from i2i_prior.scaling_laws.recipe import Size, sizes_of
from i2i_prior.scaling_laws.recommend import Laws
from i2i_prior.scaling_laws.uncertainty import Cost, Law


def laws_of(fitted: Fitted) -> Laws:
    """What predictions take of a fit."""
    optima = fitted.isoflop
    return Laws(
        law=fitted.law,
        cost=fitted.cost,
        optima=(
            {name: getattr(optima, name) for name in OPTIMA} if optima else None
        ),
        freedom=optima.freedom if optima else 0,
        offset=fitted.offset,
        rate=fitted.rate_law,
        largest=float(column(fitted.points, "c").max()),
        sizes=sizes_of(fitted.table),
        widening=fitted.widening,
    )


def save(folder: Path, values: dict[str, Any], laws: Laws) -> None:
    """Writes draws.npz, then laws.json.

    Raises:
      UserError: where they cannot be written.
    """
    arrays = {} if laws.law is None else {"parametric": laws.law.draws}
    arrays |= {name: law.draws for name, law in (laws.optima or {}).items()}
    if laws.offset is not None:
        arrays["offset"] = laws.offset.draws
    with write_errors(
        f"{folder}/draws.npz", "free space or choose another --out"
    ):
        folder.mkdir(parents=True, exist_ok=True)
        with (
            atomic_path(folder / "draws.npz") as beside,
            beside.open("wb") as file,
        ):
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    write_json(folder / "laws.json", _finite(values))


def _finite(value: Any) -> Any:
    """JSON has no NaN: null for what is not finite."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def load(folder: Path) -> Laws:
    """The laws that `save` wrote.

    Raises:
      UserError: where there are none.
    """
    file = folder / "laws.json"
    if not file.exists():
        raise UserError(
            f"{folder} has no laws.json; fit first: i2i-prior fit --runs SWEEP "
            f"--out {folder}"
        )
    values = read_json(file)
    try:
        with np.load(folder / "draws.npz") as arrays:
            return _loaded(values, dict(arrays))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder} holds no laws of this version ({error}); fit again"
        ) from error


def _loaded(values: dict[str, Any], arrays: dict[str, np.ndarray]) -> Laws:
    law = optima = rate = with_offset = None
    told = values["parametric"]
    if told:
        calibration = told["calibration"] or {"inflation": 1.0}
        law = Law(
            values=np.array([told[name] for name in NAMES]),
            draws=arrays["parametric"],
            freedom=told["freedom"],
            noise=told["noise"],
            inflation=calibration["inflation"],
        )
    told = values["isoflop"]
    if told:
        optima = {
            name: PowerLaw(
                told[name]["coefficient"], told[name]["exponent"], arrays[name]
            )
            for name in OPTIMA
        }
        form = told["loss_with_offset"]
        if form:
            with_offset = OffsetLaw(
                form["offset"],
                form["coefficient"],
                -form["exponent"],
                arrays["offset"],
            )
    rates = values["learning_rate"]
    if rates and rates["coefficient"] is not None:
        nothing = np.zeros(0)
        rate = RateLaw(
            [
                Rate(size["params"], nothing, nothing, size["best"], False)
                for size in rates["sizes"]
            ],
            rates["coefficient"],
            rates["exponent"],
            rates["spread"],
        )
    return Laws(
        law=law,
        cost=Cost(**values["cost"]),
        optima=optima,
        freedom=told["freedom"] if told else 0,
        offset=with_offset,
        rate=rate,
        largest=values["data"]["largest_flops"],
        widening=told["loss_widening"] if told else {},
        sizes=[Size(**size) for size in values["sizes"]],
    )
