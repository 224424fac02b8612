"""Machine that the hours of a plan are computed for."""

from __future__ import annotations

from dataclasses import dataclass

from i2i_prior.errors import UserError


@dataclass(frozen=True)
class Machine:
    """Machine that trains the runs, one run on all of it.

    Attributes:
      name: as it was asked for.
      chips: of it.
      flops: that it does, FLOP/s: all chips, after the MFU.
      assumption: what of this is not known but assumed, in words.
      price: of a chip-hour, in whatever currency it was given in; None: not
        known, for list prices differ too much to ship one.
    """

    name: str
    chips: int
    flops: float
    assumption: str
    price: float | None = None

    def hours(self, flops: float) -> float:
        """Wall time of a number of FLOPs, hours."""
        return flops / self.flops / 3600

    def cost(self, flops: float) -> float | None:
        """Price of a number of FLOPs; None without a price."""
        if self.price is None:
            return None
        return self.hours(flops) * self.chips * self.price


def machine(
    accelerator: str | None,
    mfu: float,
    measured: float | None,
    price: float | None = None,
) -> Machine | None:
    """The machine of the options; None where none is named.

    Args:
      accelerator: a topology as `h100x8` or `v5e:4x4`.
      mfu: share of the bf16 peak that training reaches, 0 to 1.
      measured: FLOP/s that the machine (one chip where none is named) was
        seen to reach, instead of peak and MFU.
      price: of a chip-hour.

    Raises:
      UserError: for an unknown accelerator, numbers out of range, or a price
        of no machine.
    """
    if price is not None and not 0 <= price < float("inf"):
        raise UserError(f"--price-per-chip-hour is {price:g}; give 0 or more")
    if measured is not None and not 0 < measured < float("inf"):
        raise UserError(f"--flops-per-second is {measured:g}; give more than 0")
    if not 0 < mfu <= 1:
        raise UserError(f"--mfu is {mfu}; it is a share, above 0 and up to 1")
    if accelerator is None:
        if measured is not None:
            name = f"a machine of {measured:g} FLOP/s"
            said = "the measured FLOP/s are taken to hold for all runs"
            return Machine(name, 1, measured, said, price)
        if price is not None:
            raise UserError(
                "--price-per-chip-hour needs a machine; add --accelerator, as "
                "h100x8"
            )
        return None
    from i2i_prior.aot.topologies import parse_topology

    topology = parse_topology(accelerator)
    if measured is not None:
        said = f"{measured:g} measured FLOP/s are taken to hold for all runs"
        return Machine(accelerator, topology.chips, measured, said, price)
    peak = topology.chips * topology.chip.flops
    said = f"an MFU of {mfu:g} is an assumption (small models reach less)"
    return Machine(accelerator, topology.chips, peak * mfu, said, price)
