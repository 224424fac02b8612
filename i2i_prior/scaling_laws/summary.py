"""Fitted laws as text for the terminal."""

import math
from typing import Any

from i2i_prior.scaling_laws.laws import OPTIMA
from i2i_prior.scaling_laws.parametric import NAMES

Values = dict[str, Any]


def summary(values: Values) -> str:
    """The contents of laws.json as lines of text."""
    data, law = values["data"], values["parametric"]
    optima, pairs = values["isoflop"], values["neighbours"]
    lines = [f"{counts_text(data)}; metric {values['metric']}"]
    lines += [f"note: {note}" for note in data["notes"]]
    lines += [f"left out: {name}: {why}" for name, why in data["excluded"]]
    if law:
        lines.append("L = E + A / N^alpha + B / D^beta, 95 % intervals:")
        lines += [
            f"  {name:6} {law[name]:<10.4g} {span(law['interval_95'][name])}"
            for name in NAMES
        ]
        agreeing = f"{law['starts_agreeing']} of {law['starts']}"
        lines.append(f"  {agreeing} starts agree")
    if optima:
        lines.append("isoFLOP optima, coefficient x C^exponent:")
        lines += [
            f"  {name:6} {optima[name]['coefficient']:<10.4g} "
            f"C^{optima[name]['exponent']:.4f} "
            f"{span(optima[name]['interval_95']['exponent'])}"
            for name in OPTIMA
        ]
    if pairs:
        apart = sum(pair["resolved"] for pair in pairs)
        least = min(pairs, key=lambda pair: pair["ratio"])
        lines.append(
            f"neighbours in size: {apart} of {len(pairs)} are told apart; the "
            f"closest, {least['smaller']} and {least['larger']}, differ by "
            f"{least['difference']:+.4g} +- {least['standard_error']:.2g}"
            f"{'' if least['paired'] else ' (not paired)'}"
        )
    lines += [
        f"{other['metric']} ranks {other['runs']} runs as the loss does by "
        f"{other['spearman']:.2f} (Spearman)"
        for other in values["other_metrics"]
        if math.isfinite(other["spearman"])
    ]
    lines.append(f"held out: {values['held_out']['which']}")
    lines += [
        f"  {row['id']} ({row['law']}): predicted {row['predicted']:.4f}, "
        f"actual {row['actual']:.4f}, {row['error']:+.2%}, 95 % "
        f"{span((row['low'], row['high']))}: "
        f"{'inside' if row['inside'] else 'OUTSIDE'}"
        for row in values["held_out"]["predictions"]
    ]
    if coverage := coverage_text(values):
        lines.append(f"coverage {coverage}")
    lines += [recommendation(found) for found in values["predictions"]]
    lines += [f"warning: {warning}" for warning in values["warnings"]]
    return "\n".join(lines)


def counts_text(data: Values) -> str:
    return (
        f"{data['runs']} runs fitted, {data['held_out']} held out, "
        f"{len(data['excluded'])} left out"
    )


def coverage_text(values: Values) -> str:
    """Calibration of the parametric law in words; "" for none."""
    found = (values["parametric"] or {}).get("calibration")
    if not found:
        return ""
    return (
        f"on budgets left out in turns: {found['covered']:.0%} of "
        f"{found['runs']} runs as drawn, {found['covered_after']:.0%} after "
        f"widening {found['inflation']:.2f} times"
    )


def recommendation(found: Values) -> str:
    """A recommendation as lines of text."""
    lines = [
        f"with {found['flops']:.4g} FLOPs ({found['extrapolation']:.3g} times "
        "the largest run):"
    ]
    if not found.get("parametric") and not found.get("isoflop"):
        lines.append("  no law has an optimum to recommend")
    for law in ("parametric", "isoflop"):
        lines += [
            f"  {law:10} {name:16} {estimate_text(entry, '<10.4g')}"
            for name, entry in found.get(law, {}).items()
        ]
    if rate := found.get("learning_rate"):
        lines.append(f"  {'learning rate':27} {estimate_text(rate, '<10.3g')}")
    lines += [f"  {line}" for line in recipe_lines(found)]
    return "\n".join(lines)


def recipe_lines(found: Values) -> list[str]:
    """The run to start by a recommendation, in sentences."""
    recipe = found.get("recipe", {})
    lines = []
    if near := recipe.get("nearest"):
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


def span(ends: Any) -> str:
    """An interval as [low, high]; empty where it is not finite."""
    if not ends or None in ends or not all(map(math.isfinite, ends)):
        return ""
    return f"[{ends[0]:.4g}, {ends[1]:.4g}]"


def estimate_text(entry: Values, form: str = ".4g") -> str:
    """A value with its interval."""
    return f"{entry['value']:{form}} {span(entry['interval_95'])}"
