"""TODO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything a run is, as raw arrays.

    Attributes:
      step: int32 scalar, optimizer updates done.
      params: name -> float32, what the optimizer trains.
      frozen: name -> float32, what it never touches.
      ema: as params, the exponential moving average; may be bfloat16.
      opt_state: of the optax chain over params; may be bfloat16.
    """

    # Any: the same tree also carries shapes and shardings.
    step: Any
    params: dict[str, Any]
    frozen: dict[str, Any]
    ema: dict[str, Any]
    opt_state: Any

    def ema_parameters(self) -> dict[str, Any]:
        """All parameters by name, the trained ones from the EMA."""
        return {**self.ema, **self.frozen}
