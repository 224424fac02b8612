"""Pages of reports: one file with its style, tables and pictures inside.

No page links to another file or address. Text of a run passes `escape` on its
way into the page.
"""

import base64
import html
import io
import math
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from i2i_prior.io.files import write_bytes

STYLE = """
:root{--ink:#1c2430;--soft:#647084;--line:#dfe4ec;--card:#fff;--page:#f5f7fa;
--accent:#2f66d8;--raw:#a9c1f2}
@media(prefers-color-scheme:dark){:root{--ink:#e5eaf2;--soft:#93a0b5;
--line:#2b3443;--card:#181f2a;--page:#10151d;--accent:#7aa8ff;--raw:#3b5488}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1160px;margin:auto;padding:28px 18px 60px}
h1{font-size:26px;margin:0;overflow-wrap:anywhere}
h2{font-size:18px;margin:36px 0 12px}
.soft{color:var(--soft);overflow-wrap:anywhere}
.cards,.plots{display:grid;gap:12px;
grid-template-columns:repeat(auto-fill,minmax(150px,1fr))}
.cards{margin-top:18px}
.plots{grid-template-columns:repeat(auto-fill,minmax(min(100%,430px),1fr))}
.card,.plot,.wide,.scroll{background:var(--card);border:1px solid var(--line);
border-radius:10px;padding:12px 14px;margin:0}
.card b{display:block;font-size:20px;line-height:1.3;overflow-wrap:anywhere}
.card span,figcaption{color:var(--soft);font-size:13px}
.plot figcaption b{color:var(--ink);float:right}
svg{width:100%;height:auto;display:block}
svg text{fill:var(--soft);font-size:12px}
.rule{stroke:var(--line);stroke-width:1}
.raw,.smooth{fill:none;stroke-linejoin:round}
.raw{stroke:var(--raw);stroke-width:1.2}
.smooth{stroke:var(--accent);stroke-width:2.2}
.dot{fill:var(--accent)}
.band{fill:var(--accent);fill-opacity:.16}
rect.bar{fill:var(--accent)}
img{max-width:100%;height:auto;border-radius:4px;display:block}
.strip{display:flex;gap:12px;overflow-x:auto;padding:12px 0}
.strip figure{margin:0;flex:0 0 210px}
.scroll{overflow-x:auto;padding:0}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{padding:7px 12px;text-align:left;vertical-align:top;
border-bottom:1px solid var(--line)}
tr:last-child td{border-bottom:0}
th{color:var(--soft);font-weight:600;white-space:nowrap}
.number{text-align:right;font-variant-numeric:tabular-nums}
td.value{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:13px;
overflow-wrap:anywhere}
pre.scroll{padding:12px 14px;font-size:13px}
details{margin:12px 0}summary{cursor:pointer;padding:6px 0;font-weight:600}
"""

