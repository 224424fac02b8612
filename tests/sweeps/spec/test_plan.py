"""From points to a folder: ids, counts, what is refused, planning again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time

import pytest

from i2i_prior.aot.machine import machine
from i2i_prior.config import flatten, frozen_config
from i2i_prior.errors import UserError
from i2i_prior.flops.cost import run_cost
from i2i_prior.parallel.chips import CHIPS
from i2i_prior.sweeps.plan_table import as_text
from i2i_prior.sweeps.planning import plan_folder
from i2i_prior.sweeps.run.store import open_sweep
from i2i_prior.sweeps.spec.algebra import axis, chain, derived, product
from i2i_prior.sweeps.spec.plan import SweepSpec, make_plan, run_name
from i2i_prior.sweeps.spec.rules import Proportions, of_flops, of_tokens

FILE = """
from i2i_prior.config import load_config, parse_arg
from i2i_prior.sweeps.spec.algebra import axis, listed, product
from i2i_prior.sweeps.spec.plan import SweepSpec

def get_sweep(arg=""):
    options = parse_arg(arg, rates="1e-3+2e-3", depths="1")
    base = load_config({tiny!r})
    rates = axis("optim.learning_rate", listed(options.rates, float))
    depths = axis("model.depth", listed(options.depths, int))
    return SweepSpec("rates", base, product(rates, depths))
