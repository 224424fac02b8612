"""report.html of a fit: data, laws, residuals, hold-outs, advice, doubts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.io.disk import write_errors
from i2i_prior.io.files import atomic_path
from i2i_prior.report.html import STYLE, cell, embedded, escape, section
from i2i_prior.scaling_laws.fitting import Fitted
from i2i_prior.scaling_laws.parametric import NAMES
from i2i_prior.scaling_laws.plots import budgets
from i2i_prior.scaling_laws.residuals import gaps_of
from i2i_prior.scaling_laws.text import recipe_told, span


def write_report(
    path: Path,
    fitted: Fitted,
    values: dict[str, Any],
    pictures: list[tuple[Path, str]],
) -> None:
    """Writes the page, pictures inside.

    Args:
      path: report.html.
      fitted: the fit.
      values: of laws.json.
      pictures: files, and what they show.

    Raises:
      UserError: where it cannot be written.
    """
    data = values["data"]
    title = f"Scaling laws of {values['metric']}"
    body = (
        f"<h1>{escape(title)}</h1>"
        f'<p class="soft">{data["runs"]} runs fitted, {data["held_out"]} held '
        f"out, {len(data['excluded'])} left out. Intervals are 95 %, of "
        f"refits to redrawn noise (seed {values['seed']}).</p>"
        + section("Warnings", _list(values["warnings"]))
        + section("Recommended", _advice(values["predictions"]))
        + section(
            "Parametric law: L = E + A / N^alpha + B / D^beta", _law(values)
        )
        + section("Power laws of the compute-optimal run", _optima(values))
        + section("Held out", _held(values))
        + section("Neighbours in size", _neighbours(values["neighbours"]))
        + section("Other metrics", _others(values["other_metrics"]))
        + section("Pictures", _pictures(pictures))
        + section("Residuals by budget", _residuals(fitted))
        + section("Data", _list(data["notes"]) + _left_out(data["excluded"]))
    )
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
        f"<main>{body}</main></html>"
    )
    mend = "free space or choose another --out"
    with write_errors(path, mend), atomic_path(path) as beside:
        beside.write_text(page, "utf-8")


def _table(head: list[str], rows: list[list[Any]]) -> str:
    if not rows:
        return ""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'


def _list(texts: list[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>" if items else ""


def _law(values: dict[str, Any]) -> str:
    law = values["parametric"]
    if not law:
        return ""
    forms = (
        ("Huber on log loss", law),
        ("least absolute", law["least_absolute"]),
        ("least squares of logs", law["least_squares"]),
    )
    rows = [[name, *(form[k] for k in NAMES)] for name, form in forms]
    ends = [span(law["interval_95"][name]) for name in NAMES]
    rows.insert(1, ["its 95 % interval", *ends])
    told = (
        f"{law['starts_agreeing']} of {law['starts']} starts reach the optimum "
        f"(objective {law['objective']:.6g}); noise of a run "
        f"{law['noise']:.2%}; N* goes as C^{law['n_opt_exponent']:.4f} "
        f"{span(law['n_opt_exponent_interval_95'])}."
    )
    return _table(["fit", *NAMES], rows) + f'<p class="soft">{escape(told)}</p>'


def _optima(values: dict[str, Any]) -> str:
    optima = values["isoflop"]
    rows = []
    names = {
        "n_opt": "N_opt, parabolas",
        "akima_n_opt": "N_opt, Akima",
        "d_opt": "D_opt",
        "loss": "loss",
    }
    for key, name in names.items() if optima else ():
        law = optima[key]
        ends = law["interval_95"]
        rows.append(
            [
                name,
                law["coefficient"],
                span(ends["coefficient"]),
                law["exponent"],
                span(ends["exponent"]),
                None,
            ]
        )
    law = optima and optima["loss_with_offset"]
    if law:
        ends = law["interval_95"]
        offset = f"{law['offset']:.4g} {span(ends['offset'])}"
        exponent = span(ends["exponent"])
        rows.append(
            [
                "loss with an offset",
                law["coefficient"],
                None,
                law["exponent"],
                exponent,
                offset,
            ]
        )
    law = values["envelope"]
    if law:
        rows.append(
            [
                f"envelope of {law['of']}",
                law["coefficient"],
                None,
                law["exponent"],
                span(law["interval_95"]["exponent"]),
                None,
            ]
        )
    head = ["law", "coefficient", "95 %", "exponent of C", "95 %", "offset"]
    told = (
        f"The metric is {values['metric']}; its pure power law holds near "
        "these budgets, the form with an offset further out."
    )
    return _table(head, rows) + f'<p class="soft">{escape(told)}</p>' * bool(
        rows
    )


def _held(values: dict[str, Any]) -> str:
    held = values["held_out"]
    rows = [
        [
            row["id"],
            row["law"],
            row["c"],
            row["predicted"],
            row["actual"],
            f"{row['error']:+.2%}",
            span((row["low"], row["high"])),
            "inside" if row["inside"] else "outside",
        ]
        for row in held["predictions"]
    ]
    head = ["run", "law", "FLOPs", "predicted", "actual", "error", "95 %", ""]
    told = [f"Held out: {held['which']}."]
    calibration = (values["parametric"] or {}).get("calibration")
    if calibration:
        told.append(
            f"Coverage on {calibration['runs']} runs of budgets left out in "
            f"turns: {calibration['covered']:.0%} as drawn, "
            f"{calibration['covered_after']:.0%} after widening "
            f"{calibration['inflation']:.2f} times, which the parametric "
            "law's intervals of a loss are."
        )
    wide = (values["isoflop"] or {}).get("loss_widening")
    if wide:
        ratios = ", ".join(f"{law} {ratio:.2f}" for law, ratio in wide.items())
        told.append(
            "The isoFLOP laws' intervals of a loss are widened to hold the "
            f"optima of budgets left out in turns, times: {ratios}."
        )
    return f"<p>{escape(' '.join(told))}</p>" + _table(head, rows)


def _advice(predictions: list[dict[str, Any]]) -> str:
    rows = []
    for found in predictions:
        for law in ("parametric", "isoflop"):
            if law not in found:
                continue
            entries = [
                f"{entry['value']:.4g} {span(entry['interval_95'])}"
                for name, entry in found[law].items()
                if name != "loss_with_offset"
            ]
            floor = found[law].get("loss_with_offset")
            entries.append(
                f"{floor['value']:.4g} {span(floor['interval_95'])}"
                if floor
                else ""
            )
            rate = found.get("learning_rate")
            rows.append(
                [
                    found["flops"],
                    f"{found['extrapolation']:.3g} x",
                    law,
                    *entries,
                    rate and f"{rate['value']:.3g} {span(rate['interval_95'])}",
                ]
            )
    head = ["FLOPs", "of the largest", "law", "N*", "D*", "D/N", "loss"]
    told = [
        f"{found['flops']:.4g} FLOPs: {'; '.join(lines)}."
        for found in predictions
        if (lines := recipe_told(found.get("recipe", {})))
    ]
    return _table([*head, "loss with an offset", "learning rate"], rows) + (
        _list(told)
    )


def _neighbours(pairs: list[dict[str, Any]]) -> str:
    if not pairs:
        return ""
    rows = [
        [
            pair["c"],
            pair["smaller"],
            pair["larger"],
            f"{pair['difference']:+.5f}",
            f"{pair['standard_error']:.5f}",
            f"{pair['ratio']:.1f}",
            "" if pair["paired"] else "not paired",
            "" if pair["resolved"] else "not told apart",
        ]
        for pair in pairs
    ]
    told = (
        "Loss of the larger less that of the smaller, over the same images "
        "and noise, and its standard error. What another seed of training "
        "would change is not in it."
    )
    head = ["FLOPs", "smaller", "larger", "difference", "standard error"]
    return f'<p class="soft">{told}</p>' + _table(
        [*head, "ratio", "", ""], rows
    )


def _others(others: list[dict[str, Any]]) -> str:
    rows = [
        [
            other["metric"],
            other["runs"],
            other["spearman"],
            f"{other['p_value']:.2g}",
        ]
        for other in others
    ]
    return _table(["metric", "runs", "Spearman with the loss", "p"], rows)


def _residuals(fitted: Fitted) -> str:
    if fitted.law is None:
        return ""
    rows = []
    for c, group in budgets(fitted):
        gaps = 100 * np.expm1(gaps_of(fitted, group))
        rows.append(
            [
                c,
                len(group),
                f"{gaps.mean():+.2f} %",
                f"{np.abs(gaps).mean():.2f} %",
                f"{gaps[np.abs(gaps).argmax()]:+.2f} %",
            ]
        )
    return _table(["FLOPs", "runs", "mean", "mean size", "largest"], rows)


def _pictures(pictures: list[tuple[Path, str]]) -> str:
    figures = "".join(
        f'<figure class="plot">{embedded(path, what)}'
        f"<figcaption>{escape(what)}</figcaption></figure>"
        for path, what in pictures
    )
    return f'<div class="plots">{figures}</div>' if figures else ""


def _left_out(excluded: list[list[str]]) -> str:
    return _table(["left out", "why"], [list(pair) for pair in excluded])
