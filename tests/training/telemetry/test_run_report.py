"""The report of a made-up run: whole, self-contained, escaped."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from i2i_prior.errors import UserError
from i2i_prior.report.charts import curve
from i2i_prior.report.html import short
from i2i_prior.report.image_grid import save_gif, save_png
from i2i_prior.training.telemetry.run_report import write_report

EVIL = "<script>alert('x')</script>"
VOID = {"meta", "img", "line", "path", "circle"}


class Reader(HTMLParser):
    """Checks that tags nest; collects the tags, links and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "srcset")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + "\n"


@pytest.fixture
def run(tmp_path):
    """Run directory with every file, and HTML in some names."""
    write = {
        "config.json": {
            "config": {"train": {"steps": 2000, "note": EVIL}, "seed": 7},
            "hash": "ab12",
        },
        "metadata.json": {
            "parameters": 33_400_000,
            "flops_per_step": 3.2e13,
            "trained_parameters": 21_000_000,
            "devices": 8,
            "device_kind": "TPU v5 lite",
            "versions": {EVIL: "1"},
        },
        "evaluations/1000.json": {
            "step": 1000,
            "features": "thumbnails",
            "metrics": {"FD-thumb8hog": 61.25, "top1": 0.5, "chance": 0.02},
        },
        "evaluations/500.json": {
            "step": 500,
            "features": EVIL,
            "metrics": {"FD-thumb8hog": 80.5, "chance": 0.02, EVIL: 1},
        },
        "evaluations/other.json": ["not a result"],
        "goodput.json": {"seconds": {"step": 900.0, EVIL: 100.0}},
    }
    (tmp_path / "evaluations").mkdir()
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "summary.txt").write_text(f"55.1%  dot.3 {EVIL}\n")
    for name, values in write.items():
        (tmp_path / name).write_text(json.dumps(values))
    lines = [
        {
            "step": step,
            "time": 1e9 + step,
            "loss": None if step == 500 else 1 / step,
            "learning_rate": 1e-4,
            "grad_norm": 2.0,
            "examples_per_second": 500 + step % 7,
            "mfu": 0.4,
            "goodput": 0.875,
        }
        for step in range(10, 1010, 10)
    ]
    text = "\n".join(map(json.dumps, lines)) + '\n{"step": 1010, "lo'
    (tmp_path / "metrics.jsonl").write_text(text)
    for step in (100, 900, 1000):
        image = np.full((40, 900, 3), step % 255, np.uint8)
        save_png(tmp_path / f"samples/{step}.png", image)
    (tmp_path / "samples/1100.png").write_bytes(b"half a picture")
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    save_gif(tmp_path / "interpolations/a<b.gif", frames + 9)
    return tmp_path


def test_the_page_is_whole_and_reaches_for_nothing(run):
    path = write_report(run)
    assert path == run / "report.html"
    page = path.read_text("utf-8")
    reader = Reader(page)
    assert "://" not in page
    assert "script" not in reader.tags
    assert "link" not in reader.tags
    assert "url(" not in page
    assert len(reader.links) == 4
    assert all(link.startswith("data:image/") for link in reader.links)
    assert not list(run.glob(".*"))


def test_everything_from_the_run_is_escaped(run):
    page = write_report(run).read_text("utf-8")
    assert EVIL not in page
    assert "a<b" not in page
    assert Reader(page).text.count(EVIL) >= 6


def test_what_a_person_looks_for_is_there(run):
    text = Reader(write_report(run).read_text("utf-8")).text
    for wanted in (
        run.name,
        "configuration ab12",
        "50 % done",
        "1,000",
        "33.4 M (21 M trained)",
        "32 T",
        "8 x TPU v5 lite",
        "40.0 %",
        "87.5 %",
        "Where the time went",
        "900.0 s",
        "90.0%",
        "Top operations",
        "55.1%  dot.3",
        "16.5 min",
        "train.steps",
        "FD-thumb8hog",
        "61.25",
        "step 1,000",
        "Interpolations",
    ):
        assert wanted in text, wanted
    # one curve a number logged, one for the metric that changes
    page = (run / "report.html").read_text("utf-8")
    assert page.count("<svg") == 7


def test_results_are_sorted_by_step(run):
    text = Reader(write_report(run).read_text("utf-8")).text
    assert text.index("80.5") < text.index("61.25")


def test_the_newest_picture_is_whole_and_earlier_ones_are_small(run):
    page = write_report(run).read_text("utf-8")
    newest, first = (f'alt="samples at step {step}"' for step in (1000, 100))
    assert page.index(newest) < page.index(first)
    widths = []
    for data in re.findall(r"image/png;base64,([^\"]+)", page):
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            widths.append(image.width)
    assert widths == [900, 420, 420]
    assert "1,100" not in page


def test_an_empty_run_has_a_page(tmp_path):
    page = write_report(tmp_path).read_text("utf-8")
    assert Reader(page).text.count(tmp_path.name) == 2
    assert "<h2>" not in page


@pytest.mark.parametrize(
    "name", ["config.json", "metadata.json", "metrics.jsonl"]
)
def test_broken_files_are_left_out(run, name):
    (run / name).write_text("{")
    Reader(write_report(run).read_text("utf-8"))


