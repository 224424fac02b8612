"""Charts as inline SVG, in the colours of the page around them.

`html.STYLE` has the classes `rule` (grid), `raw`, `smooth` (lines), `dot`,
`band` and `bar`. A curve takes some kilobytes, follows dark mode and needs no
other file; matplotlib's SVG has links, clip paths and fixed colours.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from i2i_prior.report.html import escape, figure, short

_WIDTH, _HEIGHT = 560, 250  # in SVG units
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 22, 10, 30
_BAR_HEIGHT, _BAR_MARGIN, _BAR_TOP = 220, 24, 22


def plots(
    lines: Sequence[Mapping[str, Any]],
    wanted: Iterable[tuple[str, str]],
    linear: Collection[str] = (),
) -> str:
    """Curves over the steps, of each key that has two values or more.

    Each line has "step", and (low, high) of an interval under KEY/interval;
    `wanted` are (key, title); keys in `linear` never have a logarithmic axis.
    """
    figures = []
    for key, title in wanted:
        points = [
            (
                line["step"],
                line[key],
                *line.get(f"{key}/interval", (math.nan, math.nan)),
            )
            for line in lines
            if isinstance(line.get(key), float | int)
        ]
        finite = [point[1] for point in points if math.isfinite(point[1])]
        if len(finite) >= 2:
            steps, values, *band = np.array(points, float).T
            figures.append(
                f'<figure class="plot"><figcaption>{escape(title)}'
                f"<b>{escape(short(finite[-1]))}</b></figcaption>"
                f"{curve(steps, values, key in linear, np.array(band))}"
                "</figure>"
            )
    return f'<div class="plots">{"".join(figures)}</div>' if figures else ""


def curve(
    steps: np.ndarray,
    values: np.ndarray,
    linear: bool = False,
    band: np.ndarray | None = None,
) -> str:
    """SVG of values (n,) over steps (n,), raw and, if noisy, smoothed.

    `band` (2, n), the low and high ends of their intervals, is drawn behind
    them; NaN for none. The axis is logarithmic when all values are
    positive and span more than a factor of 5 without spikes, unless
    `linear`. Values that are not finite leave a gap. At least two values must
    be finite.
    """
    even = _smoothed(values)
    known = np.isfinite(values)
    # One spike must not flatten the rest: it is cut at the frame.
    framed = np.append(np.percentile(values[known], [1, 99]), even[known])
    bottom, top = float(framed.min()), float(framed.max())
    noise = float(np.median(np.abs(values[known] - even[known])))
    noisy = len(values) > 20 and noise > 0.002 * (top - bottom)
    logarithmic = values[known].min() > 0 and top > 5 * bottom and not linear
    if band is not None and np.isfinite(band).any() and not logarithmic:
        bottom = min(bottom, float(np.nanmin(band)))
        top = max(top, float(np.nanmax(band)))
    ticks = _log_ticks(bottom, top) if logarithmic else _ticks(bottom, top)
    bottom, top = min(bottom, ticks[0]), max(top, ticks[-1])
    first, last = float(steps.min()), float(steps.max())
    last = last if last > first else first + 1

    def x_of(step: np.ndarray | float) -> np.ndarray:
        share = (np.asarray(step, float) - first) / (last - first)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y_of(value: np.ndarray | float) -> np.ndarray:
        value = np.clip(np.asarray(value, float), bottom, top)
        scale = np.log if logarithmic else np.asarray
        share = (scale(value) - scale(bottom)) / (scale(top) - scale(bottom))
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)

    marks = [_grid_line(float(y_of(tick)), short(tick)) for tick in ticks]
    marks += [
        _text(float(x_of(tick)), _HEIGHT - 9, short(tick))
        for tick in _ticks(first, last)
        if first <= tick <= last
    ]
    xs, ys = x_of(steps), y_of(values)
    if band is not None:
        marks += _band(xs, y_of(band[0]), y_of(band[1]))
    marks.append(_path("raw" if noisy else "smooth", xs, ys))
    if noisy:
        marks.append(_path("smooth", xs, y_of(even), extremes=False))
    elif len(steps) <= 20:
        marks += [
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
            for x, y in zip(xs[known], ys[known], strict=True)
        ]
    return _svg(_HEIGHT, marks)


def _band(xs: np.ndarray, lows: np.ndarray, highs: np.ndarray) -> list[str]:
    """A pale area between two lines, in pieces where there are gaps."""
    known = np.flatnonzero(np.isfinite(lows) & np.isfinite(highs))
    pieces = np.split(known, np.flatnonzero(np.diff(known) > 1) + 1)
    marks = []
    for piece in pieces:
        there_and_back = np.concatenate([piece, piece[::-1]])
        ys = np.concatenate([highs[piece], lows[piece][::-1]])
        points = [
            f"{x:.1f} {y:.1f}"
            for x, y in zip(xs[there_and_back], ys, strict=True)
        ]
        marks.append(f'<path class="band" d="M{"L".join(points)}Z"/>')
    return marks if len(known) > 1 else []


def _grid_line(y: float, label: str) -> str:
    """A horizontal grid line and its label."""
    line = (
        f'<line class="rule" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" '
        f'y1="{y:.1f}" y2="{y:.1f}"/>'
    )
    return line + _text(_LEFT - 8, y + 4, label, "end")


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that cover [low, high], about five of them."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # but for rounding
        margin = abs(low) / 10 or 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= raw * 0.99)
    begin, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = 12 - math.floor(math.log10(step))
    return [round(i * step, digits) for i in range(begin, end + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 times powers of ten around [low, high]; decades if many."""
    decades = range(
        math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1
    )
    steps = (1.0, 2.0, 5.0) if len(decades) <= 4 else (1.0,)
    ticks = [m * 10.0**d for d in decades for m in steps]
    begin = max((t for t in ticks if t <= low * 1.0001), default=ticks[0])
    end = min((t for t in ticks if t >= high * 0.9999), default=ticks[-1])
    return [tick for tick in ticks if begin <= tick <= end]


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Running median of 5, then a Hann-weighted mean over 8 %; NaN stays."""
    known = np.isfinite(values)
    padded = np.pad(np.where(known, values, np.nan), 2, mode="edge")
    robust = np.zeros(len(values))
    windows = sliding_window_view(padded, 5)[known]
    robust[known] = np.nanmedian(windows, axis=1)
    kernel = np.hanning(2 * max(1, len(values) // 25) + 3)
    half = len(kernel) // 2
    sums = np.convolve(robust, kernel)
    weights = np.convolve(known.astype(float), kernel)
    inner = slice(half, half + len(values))
    even = sums[inner] / np.maximum(weights[inner], 1e-9)
    return np.where(known, even, np.nan)


def _path(
    css_class: str, xs: np.ndarray, ys: np.ndarray, extremes: bool = True
) -> str:
    """SVG path of a line; many points become 300, or extremes of 300 groups."""
    groups = np.array_split(np.arange(len(xs)), min(len(xs), 300))
    keep: list[int] = []
    for group in groups:
        known = group[np.isfinite(ys[group])]
        if not len(known):
            keep.append(int(group[0]))
        elif extremes:
            ends = {known[np.argmin(ys[known])], known[np.argmax(ys[known])]}
            keep += sorted(int(index) for index in ends)
        else:
            keep.append(int(known[-1]))
    words, pen = [], "M"
    for index in keep:
        if math.isfinite(ys[index]):
            words.append(f"{pen}{xs[index]:.1f} {ys[index]:.1f}")
        pen = "L" if math.isfinite(ys[index]) else "M"
    return f'<path class="{css_class}" d="{"".join(words)}"/>'


def bars(title: str, labels: Sequence[str], counts: Sequence[int]) -> str:
    """A bar chart as a figure, with the counts (0 or more) above the bars; one
    label more than counts stands at the edges of the bars."""
    slot = (_WIDTH - 2 * _BAR_MARGIN) / len(counts)
    highest = max(*counts, 1)
    floor = _BAR_HEIGHT - _BOTTOM
    first = 0.5 if len(labels) == len(counts) else 0.0
    marks = [
        f'<line class="rule" x1="0" x2="{_WIDTH}" y1="{floor}" y2="{floor}"/>'
    ]
    for place, label in enumerate(labels):
        x = _BAR_MARGIN + (place + first) * slot
        marks.append(_text(x, _BAR_HEIGHT - 10, label))
    for place, count in enumerate(counts):
        height = count / highest * (floor - _BAR_TOP)
        left = _BAR_MARGIN + (place + 0.06) * slot
        marks.append(
            f'<rect class="bar" x="{left:.1f}" y="{floor - height:.1f}" '
            f'width="{0.88 * slot:.1f}" height="{height:.1f}"/>'
        )
        if count:
            text = f"{count:,}" if count < 100_000 else short(count)
            middle = _BAR_MARGIN + (place + 0.5) * slot
            marks.append(_text(middle, floor - height - 6, text))
    return figure(title, _svg(_BAR_HEIGHT, marks), "plot")


def _svg(height: int, marks: Iterable[str]) -> str:
    box = f'viewBox="0 0 {_WIDTH} {height}"'
    return f'<svg {box} role="img">{"".join(marks)}</svg>'


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )
