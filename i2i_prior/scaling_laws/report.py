"""Fitted laws as text for the terminal, and as report.html."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.io.disk import write_errors
from i2i_prior.report import html
from i2i_prior.scaling_laws.fitting import LawFit
from i2i_prior.scaling_laws.laws import OPTIMA, REMEDY
from i2i_prior.scaling_laws.parametric import NAMES
from i2i_prior.scaling_laws.points import groups, mean_flops

Values = dict[str, Any]


def summary(values: Values) -> str:
    """The contents of laws.json as lines of text."""
    data, law = values["data"], values["parametric"]
    optima, pairs = values["isoflop"], values["neighbours"]
    lines = [f"{_counts(data)}; metric {values['metric']}"]
    lines += [f"note: {note}" for note in data["notes"]]
    lines += [f"left out: {name}: {why}" for name, why in data["excluded"]]
    if law:
        lines.append("L = E + A / N^alpha + B / D^beta, 95 % intervals:")
        lines += [
            f"  {name:6} {law[name]:<10.4g} {_span(law['interval_95'][name])}"
            for name in NAMES
        ]
        agreeing = f"{law['starts_agreeing']} of {law['starts']}"
        lines.append(f"  {agreeing} starts agree")
    if optima:
        lines.append("isoFLOP optima, coefficient x C^exponent:")
        lines += [
            f"  {name:6} {optima[name]['coefficient']:<10.4g} "
            f"C^{optima[name]['exponent']:.4f} "
            f"{_span(optima[name]['interval_95']['exponent'])}"
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
        f"{_span((row['low'], row['high']))}: "
        f"{'inside' if row['inside'] else 'OUTSIDE'}"
        for row in values["held_out"]["predictions"]
    ]
    if coverage := _coverage(values):
        lines.append(f"coverage {coverage}")
    lines += [recommendation(found) for found in values["predictions"]]
    lines += [f"warning: {warning}" for warning in values["warnings"]]
    return "\n".join(lines)


def _counts(data: Values) -> str:
    return (
        f"{data['runs']} runs fitted, {data['held_out']} held out, "
        f"{len(data['excluded'])} left out"
    )


def _coverage(values: Values) -> str:
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
            f"  {law:10} {name:16} {_estimate(entry, '<10.4g')}"
            for name, entry in found.get(law, {}).items()
        ]
    if rate := found.get("learning_rate"):
        lines.append(f"  {'learning rate':27} {_estimate(rate, '<10.3g')}")
    lines += [f"  {line}" for line in _recipe(found)]
    return "\n".join(lines)


def _recipe(found: Values) -> list[str]:
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


def _span(ends: Any) -> str:
    """An interval as [low, high]; empty where it is not finite."""
    if not ends or None in ends or not all(map(math.isfinite, ends)):
        return ""
    return f"[{ends[0]:.4g}, {ends[1]:.4g}]"


def _estimate(entry: Values, form: str = ".4g") -> str:
    """A value with its interval."""
    return f"{entry['value']:{form}} {_span(entry['interval_95'])}"


def write_report(
    path: Path, fit: LawFit, values: Values, pictures: list[tuple[Path, str]]
) -> None:
    """Writes the page with pictures (file, caption). Raises UserError."""
    data = values["data"]
    figures = "".join(
        html.figure(caption, html.embedded(file, caption), "plot")
        for file, caption in pictures
    )
    subtitle = (
        f"{_counts(data)}; intervals are 95 %, of refits to redrawn noise "
        f"(seed {values['seed']})"
    )
    sections = {
        "Warnings": _list(values["warnings"]),
        "Recommended": _recommended(values["predictions"]),
        "Parametric law: L = E + A / N^alpha + B / D^beta": _parametric(
            values["parametric"]
        ),
        "Power laws of the compute-optimal run": _optima(values),
        "Held out": _held_out(values),
        "Neighbours in size": _neighbours(values["neighbours"]),
        "Other metrics": html.table(
            ["metric", "runs", "Spearman with the loss", "p"],
            [
                (
                    *(each[key] for key in ("metric", "runs", "spearman")),
                    f"{each['p_value']:.2g}",
                )
                for each in values["other_metrics"]
            ],
        ),
        "Pictures": figures and f'<div class="plots">{figures}</div>',
        "Residuals by budget": _residuals(fit),
        "Data": _list(data["notes"])
        + html.table(["left out", "why"], data["excluded"]),
    }
    body = "".join(html.section(*each) for each in sections.items())
    title = f"Scaling laws of {values['metric']}"
    with write_errors(path, REMEDY):
        html.write_page(path, title, subtitle, body)


def _list(texts: list[str]) -> str:
    items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
    return items and f"<ul>{items}</ul>"


def _note(text: str) -> str:
    return f'<p class="soft">{html.escape(text)}</p>'


def _parametric(law: Values | None) -> str:
    if not law:
        return ""
    forms = {
        "Huber on log loss": law,
        "least absolute": law["least_absolute"],
        "least squares of logs": law["least_squares"],
    }
    rows = [[name, *map(form.get, NAMES)] for name, form in forms.items()]
    ends = law["interval_95"]
    rows.insert(1, ["its 95 % interval", *(_span(ends[k]) for k in NAMES)])
    return html.table(["fit", *NAMES], rows) + _note(
        f"{law['starts_agreeing']} of {law['starts']} starts reach the optimum "
        f"(objective {law['objective']:.6g}); noise of a run "
        f"{law['noise']:.2%}; N* goes as C^{law['n_opt_exponent']:.4f} "
        f"{_span(law['n_opt_exponent_interval_95'])}."
    )


def _optima(values: Values) -> str:
    laws = {}
    if optima := values["isoflop"]:
        laws = {
            "N_opt, parabolas": optima["n_opt"],
            "N_opt, Akima": optima["akima_n_opt"],
            "D_opt": optima["d_opt"],
            "loss": optima["loss"],
            "loss with an offset": optima["loss_with_offset"],
        }
    if lowest := values["envelope"]:
        laws[f"envelope of {lowest['of']}"] = lowest
    rows = []
    for name, law in laws.items():
        if law:
            ends = law["interval_95"]
            row = [name, law["coefficient"], _span(ends.get("coefficient"))]
            row += [law["exponent"], _span(ends["exponent"]), None]
            if "offset" in law:
                row[-1] = f"{law['offset']:.4g} {_span(ends['offset'])}"
            rows.append(row)
    head = ["law", "coefficient", "95 %", "exponent of C", "95 %", "offset"]
    note = _note(
        f"The metric is {values['metric']}; its pure power law holds near "
        "these budgets, the form with an offset further out."
    )
    return html.table(head, rows) + note if rows else ""


def _held_out(values: Values) -> str:
    rows = [
        [row[key] for key in ("id", "law", "c", "predicted", "actual")]
        + [f"{row['error']:+.2%}", _span((row["low"], row["high"]))]
        + ["inside" if row["inside"] else "outside"]
        for row in values["held_out"]["predictions"]
    ]
    head = ["run", "law", "FLOPs", "predicted", "actual", "error", "95 %", ""]
    text = f"Held out: {values['held_out']['which']}."
    if coverage := _coverage(values):
        text += (
            f" Coverage {coverage}, which the parametric law's intervals of a "
            "loss are."
        )
    if wide := (values["isoflop"] or {}).get("loss_widening"):
        ratios = ", ".join(f"{law} {ratio:.2f}" for law, ratio in wide.items())
        text += (
            " The isoFLOP laws' intervals of a loss are widened to hold the "
            f"optima of budgets left out in turns, times: {ratios}."
        )
    return f"<p>{html.escape(text)}</p>" + html.table(head, rows)


def _recommended(predictions: list[Values]) -> str:
    rows = []
    names = ("params", "tokens", "tokens_per_param", "loss", "loss_with_offset")
    for found in predictions:
        rate = found.get("learning_rate")
        for law in ("parametric", "isoflop"):
            if law in found:
                entries = map(found[law].get, names)
                rows.append(
                    [found["flops"], f"{found['extrapolation']:.3g} x", law]
                    + [entry and _estimate(entry) for entry in entries]
                    + [rate and _estimate(rate, ".3g")]
                )
    head = ["FLOPs", "of the largest", "law", "N*", "D*", "D/N", "loss"]
    recipes = [
        f"{found['flops']:.4g} FLOPs: {'; '.join(lines)}."
        for found in predictions
        if (lines := _recipe(found))
    ]
    head += ["loss with an offset", "learning rate"]
    return html.table(head, rows) + _list(recipes)


def _neighbours(pairs: list[Values]) -> str:
    if not pairs:
        return ""
    rows = [
        [
            *(pair["c"], pair["smaller"], pair["larger"]),
            f"{pair['difference']:+.5f}",
            f"{pair['standard_error']:.5f}",
            f"{pair['ratio']:.1f}",
            "" if pair["paired"] else "not paired",
            "" if pair["resolved"] else "not told apart",
        ]
        for pair in pairs
    ]
    head = ["FLOPs", "smaller", "larger", "difference", "standard error"]
    return _note(
        "Loss of the larger less that of the smaller, over the same images "
        "and noise, and its standard error. What another seed of training "
        "would change is not in it."
    ) + html.table([*head, "ratio", "", ""], rows)


def _residuals(fit: LawFit) -> str:
    if fit.law is None:
        return ""
    rows = []
    for group in groups(fit.points):
        gaps = 100 * np.expm1(fit.residuals(group))
        worst = gaps[np.abs(gaps).argmax()]
        percent = [f"{gaps.mean():+.2f} %", f"{np.abs(gaps).mean():.2f} %"]
        percent.append(f"{worst:+.2f} %")
        rows.append([mean_flops(group), len(group), *percent])
    return html.table(["FLOPs", "runs", "mean", "mean size", "largest"], rows)
