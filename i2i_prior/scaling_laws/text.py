"""What `i2i-prior fit` prints."""

from __future__ import annotations

import math
from typing import Any

from i2i_prior.scaling_laws.parametric import NAMES


def span(ends: Any) -> str:
    """An interval as [low, high]; nothing where there is none."""
    if not ends or None in ends or not all(map(math.isfinite, ends)):
        return ""
    return f"[{ends[0]:.4g}, {ends[1]:.4g}]"


def summary(values: dict[str, Any]) -> str:
    """laws.json in lines."""
    data = values["data"]
    lines = [
        f"{data['runs']} runs fitted, {data['held_out']} held out, "
        f"{len(data['excluded'])} left out; metric {values['metric']}"
    ]
    lines += [f"note: {note}" for note in data["notes"]]
    lines += [f"left out: {name}: {why}" for name, why in data["excluded"]]
    law = values["parametric"]
    if law:
        lines.append("L = E + A / N^alpha + B / D^beta, 95 % intervals:")
        lines += [
            f"  {name:6} {law[name]:<10.4g} {span(law['interval_95'][name])}"
            for name in NAMES
        ]
        lines.append(
            f"  {law['starts_agreeing']} of {law['starts']} starts agree"
        )
    optima = values["isoflop"]
    if optima:
        lines.append("isoFLOP optima, coefficient x C^exponent:")
        for name in ("n_opt", "d_opt", "loss"):
            entry = optima[name]
            lines.append(
                f"  {name:6} {entry['coefficient']:<10.4g} "
                f"C^{entry['exponent']:.4f} "
                f"{span(entry['interval_95']['exponent'])}"
            )
    lines += _neighbours(values["neighbours"])
    lines += [
        f"{other['metric']} ranks {other['runs']} runs as the loss does by "
        f"{other['spearman']:.2f} (Spearman)"
        for other in values["other_metrics"]
        if math.isfinite(other["spearman"])
    ]
    lines += _held(values)
    lines += [told(found) for found in values["predictions"]]
    lines += [f"warning: {doubt}" for doubt in values["warnings"]]
    return "\n".join(lines)


def _held(values: dict[str, Any]) -> list[str]:
    held = values["held_out"]
    lines = [f"held out: {held['which']}"]
    lines += [
        f"  {row['id']} ({row['law']}): predicted {row['predicted']:.4f}, "
        f"actual {row['actual']:.4f}, {row['error']:+.2%}, 95 % "
        f"{span((row['low'], row['high']))}: "
        f"{'inside' if row['inside'] else 'OUTSIDE'}"
        for row in held["predictions"]
    ]
    calibration = (values["parametric"] or {}).get("calibration")
    if calibration:
        lines.append(
            f"coverage on budgets left out in turns: "
            f"{calibration['covered']:.0%} of {calibration['runs']} runs as "
            f"drawn, {calibration['covered_after']:.0%} after widening "
            f"{calibration['inflation']:.2f} times"
        )
    return lines


def _neighbours(pairs: list[dict[str, Any]]) -> list[str]:
    if not pairs:
        return []
    apart = sum(pair["resolved"] for pair in pairs)
    least = min(pairs, key=lambda pair: pair["ratio"])
    return [
        f"neighbours in size: {apart} of {len(pairs)} are told apart; the "
        f"closest, {least['smaller']} and {least['larger']}, differ by "
        f"{least['difference']:+.4g} +- {least['standard_error']:.2g}"
        f"{'' if least['paired'] else ' (not paired)'}"
    ]


def recipe_told(recipe: dict[str, Any]) -> list[str]:
    """What to start, in sentences."""
    lines = []
    if "nearest" in recipe:
        near = recipe["nearest"]
        fields = "".join(f" {k}={v}" for k, v in near["overrides"].items())
        lines += [
            f"{recipe['steps']:,} steps of batch {recipe['batch_size']}",
            f"nearest config that ran: {near['id']}, {near['params']:.4g} "
            f"parameters, {near['steps']:,} steps{':' if fields else ''}"
            f"{fields}",
        ]
    if "hours" in recipe:
        lines.append(
            f"{recipe['hours']:.3g} hours of {recipe['machine']}, "
            f"{recipe['chip_hours']:.3g} chip-hours; {recipe['assumption']}"
        )
    return lines


def told(found: dict[str, Any]) -> str:
    """One recommendation in lines."""
    lines = [
        f"with {found['flops']:.4g} FLOPs ({found['extrapolation']:.3g} times "
        "the largest run):"
    ]
    if not found.get("parametric") and not found.get("isoflop"):
        lines.append("  no law has an optimum to recommend")
    for law in ("parametric", "isoflop"):
        for name, entry in found.get(law, {}).items():
            lines.append(
                f"  {law:10} {name:16} {entry['value']:<10.4g} "
                f"{span(entry['interval_95'])}"
            )
    rate = found.get("learning_rate")
    if rate:
        lines.append(
            f"  {'learning rate':27} {rate['value']:<10.3g} "
            f"{span(rate['interval_95'])}"
        )
    lines += [f"  {line}" for line in recipe_told(found.get("recipe", {}))]
    return "\n".join(lines)
