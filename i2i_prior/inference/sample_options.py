"""Options of the sampler: a config's, with what is given in their place."""

from __future__ import annotations

import dataclasses
import math
import numbers
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from i2i_prior.errors import UserError


@dataclass(frozen=True)
class SampleOptions:
    """Options of the sampler; hashable, so that each setting compiles once."""

    solver: str = "dpmpp_2m"  # a name of `diffusion.solvers.SOLVERS`
    steps: int = 20
    guided: bool = True  # runs the null half
    interval: tuple[float, float] = (0.0, 1.0)  # times when guidance acts
    lower_order_final: bool = True  # of multistep solvers
    clip: float = 0.0  # bound of every estimate of x0; 0 for none
    null_mask: str = "full"  # see `tasks.conditions.with_null`

    @classmethod
    def from_config(cls, section: Any) -> SampleOptions:
        """Reads the `sample` section of a config."""
        names = ("solver", "steps", "lower_order_final", "clip", "null_mask")
        return cls(
            guided=section.guidance != 1,
            interval=(section.guidance_low, section.guidance_high),
            **{name: section[name] for name in names},
        )

    @classmethod
    def resolve(
        cls,
        config: ConfigDict,
        steps: int | None = None,
        guidance: float | None = None,
        solver: str | None = None,
        lower_order_final: bool | None = None,
        null_mask: str | None = None,
    ) -> tuple[SampleOptions, float]:
        """Options of the config with what is given, and the guidance scale.

        Raises UserError where guidance is no number.
        """
        options, scale = cls.from_config(config.sample), guidance
        if scale is None:
            scale = config.sample.guidance
        if not isinstance(scale, numbers.Real) or not math.isfinite(scale):
            raise UserError(f"guidance is {scale!r}; give a number, 1 for none")
        steps = options.steps if steps is None else steps
        if lower_order_final is None:
            # The official text-to-image samplers take one below 10 steps.
            few = config.conditioner.tokens_from == "tokens" and steps < 10
            lower_order_final = options.lower_order_final or few
        return dataclasses.replace(
            options,
            solver=options.solver if solver is None else solver,
            steps=steps,
            guided=scale != 1,
            lower_order_final=lower_order_final,
            null_mask=null_mask or options.null_mask,
        ), float(scale)
