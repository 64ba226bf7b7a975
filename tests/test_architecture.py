"""Imports within vlmkit point one way, and files and functions stay small."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

import vlmkit

ROOT = Path(__file__).parent.parent
SOURCE = Path(vlmkit.__file__).parent
MAX_BODY_LINES = 50
MAX_LINES = 400
MAX_MODELING_LINES = 800  # a model is read from top to bottom, and its file is not cut
FORBIDDEN = {"benchmarks", "docs", "examples", "tests"}

LEAVES = {"cifar100_classes", "compat", "distributed", "images", "validation"}
# What each part of vlmkit may import of vlmkit, beside itself. The package's own `__init__` is the part "vlmkit".
ALLOWED = {
    **{leaf: set() for leaf in LEAVES},
    "modules": LEAVES,
    "losses": LEAVES | {"modules"},
    "base": LEAVES | {"modules", "losses"},
    "models": LEAVES | {"modules", "losses", "base"},
    "registration": LEAVES | {"modules", "losses", "base", "models"},
    "vlmkit": LEAVES | {"modules", "losses", "base", "models", "registration"},
    "data": LEAVES,
    "metrics": LEAVES,
    "analysis": LEAVES,
    "inference": LEAVES | {"modules", "data"},
    "training": LEAVES | {"modules", "data", "inference"},
    "conversion": LEAVES | {"modules", "losses", "base", "models", "data", "metrics", "analysis", "training"},
}
# Private names of transformers, peft and accelerate. Only `compat` may use them.
PRIVATE_NAMES = (
    "_get_default_generation_params",
    "_is_hf_initialized",
    "_merge_kwargs",
    "_model_mapping",
    "_upload_modified_files",
    "conversion_mapping",
    "core_model_loading",
    "get_decay_parameter_names",
    "TransformersKwargs.__annotations__",
)
# Names that vlmkit had before its first release, which the field calls otherwise.
OLD_WORDS = (
    "GivenTokensConfig",
    "WritingModel",
    "ImageReader",
    "added_to_scores",
    "cache_image_tokens",
    "check_hands_on_keywords",
    "given_tokens",
    "image_columns",
    "image_key_values",
    "images_beside_texts",
    "is_place",
    "num_places",
    "optimizer_with_part_rates",
    "part_rates",
    "phase_progress",
    "progress_of_phases",
    "published_config",
    "refuse_",
    "view_sizes",
    "without_timm",
)


def module_files(source: Path) -> dict[str, Path]:
    """Dotted name to file, for a package `vlmkit` in the folder `source`."""
    files = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        files[".".join(["vlmkit", *parts]).removesuffix(".__init__")] = path
    return files


def imported_modules(path: Path, files: dict[str, Path]) -> set[str]:
    """Dotted names of all that a file imports, at its top or later; of `from a import b`, `a.b` if that is a module."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names = {f"{base}.{alias.name}" for alias in node.names}
            imported |= {name if name in files else base for name in names}
    return imported


def part(module: str) -> str:
    """`vlmkit.models.dual_encoder` belongs to `models`."""
    return module.split(".")[1] if "." in module else module


def faults(source: Path) -> list[str]:
    """Every import that runs against `ALLOWED`, every circle and every relative import."""
    files = module_files(source)
    found, graph = [], {}
    for module, path in files.items():
        imported = imported_modules(path, files)
        if part(module) not in ALLOWED:
            found.append(f"{part(module)} has no row in ALLOWED")
            continue
        allowed = ALLOWED[part(module)] | {part(module)}
        ours = {name for name in imported if name.split(".")[0] == "vlmkit"}
        found += [f"{module} imports {name}" for name in sorted(ours) if part(name) not in allowed]
        found += [f"{module} imports {name}" for name in sorted(imported) if name.split(".")[0] in FORBIDDEN]
        found += [f"{module} imports {name} relatively" for name in sorted(imported) if name.startswith(".")]
        graph[module] = ours - {module}
    return found + [f"{' -> '.join(circle)} is a circle" for circle in circles(graph)]


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """A circle for each module that is first found to reach itself."""
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> None:
        if module in trail:
            found.append([*trail[trail.index(module) :], module])
        elif module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, [*trail, module])
            done.add(module)

    for module in graph:
        visit(module, [])
    return found


