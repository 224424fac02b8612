"""The ready-made sweeps: what they plan is what they say."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from i2i_prior.config import from_flat
from i2i_prior.errors import UserError
from i2i_prior.flops.cost import step_flops
from i2i_prior.sweeps.planning import load_sweep
from i2i_prior.sweeps.spec.plan import make_plan

SWEEPS = Path(__file__).parents[2] / "configs" / "sweeps"
PREPARED = [
    "data.source=arrayrecord:LATENTS",
    "validation.source=arrayrecord:HELD_OUT",
]


def plan(name, arg="", overrides=()):
    return make_plan(load_sweep(f"{SWEEPS / name}.py:{arg}", overrides))


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in SWEEPS.glob("*.py"))
)
def test_every_sweep_plans_as_it_stands(name):
    made = plan(name, overrides=PREPARED * (name == "size_ladder"))
    assert len(made.runs) >= 4
    assert all(run.steps >= 100 for run in made.runs)


def test_isoflop_spends_its_budgets():
    made = plan("isoflop")
    sizes = defaultdict(set)
    for run in made.runs:
        budget = run.labels["budget"]
        assert abs(run.flops / budget - 1) < 0.01
        sizes[run.role, budget].add(run.parameters)
        # Counted the other way: a step of the trainer, times its steps.
        config = from_flat(made.configs[run.id])
        step = step_flops(config)
        assert config.encoder.kind == "frozen"
        total = step.prior * config.train.steps
        assert total == pytest.approx(run.flops, rel=1e-6)
        assert config.model.width // config.model.heads == 8
        warmup = config.optim.warmup_steps
        assert 5 <= warmup <= 0.1 * run.steps
    fit = [n for (role, _), n in sizes.items() if role == "fit"]
    assert [len(found) for found in fit] == [5, 5, 5, 5]
    # The window goes up with the budget, each with the last one's middle.
    assert max(fit[0]) < max(fit[-1])
    assert min(fit[0]) < min(fit[-1])
    assert {b for r, b in sizes if r == "holdout"} == {4 * 4e11}


def test_isoflop_on_prepared_latents_keeps_their_encoder():
    base = SWEEPS.parent / "tiny_latents.py"
    arg = f"base={base},budgets=1e14+3e14,centre=2e6"
    made = plan("isoflop", arg, PREPARED)
    assert len(made.runs) == 10 + 1
    assert made.runs[-1].labels["budget"] == 1.2e15
    assert len(plan("isoflop", f"{arg},holdout=none", PREPARED).runs) == 10
    widths = {c["encoder.width"] for c in made.configs.values()}
    assert widths == {128}
    with pytest.raises(UserError, match="no size 'w7'"):
        plan("isoflop", "rungs=w7")


def test_size_ladder_sees_the_same_tokens():
    made = plan("size_ladder", overrides=PREPARED)
    assert [run.name for run in made.runs] == ["s", "b", "l", "xl"]
    assert {run.tokens for run in made.runs} == {48_828 * 1024 * 256}
    millions = [round(run.parameters / 1e6) for run in made.runs]
    assert millions == sorted(millions)
    # Lumos XL/2 has 822 million; a single token trains no query and key.
    assert millions[-1] == round(822.0 - 28 * 2 * 1152**2 / 1e6)


def test_data_ladder_names_nested_subsets():
    made = plan("data_ladder", "images=10+20,steps=500")
    sources = [c["data.source"] for c in made.configs.values()]
    assert [s.rpartition("#")[2] for s in sources] == ["sample=10", "sample=20"]
    assert {run.steps for run in made.runs} == {500}


def test_lr_transfer_has_each_width_with_and_without_mup():
    made = plan("lr_transfer")
    assert len(made.runs) == 2 * 3 * 6
    assert {run.role for run in made.runs} == {"tune"}
    kinds = {
        (run.labels["parametrisation"], c["model.mup_base_width"])
        for run, c in zip(made.runs, made.configs.values(), strict=True)
    }
    assert kinds == {("mup", 64), ("standard", 0)}
    heads = {
        c["model.width"] // c["model.heads"] for c in made.configs.values()
    }
    assert heads == {32}


def test_recipe_changes_one_factor_at_a_time():
    made = plan("recipe", "seeds=2")
    assert len(made.runs) == 2 * 10
    base = made.configs[made.runs[0].id]
    for run in made.runs[2:]:
        config = made.configs[run.id]
        sections = {
            name.partition(".")[0]
            for name, value in config.items()
            if value != base[name] and name not in ("name", "seed")
        }
        assert len(sections) == 1
    with pytest.raises(UserError, match="no factor 'x'"):
        plan("recipe", "factors=x")