"""


@pytest.fixture
def file(tmp_path, tiny_spec):
    path = tmp_path / "rates.py"
    path.write_text(FILE.format(tiny=tiny_spec))
    return str(path)


@pytest.fixture
def spec(tiny):
    def make(points, *overrides):
        return SweepSpec("made", tiny(*overrides), points)

    return make


def contents(folder):
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_counts_are_those_of_the_config(spec):
    seeds = axis("seed", [0, 1])
    widths = axis("model.width", [32, 64])
    made = make_plan(spec(product(widths, seeds)), lambda source: 24)
    assert [run.name for run in made.runs] == [
        *("w32-s0", "w32-s1", "w64-s0", "w64-s1")
    ]
    for run in made.runs:
        config = frozen_like(made.configs[run.id])
        cost = run_cost(config)
        assert config.model.width == run.labels["width"]
        assert config.name == run.name
        assert run.parameters == cost.parameters
        assert run.examples == 6 * 8
        assert run.tokens == 6 * 8 * 4
        assert run.flops == 48 * cost.training_flops
        assert run.epochs == 2
    # The base's own width is no override; one learns more parameters.
    assert "model.width" not in made.runs[0].overrides
    assert made.runs[2].parameters > 2 * made.runs[0].parameters


def frozen_like(flat):
    from i2i_prior.config import from_flat

    return from_flat(flat)


def test_ids_hang_on_what_a_run_does_and_on_nothing_else(spec):
    def ids(points, *overrides):
        return [run.id for run in make_plan(spec(points, *overrides)).runs]

    seeds = axis("seed", [0, 1])
    assert ids(seeds) == ids(seeds, "name=other")
    assert ids(seeds)[:1] == ids(seeds[:1])
    for change in ("train.steps=7", "mesh.fsdp=1", "sample.steps=3"):
        assert not set(ids(seeds)) & set(ids(seeds, change))


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        ({"size": "w192", "budget": 1e13}, "w192-b1e13"),
        ({"learning_rate": 1e-05, "seed": 3}, "lr1e-5-s3"),
        ({"mup": True, "qk_norm": False}, "mup-no_qk_norm"),
        ({"source": "tar:/a b/*.tar"}, "tar_a_b_.tar"),
        ({"x": "../.."}, "run"),
        ({"size": "w" * 99}, "w" * 48),
    ],
)
def test_names_are_short_and_safe(labels, name):
    assert run_name(labels) == name


def test_rules_see_the_whole_config_in_turn(spec):
    points = derived(
        axis("data.batch_size", [8, 16]),
        lambda draft: {"train.steps": 160 // draft.config.data.batch_size},
    )
    points = derived(
        points,
        lambda draft: {"optim.warmup_steps": draft.config.train.steps // 5},
    )
    made = make_plan(spec(points))
    assert [run.steps for run in made.runs] == [20, 10]
    warmups = [c["optim.warmup_steps"] for c in made.configs.values()]
    assert warmups == [4, 2]


def test_budgets_are_met_or_left_out(spec, tiny):
    step = 8 * run_cost(tiny()).training_flops
    budgets = axis("budget", {10.4 * step: {}, 200.4 * step: {}, 50 * step: {}})
    rule = of_flops(Proportions(least_warmup=10))
    made = make_plan(spec(derived(budgets, rule)))
    assert [run.steps for run in made.runs] == [200]
    assert abs(made.runs[0].flops / (200.4 * step) - 1) < 0.01
    flat = made.configs[made.runs[0].id]
    assert flat["optim.warmup_steps"] == 10
    assert flat["train.ema_decay"] == 0.9
    assert flat["validation.every"] == 200
    first, second = made.left_out
    assert "no whole number meets within 1%" in first
    assert "50 steps are fewer than ten times" in second
    tokens = of_tokens(Proportions(least_warmup=1), 4 * 8 * 33)
    assert make_plan(spec(derived(budgets[:1], tokens))).runs[0].steps == 33


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (axis("model.width", [32, 34]), "run w34 of the sweep: "),
        (axis("encoder.width", [16, 17]), "run w17 of the sweep: "),
        (axis("train.steps", [0, 5, 9]), "run s0 of the sweep: config field"),
        (axis("optim.learning_rate", [1e-3, -1e-3]), "lr-0.001"),
        (
            axis("a", {"x": {"seed": 0}, "y": {}}),
            "runs x and y of the sweep have one config",
        ),
        (
            chain(axis("a", {"x": {}}), axis("a", {"x": {"seed": 1}})),
            "two runs of the sweep are called x",
        ),
        (
            axis("a", {f"{'x' * 48}{k}": {"seed": k} for k in range(2)}),
            "are called xxx",
        ),
        (derived(axis("seed", [3]), lambda draft: 1 / 0), "ZeroDivisionError"),
        (derived(axis("seed", [3]), lambda draft: None), "run s3 of the sweep"),
        ([], "has no run"),
    ],
)
def test_a_run_that_cannot_be_is_named(spec, points, said):
    with pytest.raises(UserError, match=re.escape(said)):
        make_plan(spec(points))


def test_whole_numbers_keep_their_digits_in_names(spec):
    runs = make_plan(spec(axis("train.steps", [1000001, 1000002]))).runs
    assert [run.name for run in runs] == ["s1000001", "s1000002"]


def test_a_batch_that_the_machine_cannot_share_is_refused(spec):
    with pytest.raises(UserError, match="does not divide over 16"):
        make_plan(spec(axis("seed", [0])), devices=16)


def test_a_folder_is_planned_grown_and_never_shrunk(file, tmp_path):
    out = tmp_path / "sweep"
    sweep = plan_folder(file, out)
    first = contents(out)
    assert [run.id for run in open_sweep(out).runs] == [
        run.id for run in sweep.runs
    ]
    config = flatten(frozen_config(sweep.config(sweep.runs[1].id)))
    assert config["optim.learning_rate"] == 2e-3
    assert config["name"] == "lr0.002-d1"

    plan_folder(file, out)
    assert contents(out) == first

    (out / "runs" / sweep.runs[0].id).mkdir(parents=True)
    grown = plan_folder(f"{file}:rates=1e-3+2e-3+4e-3", out)
    assert [run.id for run in grown.runs[:2]] == [r.id for r in sweep.runs]
    assert len(open_sweep(out).runs) == 3
    for name, old in first.items():
        if name.startswith("configs/"):
            assert contents(out)[name] == old

    before = contents(out)
    with pytest.raises(UserError, match="1 of them were submitted"):
        plan_folder(f"{file}:rates=2e-3", out, replace=True)
    with pytest.raises(UserError, match="drop them with --replace"):
        plan_folder(f"{file}:rates=1e-3", out)
    assert contents(out) == before
    plan_folder(f"{file}:rates=1e-3", out, replace=True)
    assert [run.labels["learning_rate"] for run in open_sweep(out).runs] == [
        1e-3
    ]
    assert len(list((out / "configs").iterdir())) == 1


def test_a_run_may_change_its_role(tmp_path, tiny_spec):
    text = FILE.format(tiny=tiny_spec)
    file = tmp_path / "roles.py"
    file.write_text(text)
    out = tmp_path / "sweep"
    before = plan_folder(str(file), out)
    file.write_text(text.replace("float))", "float), role='holdout')"))
    after = plan_folder(str(file), out)
    assert [run.id for run in after.runs] == [run.id for run in before.runs]
    assert {run.role for run in open_sweep(out).runs} == {"holdout"}


def test_a_changed_run_is_another_one(file, tmp_path):
    out = tmp_path / "sweep"
    plan_folder(file, out)
    with pytest.raises(UserError, match="has runs that this plan has not"):
        plan_folder(file, out, ["train.steps=7"])
    run = open_sweep(out).runs[0]
    frozen = open_sweep(out).config(run.id)
    document = json.loads(frozen.read_text())
    document["config"]["train.steps"] = 9
    frozen.write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"has train\.steps 9, where this"):
        plan_folder(file, out)


def test_a_plan_that_was_cut_is_made_whole(file, tmp_path):
    out = tmp_path / "sweep"
    sweep = plan_folder(file, out)
    (out / "sweep.json").unlink()
    sweep.config(sweep.runs[0].id).write_text('{"config": {"na')
    again = plan_folder(file, out)
    frozen_config(again.config(again.runs[0].id))
    assert open_sweep(out).runs == sweep.runs


@pytest.mark.parametrize(
    ("name", "text"),
    [("sweep.json", ""), ("sweep.json", "[1]"), ("runs.jsonl", '{"id": "a')],
)
def test_torn_files_are_said_and_planned_anew(file, tmp_path, name, text):
    out = tmp_path / "sweep"
    sweep = plan_folder(file, out)
    (out / name).write_text(text)
    with pytest.raises(UserError, match=f"{name} cannot be read .*plan the"):
        open_sweep(out)
    # What a run has done is not forgotten with its line in the plan.
    (out / "attempts" / "other-12345678").mkdir(parents=True)
    with pytest.raises(UserError, match=r"of another plan \(other-12345678\)"):
        plan_folder(file, out)
    (out / "attempts" / "other-12345678").rmdir()
    plan_folder(file, out)
    assert open_sweep(out).runs == sweep.runs


def test_an_override_of_an_old_name(command, file):
    def plan(override):
        arguments = "--config", file, f"--config.{override}"
        return command("sweep", "plan", *arguments)

    new = plan("diffusion.time_convention=sit")
    old = plan("diffusion.convention=sit")
    assert (old.code, old.out) == (new.code, new.out) == (0, new.out)


@pytest.mark.parametrize(
    ("old", "said"),
    [
        (
            "import i2i_prior.sweeps.algebra",
            "there is i2i_prior.sweeps.spec.algebra",
        ),
        (
            "from i2i_prior.sweeps import engines",
            "there is i2i_prior.sweeps.launch_support.engines",
        ),
        ("import i2i_prior.nothing", "No module named 'i2i_prior.nothing'\n"),
        ("import torches", "No module named 'torches'\n"),
    ],
)
def test_a_module_that_moved_is_named(command, tmp_path, old, said):
    file = tmp_path / "old.py"
    file.write_text(f"{old}\n")
    ended = command("sweep", "plan", "--config", file)
    assert ended.code == 1
    assert said in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "none.py"], "no sweep file none.py"),
        (["--config", "TINY"], "has no get_sweep"),
        (["--config", "FILE:x=1"], "config argument 'x' is unknown"),
        (["--config", "FILE:depths=a"], "no list of numbers"),
        (["--config", "FILE", "--config.model.depth=2"], "no effect"),
        (["--config", "FILE", "--config.model.dept=2"], "no field model.dept"),
        (["--config", "FILE", "--accelerator", "a1"], "topology 'a1'"),
        (["--config", "FILE", "--mfu", "2"], "--mfu is 2"),
        (["--config", "FILE", "--images", "0"], "--images is 0"),
        (["--config", "FILE", "--price-per-chip-hour", "2"], "needs a machine"),
        (["--config", "FILE", "--out", "FILE"], "is a file"),
        (["--config", "FILE", "--out", "FOLDER"], "holds other things"),
        (["--config", "FILE", "--out", "FILE/deep"], "cannot write"),
    ],
)
def test_mistakes_of_the_command(command, file, tmp_path, arguments, said):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thing").touch()
    from tests.conftest import TINY

    places = {"FILE": file, "TINY": str(TINY), "FOLDER": tmp_path / "other"}
    arguments = [
        re.sub("FILE|TINY|FOLDER", lambda m: str(places[m[0]]), text)
        for text in arguments
    ]
    ended = command("sweep", "plan", *arguments)
    assert ended.code == 1
    assert ended.err.startswith("error: ")
    assert said in ended.err
    assert ended.err.count("\n") == 1


def test_hours_leave_out_what_remat_makes_again(spec):
    """An MFU is a share of what the model needs."""
    kept, remade = make_plan(spec(axis("model.remat", ["none", "full"]))).runs
    assert remade.model_flops == kept.model_flops >= kept.flops


def test_hours_and_cost_are_what_peak_and_mfu_say(spec):
    made = make_plan(spec(axis("seed", [0, 1])))
    there = machine("h100x8", 0.25, None)
    work = sum(run.model_flops for run in made.runs)
    rate = 8 * CHIPS["h100"].flops * 0.25
    assert there.hours(work) == pytest.approx(work / rate / 3600)
    measured = machine(None, 0.4, 1e6, 3.0)
    text = as_text(made, measured, False)
    hours = work / 1e6 / 3600
    assert f"{hours:.3g} chip-hours, {3 * hours:,.2f} at 3 each" in text
    assert text.splitlines()[1].endswith(f"{1.5 * hours:,.2f}")
    assert "an assumption" in as_text(made, there, False)
    assert "--accelerator" in as_text(made, None, False)


def test_long_tables_fold_unless_all_is_asked(spec):
    points = product(
        axis("optim.learning_rate", [1e-3 * k for k in range(1, 41)]),
        axis("seed", range(2)),
    )
    made = make_plan(spec(points), lambda source: 24)
    short = as_text(made, None, False).splitlines()
    whole = as_text(made, None, True).splitlines()
    assert len(short) < 40
    assert "16 more" in " ".join(short)
    assert len(whole) > 80
    assert "more than one epoch" in short[-2]
    assert "warm-up takes more than a tenth" in short[-1]
    assert short[-1].endswith("and 75 more")


def test_a_thousand_runs_are_planned_at_once(tmp_path, tiny_spec):
    """Issue 7 asks for 2 s with all imports, which take 1.2 s of them."""
    file = tmp_path / "many.py"
    text = FILE.format(tiny=tiny_spec).replace(
        "product(rates, depths)",
        "product(rates, depths, axis('seed', range(100)))",
    )
    file.write_text(text)
    depths = "+".join(map(str, range(1, 6)))
    before = time.process_time()
    sweep = plan_folder(f"{file}:depths={depths}", tmp_path / "out")
    assert time.process_time() - before < 3  # 0.8 s on one busy core
    assert len({run.id for run in sweep.runs}) == 1000
    assert len({run.parameters for run in sweep.runs}) == 5


def test_costs_are_of_their_own_shape(spec):
    dtypes = axis("optim.moment_dtype", ["float32", "bfloat16"])
    seen = []

    def rule(draft):
        seen.append(draft.cost.state_bytes)
        return {}

    make_plan(spec(derived(product(axis("seed", [0, 1]), dtypes), rule)))
    assert seen[0] > seen[1]
    assert seen[2:] == seen[:2]


def test_a_plan_needs_no_training_stack_before_it_is_made():
    text = (
        "import sys, i2i_prior.sweeps.planning, i2i_prior.sweeps.collect\n"
        "sys.exit(bool({'jax', 'flax', 'torch'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", text], env=os.environ)
    assert ended.returncode == 0