# A number, perhaps with an error and a unit.
_NUMBER = re.compile(
    r"nan|[-+]?([\d.,]+(e[-+]?\d+)?|inf)( ± [\d.e+-]+)?( ?[%a-zA-Z]{1,2})?"
)
_UNITS = (("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12), ("P", 1e15))


def write_page(
    path: str | os.PathLike[str],
    title: str,
    subtitle: str,
    body: str,
    style: str = "",
) -> Path:
    """Writes a whole page, or nothing (OSError); returns its path.

    `title` is also that of the window; `subtitle` is one line of plain text, to
    which the time is added; `style` is CSS besides `STYLE`.
    """
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head>"
        f"<body><main><h1>{escape(title)}</h1>"
        f'<div class="soft">{escape(subtitle)}, written {written}</div>'
        f"{body}</main></body></html>\n"
    )
    # Names of files may hold bytes that are no text.
    write_bytes(path, page.encode("utf-8", "replace"))
    return Path(path)


def section(title: str, body: str) -> str:
    """A headed part of the page, or "" if `body` is empty."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def cards(values: Mapping[str, Any]) -> str:
    """Names and values, each pair on a card; None is left out."""
    boxes = "".join(
        f'<div class="card"><span>{escape(name)}</span>'
        f"<b>{escape(short(value))}</b></div>"
        for name, value in values.items()
        if value is not None
    )
    return boxes and f'<div class="cards">{boxes}</div>'


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    whole: Sequence[str] = (),
    css_class: str = "",
) -> str:
    """A table that scrolls sideways, or "" without rows.

    Args:
      head: names of the columns; without them the first cell of a row is its
        name.
      rows: values. Numbers are shown in four digits; None is an empty cell. A
        column of numbers, or of text that looks like them, is aligned to the
        right.
      whole: names of the columns whose numbers are shown in all digits.
      css_class: of the box around it.
    """
    texts = [
        [
            _text(value, place < len(head) and head[place] in whole)
            for place, value in enumerate(row)
        ]
        for row in rows
    ]
    if not texts:
        return ""
    classes = [
        ' class="number"' * all(_NUMBER.fullmatch(t) for t in column if t)
        for column in zip(*texts, strict=True)
    ]

    def line(cells: Iterable[str], tags: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{kind}>{text}</{tag}>"
            for text, tag, kind in zip(cells, tags, classes, strict=True)
        )

    tags = ["td" if head else "th", *["td"] * (len(classes) - 1)]
    lines = [line(map(escape, head), ["th"] * len(head))] if head else []
    lines += [line(row, tags) for row in texts]
    body = "".join(f"<tr>{cells}</tr>" for cells in lines)
    box = f"scroll {css_class}".rstrip()
    return f'<div class="{box}"><table>{body}</table></div>'


def _text(value: Any, whole: bool) -> str:
    """HTML text of a table cell."""
    if value is None:
        return ""
    if isinstance(value, dict):
        value = ", ".join(f"{k} {short(v)}" for k, v in value.items())
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value:,}" if whole else f"{value:.4g}"
    return escape(value)


def folded(title: str, values: Mapping[str, Any]) -> str:
    """A table of dotted names and values, closed until clicked."""
    rows = "".join(
        f'<tr><th>{escape(key)}</th><td class="value">{escape(value)}</td></tr>'
        for key, value in flatten(values)
    )
    return rows and (
        f"<details><summary>{escape(title)}</summary>"
        f'<div class="scroll"><table>{rows}</table></div></details>'
    )


def flatten(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """{"a": {"b": 1}} -> [("a.b", 1)]."""
    if not isinstance(values, Mapping):
        return [(prefix, values)]
    return [
        pair
        for key, value in values.items()
        for pair in flatten(value, f"{prefix}.{key}" if prefix else str(key))
    ]


def embedded(path: Path, alt: str, width: int | None = None) -> str:
    """An <img> of a file, shrunk to `width` pixels if wider."""
    content = path.read_bytes()
    with Image.open(path) as image:
        kind = "gif" if image.format == "GIF" else "png"
        if width and image.width > width:
            size = (width, max(1, round(image.height * width / image.width)))
            small = io.BytesIO()
            image.convert("RGB").resize(size).save(small, "PNG")
            content, kind = small.getvalue(), "png"
    return picture(content, alt, kind)


def picture(content: bytes, alt: str, kind: str = "png") -> str:
    """An <img> with the bytes of a picture inside."""
    data = base64.b64encode(content).decode()
    return f'<img alt="{escape(alt)}" src="data:image/{kind};base64,{data}">'


def figure(caption: str, body: str, css_class: str = "wide") -> str:
    """A figure with HTML in it and plain text above it."""
    return (
        f'<figure class="{css_class}"><figcaption>{escape(caption)}'
        f"</figcaption>{body}</figure>"
    )


def readable(path: Path) -> bool:
    """Returns True if Pillow reads all of it (a run may be writing it)."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError):
        return False
    return True


def escape(value: object) -> str:
    """Text of any value for HTML, quotes included."""
    return html.escape(str(value))


def short(value: Any) -> str:
    """A number in few characters (1234567 -> "1.235 M"), or str(value)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    size = abs(value)
    if size != size or size == math.inf or 1e-3 <= size < 1e4 or not size:
        return f"{value:.4g}"
    for name, unit in _UNITS:
        if unit <= size < 1000 * unit:
            return f"{value / unit:.4g} {name}"
    return f"{value:.3g}"
