"""The packages of vlmkit and the direction of their imports, read from the source code."""

import ast
from pathlib import Path

from svg import Arrow, Box, Point, drawing, row_centers

SOURCE = Path(__file__).parents[2] / "src/vlmkit"
LEAVES = ("compat", "validation", "images", "distributed", "cifar100_classes")
COLORS = [
    ("orange", "model classes"),
    ("green", "work with any model"),
    ("blue", "know no model"),
    ("data", "leaves"),
    ("arrow", "imports"),
]

_ROWS = row_centers(2, 2, 2, 2, 2, 2)
_CENTER, _BASE, _LOSSES, _TRAINING, _INFERENCE, _REPORTS = 174, 96, 252, 432, 602, 731
BOXES = {
    "vlmkit": Box(_CENTER, _ROWS[0], ["vlmkit", "public names"], "orange", 144),
    "registration": Box(_CENTER, _ROWS[1], ["registration", "Auto classes"], "orange", 144),
    "models": Box(_CENTER, _ROWS[2], ["models", "one folder for each model"], "orange", 300),
    "conversion": Box(_TRAINING, _ROWS[2], ["conversion", "original checkpoints"], "orange", 152),
    "base": Box(_BASE, _ROWS[3], ["base", "base classes"], "orange", 144),
    "losses": Box(_LOSSES, _ROWS[3], ["losses", "pure functions"], "blue", 144),
    "training": Box(_TRAINING, _ROWS[3], ["training", "what Trainer lacks"], "green", 152),
    "inference": Box(_INFERENCE, _ROWS[3], ["inference", "runs over tables"], "green", 140),
    "metrics": Box(_REPORTS, _ROWS[3], ["metrics", "scores"], "blue", 90),
    "modules": Box(_CENTER, _ROWS[4], ["modules", "nn.Modules shared by models"], "blue", 300),
    "data": Box(_INFERENCE, _ROWS[4], ["data", "sources, collators"], "blue", 140),
    "analysis": Box(_REPORTS, _ROWS[4], ["analysis", "figures"], "blue", 90),
    "leaves": Box(400, _ROWS[5], [" · ".join(LEAVES), "every package may import them"], "data", 752),
}
# Where the default route of an arrow would cross a box.
ROUTES: dict[tuple[str, str], list[Point]] = {
    ("training", "modules"): [(_TRAINING, _ROWS[3]), (_TRAINING, _ROWS[4] - 8), (_CENTER, _ROWS[4] - 8)],
    ("inference", "modules"): [
        (_INFERENCE - 30, _ROWS[3]),
        (_INFERENCE - 30, _ROWS[3] + 48),
        (_TRAINING + 40, _ROWS[3] + 48),
        (_TRAINING + 40, _ROWS[4] + 12),
        (_CENTER, _ROWS[4] + 12),
    ],
}


def part(module: str) -> str:
    """Return the package of a module: `vlmkit.models.smolvlm` belongs to `models`."""
    return module.split(".")[1] if "." in module else module


def import_graph() -> dict[str, set[str]]:
    """Return which package imports which, without the leaves."""
    files = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        files[".".join(["vlmkit", *parts]).removesuffix(".__init__")] = path
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        targets = graph.setdefault(part(module), set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets |= {part(alias.name) for alias in node.names if alias.name.split(".")[0] == "vlmkit"}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vlmkit":
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                targets |= {part(name if name in files else str(node.module)) for name in names}
        targets.discard(part(module))
    return {name: targets - set(LEAVES) for name, targets in graph.items() if name not in LEAVES}


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Return all packages that one imports, directly or through others."""
    direct = graph[start]
    return direct.union(*(reachable(graph, target) for target in direct))


def direct_imports(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Return which package imports which, without the imports that others imply."""
    return [
        (name, target)
        for name, targets in sorted(graph.items())
        for target in sorted(targets)
        if not any(target in reachable(graph, other) for other in targets - {target})
    ]


def draw() -> str:
    """Return the picture. An import that others imply has no arrow."""
    graph = import_graph()
    if unknown := graph.keys() - BOXES.keys():
        raise ValueError(f"`BOXES` must have a box for each package, but lacks {sorted(unknown)}. Add them.")
    imports = direct_imports(graph)
    description = "Packages as boxes, with an arrow from each package to those that it imports: "
    description += ", ".join(f"{name} imports {target}" for name, target in imports) + "."
    arrows = [Arrow(*names, points=ROUTES.get(names, ())) for names in imports]
    return drawing("Packages of vlmkit", description, BOXES, arrows, colors=COLORS)
