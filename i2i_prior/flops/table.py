"""Cost of a config as a table and as JSON."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from i2i_prior.flops.cost import Cost
from i2i_prior.flops.networks import Networks

_WIDTHS = (27, 15, 18, 10)  # of the columns, characters


def totals(config: ConfigDict, cost: Cost) -> dict[str, float]:
    """Examples and tokens seen, FLOPs and bytes read by the whole run.

    `flops` is C of the laws, `model_flops` has the frozen networks too,
    `six_nd` is the usual estimate of C.
    """
    examples = config.train.steps * config.data.batch_size
    tokens = examples * cost.tokens
    return {
        "steps": config.train.steps,
        "examples": examples,
        "tokens": tokens,
        "flops": examples * cost.training_flops,
        "model_flops": examples * cost.model_flops,
        "total_flops": examples * cost.total_flops,
        "six_nd": 6 * cost.parameters * tokens,
        "data_bytes": examples * cost.data_bytes,
    }


def table(
    config: ConfigDict, model: Networks, cost: Cost, run: dict[str, Any]
) -> str:
    """Text of the parameters, FLOPs and bytes of a run."""
    dit = model.dit
    lines = [
        f"{config.name}: {dit.block}, {dit.depth} layers of {dit.width}, "
        f"{cost.tokens} image and {cost.condition_tokens} condition tokens",
        "",
        *_modules(model),
        "",
        *_training(config, cost),
        "",
        *_whole_run(cost, run),
        "",
        *_bytes(config, cost),
    ]
    return "\n".join(lines)


def _row(*cells: str) -> str:
    """The first cell to the left, numbers to the right."""
    first, *others = cells
    widths = _WIDTHS[1:]
    numbers = (
        f"{cell:>{width}}" for cell, width in zip(others, widths, strict=False)
    )
    return f"{first:<{_WIDTHS[0]}}{''.join(numbers)}".rstrip()


def _modules(model: Networks) -> list[str]:
    everything = 2 * sum(n.whole.macs for n in model.by_name.values())
    unit, scale = ("GFLOPs", 1e9) if everything > 1e10 else ("MFLOPs", 1e6)
    lines = [_row("one example, forward", "parameters", unit, "share")]

    def line(name: str, parameters: int, macs: int) -> str:
        count = f"{parameters:,}" if parameters else ""
        if not macs:
            return _row(name, count)
        flops = f"{2 * macs / scale:,.3f}"
        return _row(name, count, flops, f"{2 * macs / everything:.1%}")

    for name in ("dit", "conditioner", "encoder", "autoencoder"):
        if name not in model.by_name:
            continue
        network = model.by_name[name]
        whole = network.whole
        kind = "" if network.trained else " (frozen)"
        lines.append(line(name + kind, whole.parameters, whole.macs))
        for piece, part in network.parts.items():
            lines.append(line(f"  {piece}", part.parameters, part.macs))
        if whole.scores and network.trained:
            text = "  of it scores and sums"
            lines.append(line(text, 0, whole.scores))
        if network.trained and whole.frozen:
            lines.append(line("  of it never trained", whole.frozen, 0))
    return lines


def _training(config: ConfigDict, cost: Cost) -> list[str]:
    batch = config.data.batch_size
    lines = [_row("training", "GFLOPs", f"a step of {batch:,}", "share")]
    for name, each in (
        ("trained, 3 x forward", cost.training_flops),
        ("frozen encoder", cost.encoder_flops),
        ("frozen autoencoder", cost.autoencoder_flops),
        ("made again by remat", cost.recomputed_flops),
        ("all", cost.total_flops),
    ):
        if each:
            share = f"{each / cost.total_flops:.1%}"
            step = f"{each * batch:.4g}"
            lines.append(_row(name, f"{each / 1e9:,.3f}", step, share))
    return lines


def _whole_run(cost: Cost, run: dict[str, Any]) -> list[str]:
    lines = [
        f"the run: {run['steps']:,} steps, {run['examples']:,} examples, "
        f"{run['tokens']:.4g} tokens",
        _row("N, trained parameters", f"{cost.parameters:,}"),
        _row("D, tokens", f"{run['tokens']:.4g}"),
        _row("C, training FLOPs", f"{run['flops']:.4g}"),
        _row("6 N D", f"{run['six_nd']:.4g}")
        + f"  ({run['six_nd'] / run['flops']:.3f} x C)",
        _row("all FLOPs", f"{run['total_flops']:.4g}"),
    ]
    if "hours" in run:
        lines.append(
            _row("hours", f"{run['hours']:,.2f}")
            + f"  {run['accelerator']}, MFU {run['mfu']:g}; "
            f"{run['chip_hours']:,.1f} chip-hours"
        )
    return lines


def _bytes(config: ConfigDict, cost: Cost) -> list[str]:
    batch = cost.data_bytes * config.data.batch_size
    return [
        "bytes",
        _row("parameters, EMA, moments", _size(cost.state_bytes)),
        _row("gradient", _size(cost.gradient_bytes)),
        _row("checkpoint", _size(cost.checkpoint_bytes)),
        _row("an example", _size(cost.data_bytes)),
        _row("a batch", _size(batch)),
    ]


def _size(count: float) -> str:
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if count < 1024:
            break
        count, unit = count / 1024, larger
    return f"{count:,.0f} B" if unit == "B" else f"{count:,.2f} {unit}"


def as_json(
    config: ConfigDict, model: Networks, cost: Cost, run: dict[str, Any]
) -> dict[str, Any]:
    """JSON form, with multiply-adds (2 FLOPs each) of every piece."""
    return {
        "name": config.name,
        "networks": {
            name: {
                "trained": network.trained,
                "parts": {
                    piece: dataclasses.asdict(part)
                    for piece, part in network.parts.items()
                },
            }
            for name, network in model.by_name.items()
        },
        "cost": dataclasses.asdict(cost),
        "run": run,
    }
