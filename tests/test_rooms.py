"""The order of rooms: a module imports only rooms that stand before its own."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "i2i_prior"
ROOMS = (
    *("version", "errors", "io", "config", "report", "parallel"),
    *("distributed", "diffusion", "models", "data", "tasks", "flops"),
    *("interop", "checkpoint", "inference", "evaluation", "training"),
    *("inspection", "aot", "sweeps", "scaling_laws", "train", "commands"),
    *("cli", "__init__"),
)


def imports(file: Path) -> set[str]:
    """Modules of the package that a file imports, within functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                full = f"{node.module}.{name.name}"
                found.add(full if full in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


MODULES = {
    ".".join(("i2i_prior", *file.relative_to(PACKAGE).with_suffix("").parts))
    .removesuffix(".__init__"): file
    for file in PACKAGE.rglob("*.py")
    if "torch_export" not in file.parts  # one file on its own, for torch
}  # fmt: skip
GRAPH = {
    module: (imports(file) & set(MODULES)) - {module}
    for module, file in MODULES.items()
}


def room(module: str) -> str:
    """The part of a module's name below the package."""
    return f"{module}.__init__".split(".")[1]


def test_a_room_imports_only_rooms_before_it():
    wrong = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in others
        if room(other) != room(module)
        and ROOMS.index(room(other)) > ROOMS.index(room(module))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle():
    left = dict(GRAPH)
    while free := [m for m, others in left.items() if not others & set(left)]:
        for module in free:
            del left[module]
    assert not left, f"in a circle, or above one: {sorted(left)}"


def test_few_modules_lie_beside_the_rooms():
    beside = [file.stem for file in PACKAGE.glob("*.py")]
    assert len(beside) - 1 <= 8, beside
