"""The pieces a report page is made of: style, sections, tables, pictures.

Whatever comes from a run passes `escape` on its way into the page.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from i2i_prior.report.curves import short

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
.plots{grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr))}
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
img{max-width:100%;height:auto;border-radius:4px;display:block}
.strip{display:flex;gap:12px;overflow-x:auto;padding:12px 0}
.strip figure{margin:0;flex:0 0 210px}
.scroll{overflow-x:auto;padding:0}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{padding:7px 12px;text-align:left;vertical-align:top;
border-bottom:1px solid var(--line)}
tr:last-child td{border-bottom:0}
th{color:var(--soft);font-weight:600;white-space:nowrap}
td.number{text-align:right;font-variant-numeric:tabular-nums}
td.value{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:13px;
overflow-wrap:anywhere}
pre.scroll{padding:12px 14px;font-size:13px}
details{margin:12px 0}summary{cursor:pointer;padding:6px 0;font-weight:600}
"""


def section(title: str, body: str) -> str:
    """A headed part of the page; nothing where `body` is nothing."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def folded(title: str, values: Mapping[str, Any]) -> str:
    """A table of dotted names and values, closed until clicked."""
    rows = "".join(
        f'<tr><th>{escape(key)}</th><td class="value">{escape(value)}</td></tr>'
        for key, value in flatten(values)
    )
    if not rows:
        return ""
    return (
        f"<details><summary>{escape(title)}</summary>"
        f'<div class="scroll"><table>{rows}</table></div></details>'
    )


def cell(value: Any, whole: bool = False) -> str:
    """A table cell; numbers in four digits, or in all with `whole`."""
    if value is None:
        return "<td></td>"
    if isinstance(value, dict):
        value = ", ".join(f"{k} {short(v)}" for k, v in value.items())
    if isinstance(value, int | float) and not isinstance(value, bool):
        text = f"{value:,}" if whole else f"{value:.4g}"
        return f'<td class="number">{escape(text)}</td>'
    return f"<td>{escape(value)}</td>"


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
    """An <img> with its bytes inside, shrunk to `width` pixels if wider."""
    content = path.read_bytes()
    with Image.open(path) as image:
        kind = "gif" if image.format == "GIF" else "png"
        if width and image.width > width:
            size = (width, max(1, round(image.height * width / image.width)))
            small = io.BytesIO()
            image.convert("RGB").resize(size).save(small, "PNG")
            content, kind = small.getvalue(), "png"
    data = base64.b64encode(content).decode()
    return f'<img alt="{escape(alt)}" src="data:image/{kind};base64,{data}">'


def readable(path: Path) -> bool:
    """Whether Pillow reads it to the end (a run may just be writing it)."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError):
        return False
    return True


def escape(value: object) -> str:
    """Any value as text that HTML shows as it is, quotes included."""
    return html.escape(str(value))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none to read."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