def test_imports_point_one_way():
    assert not faults(SOURCE)


@pytest.mark.parametrize("path", module_files(SOURCE).values(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_are_small(path):
    limit = MAX_MODELING_LINES if path.name.startswith("modeling_") else MAX_LINES
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit


def test_file_names_are_unique():
    names = [path.name for path in SOURCE.rglob("*.py") if path.name != "__init__.py"]
    assert {name for name in names if names.count(name) > 1} == set()


def test_folders_of_the_package():
    folders = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert folders == ALLOWED.keys() - {
        "cifar100_classes",
        "distributed",
        "images",
        "validation",
        "registration",
        "vlmkit",
    }


def words_found(words: tuple[str, ...], paths: Iterable[Path]) -> set[tuple[str, str]]:
    """Return the files, relative to the repository, that contain one of the words, each with the word."""
    contents = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}
    return {
        (name, word)
        for name, content in contents.items()
        for word in words
        if re.search(rf"\b{re.escape(word)}", content)
    }


def test_private_names_are_used_in_compat_only():
    paths = set(SOURCE.rglob("*.py"))
    inside = {path for path in paths if path.is_relative_to(SOURCE / "compat")}
    assert words_found(PRIVATE_NAMES, paths - inside) == set()
    assert {word for _, word in words_found(PRIVATE_NAMES, inside)} == set(PRIVATE_NAMES)


@pytest.mark.parametrize(
    ("folder", "pattern"), [("src", "*.py"), ("examples", "*.py"), ("examples", "*.md"), ("docs", "*.md")]
)
def test_old_words_are_gone(folder, pattern):
    paths = list((ROOT / folder).rglob(pattern))
    assert paths
    assert words_found(OLD_WORDS, paths) == set()


def positional_arguments(function: ast.FunctionDef) -> list[str]:
    """Return the arguments beyond the first two, `self` left out, that can be passed by position."""
    return [argument.arg for argument in function.args.args if argument.arg not in ("self", "cls")][2:]


@pytest.mark.parametrize("folder", ["losses", "modules"])
def test_arguments_beyond_the_second_are_keyword_only(folder):
    found = {
        f"{path.name}: {node.name}": positional_arguments(node)
        for path in (SOURCE / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        and (node.name == "__init__" or not node.name.startswith("_"))
        and node.name != "forward"
    }
    assert found
    assert {name: names for name, names in found.items() if names} == {}


def body_lines(function: ast.FunctionDef) -> int:
    """How many lines a function has behind its signature and docstring."""
    body = function.body if ast.get_docstring(function) is None else function.body[1:]
    return function.end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("folder", ["benchmarks", "examples", "src"])
def test_functions_are_small(folder):
    lengths = {
        f"{path.relative_to(ROOT)}: {node.name}": body_lines(node)
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert lengths
    assert {name: lines for name, lines in lengths.items() if lines > MAX_BODY_LINES} == {}


def test_the_table_allows_only_what_it_has_a_row_for():
    assert set().union(*ALLOWED.values()) <= ALLOWED.keys()


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"modules/a.py": "from vlmkit.models.b import B"}, "vlmkit.modules.a imports vlmkit.models.b"),
        ({"losses/a.py": "import vlmkit.base"}, "vlmkit.losses.a imports vlmkit.base"),
        ({"data/a.py": "def f():\n    from vlmkit import Model"}, "vlmkit.data.a imports vlmkit"),
        ({"training/a.py": "from vlmkit import base"}, "vlmkit.training.a imports vlmkit"),
        ({"models/a.py": "from tests import tiny"}, "vlmkit.models.a imports tests"),
        ({"models/a.py": "from ..losses import b"}, "vlmkit.models.a imports ..losses relatively"),
        ({"utils.py": ""}, "utils has no row in ALLOWED"),
        (
            {"data/a.py": "import vlmkit.data.b", "data/b.py": "from vlmkit.data import a"},
            "vlmkit.data.a -> vlmkit.data.b -> vlmkit.data.a is a circle",
        ),
    ],
)
def test_a_fault_is_found(tmp_path, files, fault):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert faults(tmp_path) == [fault]
