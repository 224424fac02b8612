"""Fitted laws as report.html."""

from pathlib import Path

import numpy as np

from i2i_prior.io.disk import write_errors
from i2i_prior.report import html
from i2i_prior.scaling_laws.fitting import LawFit
from i2i_prior.scaling_laws.laws import REMEDY
from i2i_prior.scaling_laws.parametric import NAMES
from i2i_prior.scaling_laws.points import groups, mean_flops
from i2i_prior.scaling_laws.summary import (
    Values,
    counts_text,
    coverage_text,
    estimate_text,
    recipe_lines,
    span,
)


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
        f"{counts_text(data)}; intervals are 95 %, of refits to redrawn noise "
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
    rows.insert(1, ["its 95 % interval", *(span(ends[k]) for k in NAMES)])
    return html.table(["fit", *NAMES], rows) + _note(
        f"{law['starts_agreeing']} of {law['starts']} starts reach the optimum "
        f"(objective {law['objective']:.6g}); noise of a run "
        f"{law['noise']:.2%}; N* goes as C^{law['n_opt_exponent']:.4f} "
        f"{span(law['n_opt_exponent_interval_95'])}."
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
            row = [name, law["coefficient"], span(ends.get("coefficient"))]
            row += [law["exponent"], span(ends["exponent"]), None]
            if "offset" in law:
                row[-1] = f"{law['offset']:.4g} {span(ends['offset'])}"
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
        + [f"{row['error']:+.2%}", span((row["low"], row["high"]))]
        + ["inside" if row["inside"] else "outside"]
        for row in values["held_out"]["predictions"]
    ]
    head = ["run", "law", "FLOPs", "predicted", "actual", "error", "95 %", ""]
    text = f"Held out: {values['held_out']['which']}."
    if coverage := coverage_text(values):
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
                    + [entry and estimate_text(entry) for entry in entries]
                    + [rate and estimate_text(rate, ".3g")]
                )
    head = ["FLOPs", "of the largest", "law", "N*", "D*", "D/N", "loss"]
    recipes = [
        f"{found['flops']:.4g} FLOPs: {'; '.join(lines)}."
        for found in predictions
        if (lines := recipe_lines(found))
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
