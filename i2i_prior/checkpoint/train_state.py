"""Training state: parameters, their average and the optimizer's state."""

from dataclasses import dataclass
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Training state of a run, as raw arrays by name."""

    # Any: the same tree also carries shapes and shardings.
    step: Any  # int32 scalar, optimizer updates done
    params: dict[str, Any]  # float32, the trained parameters
    frozen: dict[str, Any]  # float32, the parameters that are not trained
    ema: dict[str, Any]  # moving average of params; may be bfloat16
    opt_state: Any  # of the optax chain over params; may be bfloat16

    def ema_parameters(self) -> dict[str, Any]:
        """Returns all parameters by name, the trained ones from the EMA."""
        return {**self.ema, **self.frozen}
