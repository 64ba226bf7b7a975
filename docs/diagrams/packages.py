"""The packages of vlmkit and the direction of their imports, read from the source code."""

import ast
from pathlib import Path

from svg import Box, drawing

SOURCE = Path(__file__).parents[2] / "src/vlmkit"
LEAVES = ("compat", "validation", "images", "distributed", "cifar100_classes")
BOXES = {
    "vlmkit": Box(190, 40, ["vlmkit", "public names"], "output"),
    "registration": Box(190, 120, ["registration", "Auto classes"], "output"),
    "conversion": Box(460, 120, ["conversion", "original checkpoints"], "trained", 150),
    "models": Box(190, 200, ["models", "config, model, processor"], "output", 170),
    "base": Box(190, 290, ["base", "shared base classes"], "output", 150),
    "training": Box(370, 290, ["training", "what Trainer lacks"], "trained", 140),
    "inference": Box(540, 290, ["inference", "tables in, results out"], "trained", 150),
    "losses": Box(70, 380, ["losses", "pure functions"], "output", 110),
    "modules": Box(250, 380, ["modules", "nn.Modules"], "output", 110),
    "data": Box(500, 380, ["data", "loaders, batches"], "trained", 120),
    "metrics": Box(630, 380, ["metrics", "scores"], "trained", 100),
    "analysis": Box(735, 380, ["analysis", "plots, reports"], "trained", 100),
    "leaves": Box(400, 465, [" · ".join(LEAVES), "leaves, which every package may import"], "input", 770),
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
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vlmkit"):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                targets |= {part(name if name in files else str(node.module)) for name in names}
        targets.discard(part(module))
    return {name: targets - set(LEAVES) for name, targets in graph.items() if name not in LEAVES}


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Return all packages that one imports, directly or through others."""
    direct = graph[start]
    return direct.union(*(reachable(graph, target) for target in direct))


def draw() -> str:
    """Return the picture. An import that follows from others has no arrow."""
    graph = import_graph()
    if unknown := graph.keys() - BOXES.keys():
        raise ValueError(f"BOXES must have a position for every package, but lacks {sorted(unknown)}.")
    arrows = [
        (name, target)
        for name, targets in sorted(graph.items())
        for target in sorted(targets)
        if not any(target in reachable(graph, other) for other in targets - {target})
    ]
    return drawing(
        "Packages of vlmkit",
        "Packages as boxes, with arrows to what they import: " + ", ".join(f"{a} imports {b}" for a, b in arrows) + ".",
        BOXES,
        arrows,
        height=500,
        explain_colors=False,
    )
