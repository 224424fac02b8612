"""docs/architecture.md and the README agree with the files."""

import re

import pytest

from tests.conftest import ROOT
from tests.test_rooms import ROOMS

ARCHITECTURE = ROOT / "docs" / "architecture.md"
README = ROOT / "README.md"


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def part(text: str, title: str) -> str:
    """The text below a heading, up to the next one."""
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def first_column(table: str) -> list[str]:
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in quoted(row.split("|")[1])]


def test_rooms_stand_in_the_order_that_is_tested():
    rooms = part(ARCHITECTURE.read_text(), "Rooms")
    assert first_column(rooms) == list(ROOMS)


@pytest.mark.parametrize("file", [ARCHITECTURE, README], ids=lambda p: p.name)
def test_paths_that_are_named_exist(file):
    text = file.read_text()
    if file == README:
        names = first_column(part(text, "How it is made"))
    else:
        names = [name for name in quoted(text) if "/" in name]
    assert len(names) > 10
    # NAME stands for a file that is yet to be written.
    paths = [re.sub(r"/NAME\.\w+$", "", name) for name in names]
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing
