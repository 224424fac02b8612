"""Fitted laws on disk: laws.json, draws.npz, and the laws in them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from i2i_prior.checkpoint.run_dir import read_json, write_json
from i2i_prior.errors import UserError
from i2i_prior.io.disk import write_errors
from i2i_prior.io.files import atomic_path, nan_to_null
from i2i_prior.scaling_laws.parametric import NAMES
from i2i_prior.scaling_laws.power_laws import OffsetLaw, PowerLaw
from i2i_prior.scaling_laws.rates import RateLaw
from i2i_prior.scaling_laws.uncertainty import Cost, ParametricLaw

OPTIMA = ("n_opt", "d_opt", "loss")
REMEDY = "choose another --out"


@dataclass(frozen=True)
class Laws:
    """Fitted laws, as they are saved, printed, reported and predicted from.

    Attributes:
      values: of laws.json, null for a part with too few runs. parametric: E,
        A, B, alpha, beta, interval_95 {name: [low, high]}, ...; isoflop:
        n_opt, d_opt, loss, each {coefficient, exponent, interval_95},
        loss_with_offset, akima_n_opt, curves, ...
      draws: of draws.npz: refits (b, k) of the intervals, by law.
    """

    values: dict[str, Any]
    draws: dict[str, np.ndarray]

    @property
    def cost(self) -> Cost:
        """FLOPs over sizes and tokens."""
        return Cost(**self.values["cost"])

    @property
    def parametric(self) -> ParametricLaw | None:
        """The parametric law; None for too few runs."""
        fit = self.values["parametric"]
        return fit and ParametricLaw(
            values=np.array([fit[name] for name in NAMES]),
            draws=self.draws["parametric"],
            freedom=fit["freedom"],
            noise=fit["noise"],
            inflation=(fit["calibration"] or {"inflation": 1.0})["inflation"],
        )

    @property
    def optima(self) -> dict[str, PowerLaw]:
        """Power laws of `OPTIMA` over FLOPs; {} for too few budgets."""
        fit = self.values["isoflop"]
        return {
            k: PowerLaw(
                fit[k]["coefficient"], fit[k]["exponent"], self.draws[k]
            )
            for k in OPTIMA
            if fit
        }

    @property
    def offset(self) -> OffsetLaw | None:
        """Law of the loss with an offset; None for too few budgets."""
        form = (self.values["isoflop"] or {}).get("loss_with_offset")
        return form and OffsetLaw(
            offset=form["offset"],
            coefficient=form["coefficient"],
            exponent=-form["exponent"],
            draws=self.draws["offset"],
        )

    @property
    def rate(self) -> RateLaw | None:
        """Best learning rate over sizes; None where it has no law."""
        fit = self.values["learning_rate"]
        if not fit or fit["coefficient"] is None:
            return None
        sizes = [size["params"] for size in fit["sizes"]]
        return RateLaw(
            sizes, fit["coefficient"], fit["exponent"], fit["spread"]
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads what `save` wrote. Raises UserError where there are no laws."""
        file = folder / "laws.json"
        if not file.exists():
            raise UserError(
                f"{folder} has no laws.json; fit first: i2i-prior fit --runs "
                f"SWEEP --out {folder}"
            )
        values = read_json(file)
        try:
            with np.load(folder / "draws.npz") as arrays:
                laws = cls(values, dict(arrays))
            for part in ("cost", "parametric", "optima", "offset", "rate"):
                getattr(laws, part)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{folder} holds no laws of this version ({error}); fit again"
            ) from error
        return laws

    def save(self, folder: Path) -> None:
        """Writes draws.npz, then laws.json. Raises UserError."""
        file = folder / "draws.npz"
        with (
            write_errors(file, REMEDY),
            atomic_path(file) as path,
            path.open("wb") as stream,
        ):
            np.savez_compressed(stream, **self.draws)  # type: ignore[arg-type]
        write_json(folder / "laws.json", nan_to_null(self.values), REMEDY)
