"""Machine that the hours and the price of planned runs are estimated for."""

from dataclasses import dataclass

from i2i_prior.errors import UserError


@dataclass(frozen=True)
class Machine:
    """Machine that trains the runs, one run at a time on all of its chips."""

    name: str  # as given on the command line
    chips: int
    flops: float  # sustained FLOP/s of all chips: peak times MFU, or measured
    assumption: str  # of the estimate, as a sentence
    price: float | None = None  # of a chip-hour, in any currency

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
    """Returns the machine of the options, None if they name none.

    Args:
      accelerator: a topology as `h100x8` or `v5e:4x4`.
      mfu: share of the bf16 peak that training reaches, 0 to 1.
      measured: FLOP/s measured on the machine (on one chip without
        `accelerator`), used instead of peak and MFU.
      price: of a chip-hour.

    Raises:
      UserError: for an unknown accelerator, a number out of range, or a price
        without a machine.
    """
    if price is not None and not 0 <= price < float("inf"):
        raise UserError(f"--price-per-chip-hour is {price:g}; give 0 or more")
    if measured is not None and not 0 < measured < float("inf"):
        raise UserError(f"--flops-per-second is {measured:g}; give more than 0")
    if not 0 < mfu <= 1:
        raise UserError(f"--mfu is {mfu}; it is a share, above 0 and up to 1")
    if accelerator is None and measured is not None:
        name = f"a machine of {measured:g} FLOP/s"
        assumption = "the measured FLOP/s are taken to hold for all runs"
        return Machine(name, 1, measured, assumption, price)
    if accelerator is None and price is not None:
        raise UserError(
            "--price-per-chip-hour needs a machine; add --accelerator, as "
            "h100x8"
        )
    if accelerator is None:
        return None
    from i2i_prior.aot.topologies import parse_topology

    topology = parse_topology(accelerator)
    flops = measured or topology.chips * topology.chip.flops * mfu
    assumption = (
        f"an MFU of {mfu:g} is an assumption (small models reach less)"
        if measured is None
        else f"{measured:g} measured FLOP/s are taken to hold for all runs"
    )
    return Machine(accelerator, topology.chips, flops, assumption, price)