def test_no_run(tmp_path):
    with pytest.raises(UserError, match="no run directory"):
        write_report(tmp_path / "absent")


def points(svg: str, css_class: str = "smooth") -> np.ndarray:
    path = re.search(rf'class="{css_class}" d="(.*?)"', svg).group(1)
    return np.array(
        [p.split() for p in re.findall(r"[ML]([^ML]+)", path)], float
    )


def test_a_curve_puts_points_where_they_belong():
    svg = curve(np.array([0.0, 5, 10]), np.array([0.0, 2, 4]))
    x, y = points(svg).T
    assert x[1] - x[0] == pytest.approx(x[2] - x[1])
    assert y[0] - y[1] == pytest.approx(y[1] - y[2])
    assert y[0] > y[2]
    labels = re.findall(r'text-anchor="end">(.*?)<', svg)
    assert labels == ["0", "1", "2", "3", "4"]


def test_a_wide_range_is_logarithmic():
    steps, values = np.arange(3.0), np.array([100.0, 10, 1])
    y = points(curve(steps, values))[:, 1]
    assert y[1] - y[0] == pytest.approx(y[2] - y[1], abs=0.11)
    y = points(curve(steps, values, linear=True))[:, 1]
    assert y[1] - y[0] > 5 * (y[2] - y[1])


def test_a_gap_where_a_value_is_not_finite():
    values = np.array([1.0, 2, np.nan, 2, 1])
    svg = curve(np.arange(5.0), values)
    assert len(points(svg)) == 4
    assert svg.count("M") == 2
    assert "nan" not in svg


def test_a_spike_is_cut_at_the_frame():
    values = 1 + 0.1 * np.sin(np.arange(500.0))
    values[250] = 1000
    y = points(curve(np.arange(500.0), values), "raw")[:, 1]
    assert np.ptp(y) > 100
    assert (y >= 10).all()


@pytest.mark.parametrize("value", [0.0, 3.0, -1e-9])
def test_a_constant_is_a_flat_line(value):
    y = points(curve(np.arange(30.0), np.full(30, value)))[:, 1]
    assert np.ptp(y) == 0
    assert 10 <= y[0] <= 220


def test_many_points_stay_small():
    noise = np.random.default_rng(0).normal(size=20000)
    assert len(curve(np.arange(20000.0), noise)) < 20000


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1.235 M"),
        (0.12345, "0.1235"),
        (1e-4, "0.0001"),
        (2.5e-5, "2.5e-05"),
        (9999, "9999"),
        (10000, "10 k"),
        (0, "0"),
        (float("nan"), "nan"),
        (True, "True"),
        ("text", "text"),
    ],
)
def test_short(value, text):
    assert short(value) == text


def test_variations_are_shown(tmp_path):
    (tmp_path / "variations").mkdir()
    Image.new("RGB", (4, 4), "red").save(tmp_path / "variations" / "grid.png")
    page = write_report(tmp_path).read_text()
    assert "Variations" in page
    assert page.count("data:image/png;base64,") == 1


def scored(step: int, value: float, count: int = 256) -> dict:
    """A result with an interval of 1 to either side."""
    return {
        "step": step,
        "metrics": {"FD-x": value, "top1": step / 1e4},
        "intervals": {"FD-x": {"low": value - 1, "high": value + 1}},
        "reference": {"file": "folder:held_out"},
        "num_samples": count,
    }


def test_a_learning_curve_has_intervals(tmp_path):
    folder = tmp_path / "evaluations"
    folder.mkdir()
    results = scored(0, 40.0), scored(500, 31.0), scored(900, 28.5)
    for number, result in enumerate([*results, scored(900, 7.0, count=9)]):
        name = f"{result['step']:08d}-x-{number}.json"
        (folder / name).write_text(json.dumps(result))
        picture = np.full((8, 8, 3), number, np.uint8)
        save_png(folder / name.replace("json", "png"), picture)
    page = write_report(tmp_path).read_text("utf-8")
    text = Reader(page).text
    assert "28.5 ± 1" in text
    assert "folder:held_out" in text
    assert "Best and worst conditions" in text
    assert len(Reader(page).links) == 1  # the newest picture
    curves = page.split('<figure class="plot">')[1:]
    assert len(curves) == 2
    assert "FD-x" in curves[0]  # those with intervals come first
    # Scores of other samples are no point of the curve.
    assert curves[0].count("<circle") == 3
    assert curves[0].count('class="band"') == 1
    assert 'class="band"' not in curves[1]


def test_a_band_is_as_wide_as_the_interval():
    values = np.array([1.0, 2.0, 3.0])
    band = np.array([[0.0, 1.0, np.nan], [2.0, 3.0, np.nan]])
    drawn = curve(np.array([0, 50, 100]), values, True, band)
    (path,) = re.findall(r'class="band" d="M(.*?)Z"', drawn)
    points = [tuple(map(float, p.split())) for p in path.split("L")]
    assert len(points) == 4  # up two and back two; the third is a gap
    assert points[0][0] == points[3][0]
    assert points[1][0] == points[2][0]
    assert points[3][1] - points[0][1] == pytest.approx(
        points[2][1] - points[1][1], abs=0.2
    )
    unbound = curve(np.array([0, 50, 100]), values, True, band * np.nan)
    assert "band" not in unbound
