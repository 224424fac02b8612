"""`i2i-prior fit`: its files, its output, its errors."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from i2i_prior import cli
from i2i_prior.scaling_laws import plots
from i2i_prior.scaling_laws.diagnostics import diagnose
from i2i_prior.scaling_laws.figures import save_figure
from i2i_prior.scaling_laws.fitting import fit_all
from i2i_prior.scaling_laws.points import Table
from i2i_prior.scaling_laws.recommend import recommend
from i2i_prior.scaling_laws.result import laws_of
from i2i_prior.sweeps.run.store import Sweep, save_sweep
from tests.conftest import ROOT
from tests.scaling_laws.fixtures_laws import (
    coverage,
    planned,
    write_csv,
    write_run,
)


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["fit", *map(str, arguments)])
    return ended.value.code


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    points = coverage.surface(np.random.default_rng(0), 0.001)
    points += coverage.surface(np.random.default_rng(1), 0.001)[::9]
    ids = [str(k) for k in range(len(points))]
    roles = ["fit"] * 48 + ["tune"] * 6
    rates = [1e-3] * 48 + [1e-4, 2e-4, 4e-4, 8e-4, 16e-4, 32e-4]
    path = tmp_path_factory.mktemp("fit") / "runs.csv"
    return write_csv(path, points, id=ids, role=roles, learning_rate=rates)


@pytest.fixture(scope="module")
def fitted(table):
    out = table.with_name("out")
    code = run(
        *("--csv", table, "--out", out, "--bootstrap", 120),
        *("--predict", "1e19,1e21"),
    )
    assert code == 0
    return out, json.loads((out / "laws.json").read_text())


def numbers(value):
    if isinstance(value, dict):
        return all(map(numbers, value.values()))
    return isinstance(value, float | int) or (
        isinstance(value, list) and all(map(numbers, value))
    )


def test_laws_json_keeps_the_contract(fitted):
    _, laws = fitted
    law = laws["parametric"]
    for name, truth in coverage.LAW.items():
        low, high = law["interval_95"][name]
        assert low <= law[name] <= high
        assert law[name] == pytest.approx(truth, rel=0.5)
    for name in ("n_opt", "d_opt", "loss"):
        entry = laws["isoflop"][name]
        assert set(entry) == {"coefficient", "exponent", "interval_95"}
        assert numbers(entry)
        for part in ("coefficient", "exponent"):
            low, high = entry["interval_95"][part]
            assert low <= entry[part] <= high
    assert laws["held_out"]["predictions"]
    assert laws["envelope"]["exponent"] < 0


def test_predictions_come_with_intervals_and_doubts(fitted):
    _, laws = fitted
    near, far = laws["predictions"]
    entry = near["parametric"]["params"]
    assert entry["interval_95"][0] < entry["value"] < entry["interval_95"][1]
    both = near["parametric"]["tokens"]["value"] * entry["value"]
    assert 6 * both == pytest.approx(1e19, rel=1e-6)
    run_low, run_high = near["parametric"]["loss"]["run_interval_95"]
    low, high = near["parametric"]["loss"]["interval_95"]
    assert run_low < low < high < run_high
    assert far["extrapolation"] == pytest.approx(1e21 / 6e18)
    assert any("167 times" in w for w in laws["warnings"])


def test_plots_and_report_are_there_and_whole(fitted):
    out, laws = fitted
    names = {path.stem for path in (out / "plots").glob("*.png")}
    assert names == {
        *("isoflop", "optima", "loss_vs_c"),
        *("contour", "residuals", "pairs"),
    }
    for path in (out / "plots").glob("*.png"):
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5
    page = (out / "report.html").read_text()
    assert page.count("data:image/png") == len(names)
    assert "Warnings" in page
    assert laws["warnings"][0][:20] in page
    assert not list(out.rglob(".*"))


def test_laws_alone_predict_the_same(fitted, capsys):
    out, laws = fitted
    assert run("--laws", out, "--predict", "1e19") == 0
    printed = capsys.readouterr().out
    entry = laws["predictions"][0]["parametric"]["loss"]
    assert f"{entry['value']:.4g}" in printed
    assert f"[{entry['interval_95'][0]:.4g}" in printed


def test_few_runs_give_what_can_be_had_and_say_so(tmp_path, capsys):
    points = coverage.parabolas(np.random.default_rng(0), 0.0)[:16]
    few = [p for p in points if int(p.id) % 8 in (1, 4, 6)]
    path = write_csv(tmp_path / "few.csv", few, ("params", "flops", "loss"))
    assert run("--csv", path, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "tokens = flops / (6 x params)" in printed
    assert "warning: the parametric law takes 8 runs" in printed
    laws = json.loads((tmp_path / "out" / "laws.json").read_text())
    assert laws["parametric"] is None
    assert laws["isoflop"]["n_opt"]["exponent"] == pytest.approx(0.57, abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "one of --runs DIR"),
        (("--csv", "TABLE"), "--out DIR is missing"),
        (("--csv", "none.csv", "--out", "OUT"), "cannot read"),
        (("--csv", "TABLE", "--out", "TABLE"), "is a file"),
        (("--csv", "TABLE", "--out", "OUT", "--predict", "big"), "no budgets"),
        (("--csv", "TABLE", "--out", "OUT", "--bootstrap", "3"), "100 or more"),
        (("--csv", "TABLE", "--out", "OUT", "--holdout", "1e30"), "no run out"),
        (("--csv", "TABLE", "--out", "OUT", "--holdout", "1"), "too few runs"),
        (
            ("--csv", "TABLE", "--out", "OUT", "--accelerator", "h100x8"),
            "add --predict",
        ),
        (("--laws", "OUT"), "goes with --predict"),
        (("--laws", "OUT", "--predict", "1e20"), "no laws.json"),
        (("--runs", "OUT", "--out", "OUT"), "holds no runs"),
    ],
)
def test_bad_options_get_one_sentence(
    table, tmp_path, capsys, arguments, words
):
    places = {"TABLE": table, "OUT": tmp_path / "nothing"}
    assert run(*(places.get(a, a) for a in arguments)) == 1
    printed = capsys.readouterr().err
    assert words in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "nothing").exists()


def test_fitting_imports_no_jax():
    code = (
        "import sys, i2i_prior.scaling_laws.fit_runs, "
        "i2i_prior.scaling_laws.plots, i2i_prior.scaling_laws.report\n"
        "print({'jax', 'scipy', 'matplotlib', 'torch'} & set(sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert ended.stdout.strip() == "set()"


def test_a_sweep_is_fitted_told_apart_and_turned_into_a_recipe(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(plots, "draw", lambda *_: [])  # others look at these
    points = coverage.surface(np.random.default_rng(3), 0.001, 5, 5)
    runs = [
        replace(
            planned(f"r{k}", int(p.n), budget=p.c),
            role="holdout" if p.c == 3e18 else "fit",
            tokens=int(p.d),
            flops=p.c,
            model_flops=p.c,
        )
        for k, p in enumerate(points)
        # of the held-out budget two runs, so no parabola
        if p.c < 3e18 or k % 5 in (2, 3)
    ]
    sweep = Sweep(tmp_path / "sweep", {"name": "s"}, runs)
    save_sweep(sweep)
    loss = {f"r{k}": p.loss for k, p in enumerate(points)}
    for name in (plan.id for plan in runs):
        fid = {"eval/fid": 40 * loss[name]}
        write_run(sweep.workdir(name), value=loss[name], **fid)
    out = tmp_path / "out"
    code = run(
        *("--runs", sweep.path, "--out", out, "--bootstrap", 100),
        *("--predict", "6e18", "--accelerator", "h100x8"),
    )
    assert code == 0
    printed = capsys.readouterr().out
    laws = json.loads((out / "laws.json").read_text())
    assert laws["data"]["held_out"] == 2
    rows = laws["held_out"]["predictions"]
    assert [row["id"] for row in rows if row["law"] == "parametric"] == [
        "r22",
        "r23",
    ]
    assert all(row["inside"] for row in rows[:2])
    best = min(loss["r22"], loss["r23"])
    (row,) = (row for row in rows if row["law"] == "isoflop")
    assert row["actual"] == best
    assert row["id"].startswith("best of 2 at 3e+18 FLOPs")
    # 0.01 is each run's standard error: more than some neighbours differ by
    assert len(laws["neighbours"]) == 16
    assert not all(pair["resolved"] for pair in laws["neighbours"])
    assert any("of 16 neighbours in size" in w for w in laws["warnings"])
    assert laws["other_metrics"][0]["spearman"] == pytest.approx(1.0)
    recipe = laws["predictions"][0]["recipe"]
    assert recipe["batch_size"] == 32
    assert f"{recipe['steps']:,} steps of batch 32" in printed
    assert recipe["chip_hours"] == pytest.approx(8 * recipe["hours"])
    page = (out / "report.html").read_text()
    for words in ("Neighbours in size", "not paired", "chip-hours", "eval/fid"):
        assert words in page
    assert run("--laws", out, "--predict", "6e18") == 0
    assert f"{recipe['steps']:,} steps" in capsys.readouterr().out


def test_losses_that_do_not_fall_are_drawn_and_doubted(tmp_path):
    points = coverage.surface(np.random.default_rng(0), 0.0, 4, 5)
    fitted = fit_all(Table([replace(p, loss=0.7) for p in points]), 0, 100)
    assert any("do not show" in warning for warning in diagnose(fitted, []))
    assert recommend(laws_of(fitted), 1e19)["flops"] == 1e19
    assert fitted.isoflop is None  # not an optimum of rounding
    for picture in (plots.contour, plots.pairs):
        path = save_figure(tmp_path / "flat.png", picture, fitted)
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5


def test_sizes_and_tokens_that_rise_together_are_doubted():
    points = coverage.surface(np.random.default_rng(0), 0.003, 4, 5)
    apart = fit_all(Table(points), 0, 50)
    bound = [replace(p, d=20 * p.n, c=120 * p.n**2) for p in points]
    together = fit_all(Table(bound), 0, 50)
    said = [
        any("rise together" in warning for warning in diagnose(fitted, []))
        for fitted in (apart, together)
    ]
    assert said == [False, True]
