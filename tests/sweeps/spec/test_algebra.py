"""Points of a sweep: what combines, and what must not."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2i_prior.errors import UserError
from i2i_prior.sweeps.spec.algebra import (
    axis,
    chain,
    listed,
    only,
    product,
    subsample,
    typed,
    where,
    zip_,
)

SIZES = axis(
    "size",
    {
        "w64": {"model.width": 64, "model.heads": 4},
        "w96": {"model.width": 96, "model.heads": 6},
    },
)
RATES = axis("optim.learning_rate", [1e-4, 2e-4, 4e-4])
SEEDS = axis("seed", range(7))


def test_fields_of_old_names_are_set_under_their_new_ones():
    [old] = axis("conditioner.choice", ["cls"])
    assert old.overrides == {"conditioner.tokens_from": "cls"}
    assert old.labels == {"choice": "cls"}  # run names stay
    named = axis("clock", {"t": {"diffusion.convention": "unit"}})
    assert named[0].overrides == {"diffusion.time_convention": "repa"}
    changed = where([old], lambda _: True, {"conditioner.choice": "patches"})
    assert changed[0].overrides == {"conditioner.tokens_from": "patches"}


def test_a_product_has_all_pairs_with_the_last_axis_fastest():
    points = product(SIZES, RATES)
    assert [tuple(p.labels.values()) for p in points] == [
        (size, rate) for size in ("w64", "w96") for rate in (1e-4, 2e-4, 4e-4)
    ]
    assert points[4].overrides == {
        "model.width": 96,
        "model.heads": 6,
        "optim.learning_rate": 2e-4,
    }


def test_zip_takes_pairs_and_refuses_unequal_lengths():
    points = zip_(SIZES, RATES[:2])
    assert [p.labels["learning_rate"] for p in points] == [1e-4, 2e-4]
    with pytest.raises(UserError, match="one length, not of 2, 3 points"):
        zip_(SIZES, RATES)


def test_where_changes_and_only_keeps_what_is_asked():
    points = where(
        SIZES, lambda p: p.labels["size"] == "w96", {"model.heads": 3}
    )
    assert [p.overrides["model.heads"] for p in points] == [4, 3]
    by_point = where(
        SIZES, lambda p: True, lambda p: {"seed": p.overrides["model.width"]}
    )
    assert [p.overrides["seed"] for p in by_point] == [64, 96]
    assert only(SIZES, lambda p: p.overrides["model.width"] < 80) == SIZES[:1]
    assert SIZES[1].overrides["model.heads"] == 6  # untouched


@given(
    n=st.integers(1, 12), more=st.integers(0, 12), seed=st.integers(0, 2**32)
)
def test_a_subsample_keeps_order_and_grows(n, more, seed):
    points = product(SIZES, SEEDS)
    small, large = (subsample(points, k, seed) for k in (n, n + more))
    assert len(small) == min(n, len(points))
    places = [points.index(point) for point in large]
    assert places == sorted(set(places))
    assert all(point in large for point in small)


def test_subsamples_of_other_seeds_differ():
    points = product(SIZES, SEEDS)
    drawn = {str(subsample(points, 3, seed)) for seed in range(20)}
    assert len(drawn) > 10


def test_roles_win_over_fit_and_clash_with_each_other():
    tuned = axis("seed", [1], role="tune")
    assert product(SIZES, tuned)[0].role == "tune"
    held = axis("budget", {1e13: {}}, role="holdout")
    with pytest.raises(UserError, match="the roles tune and holdout"):
        product(tuned, held)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("optim.learning_rate", 1, 1.0),
        ("train.steps", 1e5, 100_000),
        ("model.width", np.int64(64), 64),
        ("optim.learning_rate", np.float64(0.1) + 0.2, 0.1 + 0.2),
        ("data.cached", True, True),
    ],
)
def test_values_take_the_type_of_their_field(name, value, wanted):
    got = typed(name, value)
    assert (got, type(got)) == (wanted, type(wanted))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: axis("model.widht", [64]), "did you mean model.width?"),
        (lambda: axis("model.width", ["x"]), "takes an integer, not 'x'"),
        (lambda: axis("model.depth", [True]), "takes an integer"),
        (lambda: axis("data.cached", [1]), "takes true or false"),
        (lambda: axis("data.source", [3]), "takes text, not 3"),
        (lambda: axis("model.depth", [1, 1.0]), "has 1 twice"),
        (lambda: axis("model.depth", []), "has no value"),
        (lambda: axis("seed", [1], role="test"), "role 'test' is unknown"),
        (lambda: axis("optim.learning_rate", [np.nan]), "give a number"),
        (lambda: axis("size", {"a": {"model.x": 1}}), "no field model.x"),
        (lambda: axis("size", {None: {}}), "shows None; give text or a"),
        (lambda: product(SIZES, SIZES[::-1]), "set the field model.width"),
        (
            lambda: product(
                axis("model.width", [8]), axis("encoder.width", [4])
            ),
            "set the label width",
        ),
        (lambda: subsample(SIZES, 0), "takes 1 or more"),
        (lambda: listed("1e12+x", float), "no list of numbers"),
    ],
)
def test_mistakes_are_one_sentence(make, said):
    with pytest.raises(UserError, match=re.escape(said)):
        make()


def test_lists_in_arguments():
    assert listed("1e12+2e12", float) == [1e12, 2e12]
    assert listed("none", float) == []
    assert chain(SIZES, RATES, [])[2:] == RATES
