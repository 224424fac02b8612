"""Recipes of recommended runs; rank correlation of other metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from i2i_prior.aot.machine import machine
from i2i_prior.scaling_laws import plots, rank_correlation, recommend
from i2i_prior.scaling_laws.figures import save_figure
from i2i_prior.scaling_laws.points import Point, Source, Table


def source(steps, examples, width, **metrics):
    fields = {"model.width": width}
    return Source(Path("none"), steps, examples, 1.5, fields, metrics)


def table():
    """Batches of 16, 64 tokens an image, 3 and 6 GFLOP a step."""
    points = [
        Point("small", 1e6, 100 * 16 * 64, 100 * 3e9, 0.5),
        Point("large", 4e6, 100 * 16 * 64, 100 * 6e9, 0.4),
        Point("larger", 4e6, 400 * 16 * 64, 400 * 6e9, 0.3, "holdout"),
    ]
    sources = {
        "small": source(100, 1600, 64),
        "large": source(100, 1600, 96),
        "larger": source(400, 6400, 96),
    }
    return Table(points, sources=sources)


def test_each_size_once_by_its_largest_run():
    sizes = recommend.sizes_of(table())
    assert [size.id for size in sizes] == ["small", "larger"]
    assert sizes[1].batch_size == 16
    assert sizes[1].tokens_per_example == 64
    assert sizes[1].flops_per_step == 6e9
    assert recommend.sizes_of(Table(table().points)) == []


def test_steps_the_nearest_config_and_hours():
    there = machine("h100x8", 0.4, None)
    sizes = recommend.sizes_of(table())
    found = recommend.recipe(sizes, 6e12, 2.1e6, 2000 * 16 * 64, there)
    assert found["steps"] == 2000
    assert found["batch_size"] == 16
    # 2.1e6 is nearer to 4e6 than to 1e6 by ratio, if not by difference
    assert found["nearest"] == {
        "id": "larger",
        "params": 4e6,
        "steps": 1000,
        "overrides": {"model.width": 96},
    }
    hours = 1.5 * 6e12 / there.flops / 3600
    assert found["hours"] == pytest.approx(hours)
    assert found["chip_hours"] == pytest.approx(8 * hours)


def test_without_run_directories_hours_alone():
    there = machine(None, 0.4, 1e15)
    found = recommend.recipe([], 3.6e18, 1e6, 1e9, there)
    assert set(found) == {"hours", "chip_hours", "machine", "assumption"}
    assert found["hours"] == pytest.approx(1.0)
    assert recommend.recipe([], 1e18, 1e6, 1e9, None) == {}


def test_metrics_beside_the_loss_are_ranked_where_four_runs_have_them(tmp_path):
    loss = [0.5, 0.4, 0.3, 0.2, 0.1]
    fid = [50.0, 30.0, 40.0, 20.0, 10.0]
    points = [Point(str(k), 1.0, 1.0, 6.0, loss[k]) for k in range(5)]
    metrics = [
        {"eval/fid": value, "eval/fid_standard_error": 1.0, "train_loss": 1.0}
        for value in fid
    ]
    for own in metrics[:3]:
        own["eval/rare"] = 1.0
    for own in metrics:
        own["eval/flat"] = 2.0
    sources = {str(k): source(1, 1, 1, **metrics[k]) for k in range(5)}
    own, flat = rank_correlation.all_metrics(Table(points, sources=sources))
    assert (own.name, flat.name) == ("eval/fid", "eval/flat")
    assert own.spearman == pytest.approx(spearmanr(loss, fid).statistic)
    assert own.spearman == pytest.approx(0.9)
    np.testing.assert_array_equal(own.values, fid)
    assert np.isnan(flat.spearman)
    path = tmp_path / "metrics.png"
    save_figure(path, plots.metrics, [own, flat], "loss")
    with Image.open(path) as image:
        assert np.asarray(image.convert("L")).std() > 5
