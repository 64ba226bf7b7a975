"""Imports within vlmkit point one way, and names, files and functions keep to the design."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import vlmkit

ROOT = Path(__file__).parent.parent
SOURCE = Path(vlmkit.__file__).parent
MAX_BODY_LINES = 50
MAX_LINES = 400
MAX_MODELING_LINES = 800  # a model is read from top to bottom, so its file is not cut
FORBIDDEN = {"benchmarks", "docs", "examples", "tests"}

LEAVES = {"cifar100_classes", "compat", "distributed", "images", "validation"}
# The order of the packages that define models. Each may import those before it.
MODEL_LAYERS = ("modules", "losses", "base", "models", "registration", "vlmkit")
# The packages that each package may import. The package's own `__init__` is called "vlmkit".
ALLOWED = {
    **dict.fromkeys(LEAVES, LEAVES),
    **{layer: LEAVES.union(MODEL_LAYERS[:position]) for position, layer in enumerate(MODEL_LAYERS)},
    "data": LEAVES,
    "metrics": LEAVES,
    "analysis": LEAVES,
    "inference": LEAVES | {"modules", "data"},
    "training": LEAVES | {"modules", "data", "inference"},
    "conversion": LEAVES.union(MODEL_LAYERS[:4], {"data", "metrics", "analysis", "inference", "training"}),
}
FOLDERS = ALLOWED.keys() - {"cifar100_classes", "distributed", "images", "validation", "registration", "vlmkit"}
DATA_FOLDERS = {"chats", "image_pairs", "scenes", "sources", "transforms"}
MODELS = {"dual_encoder", "paired_cifar", "qformer_aligner", "qformer_captioner", "smolvlm"}

# Names of private or version-dependent APIs of transformers, peft and accelerate.
PRIVATE_NAMES = {
    "TransformersKwargs.__annotations__",
    "_get_default_generation_params",
    "_is_hf_initialized",
    "_merge_kwargs",
    "_model_mapping",
    "_upload_modified_files",
    "conversion_mapping",
    "core_model_loading",
    "get_decay_parameter_names",
    "past_key_values",
    "transformers.SubConfigSpec",
    "transformers.__version__",
}
# Names from before the first release, each of which has a successor that the field knows.
OLD_NAMES = (
    "GivenTokensConfig",
    "ImageReader",
    "PhaseProgress",
    "WritingModel",
    "added_to_scores",
    "cache_image_tokens",
    "chats_of",
    "check_hands_on_keywords",
    "encode_or_take",
    "first_rows",
    "flat_token_mask",
    "given_tokens",
    "image_columns",
    "image_key_values",
    "image_reader",
    "images_beside_texts",
    "interleave",
    "is_place",
    "name_of",
    "num_places",
    "one_of",
    "optimizer_with_part_rates",
    "part_rates",
    "phase_progress",
    "pixel_mask",
    "progress_of_phases",
    "published_config",
    r"refuse_\w+",
    "text_part",
    "token_mask",
    "view_sizes",
    "views",
    "vision_part",
    "without_timm",
)
# Words that are old as names of functions, classes and arguments, but may occur in other meanings.
OLD_DEFINITIONS = {"digest", "image_tokens", "nearest", "num_views", "pick", "places", "refuse"}


def module_files(source: Path) -> dict[str, Path]:
    """Dotted name to file, for a package `vlmkit` in the folder `source`."""
    files = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        files[".".join(["vlmkit", *parts]).removesuffix(".__init__")] = path
    return files


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_modules(path: Path, files: dict[str, Path]) -> set[str]:
    """Dotted names of all that a file imports, at its top or later; of `from a import b`, `a.b` if that is a module."""
    imported = set()
    for node in ast.walk(parse(path)):
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


def test_the_table_allows_only_what_it_has_a_row_for():
    assert set().union(*ALLOWED.values()) <= ALLOWED.keys()


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"modules/a.py": "from vlmkit.models.b import B"}, "vlmkit.modules.a imports vlmkit.models.b"),
        ({"modules/a.py": "from vlmkit.losses.b import B"}, "vlmkit.modules.a imports vlmkit.losses.b"),
        ({"losses/a.py": "import vlmkit.base"}, "vlmkit.losses.a imports vlmkit.base"),
        ({"base/a.py": "import vlmkit.registration"}, "vlmkit.base.a imports vlmkit.registration"),
        ({"compat/a.py": "from vlmkit.modules import B"}, "vlmkit.compat.a imports vlmkit.modules"),
        ({"data/a.py": "def f():\n    from vlmkit import Model"}, "vlmkit.data.a imports vlmkit"),
        ({"metrics/a.py": "from vlmkit.data import B"}, "vlmkit.metrics.a imports vlmkit.data"),
        ({"analysis/a.py": "from vlmkit.base.modeling import B"}, "vlmkit.analysis.a imports vlmkit.base.modeling"),
        ({"inference/a.py": "from vlmkit.training import B"}, "vlmkit.inference.a imports vlmkit.training"),
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


# Folders and files


def subfolders(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("*/__init__.py")}


def test_folders_of_the_package():
    assert subfolders(SOURCE) == FOLDERS
    assert subfolders(SOURCE / "data") == DATA_FOLDERS
    assert subfolders(SOURCE / "models") == MODELS


@pytest.mark.parametrize("model", sorted(MODELS))
def test_files_of_a_model(model):
    wanted = {f"{prefix}_{model}.py" for prefix in ("configuration", "modeling", "processing")}
    assert wanted <= {path.name for path in (SOURCE / "models" / model).iterdir()}


def test_tests_mirror_the_package():
    folders = {path.parent.relative_to(SOURCE) for path in SOURCE.rglob("*.py")}
    assert {str(folder) for folder in folders if not (ROOT / "tests" / folder).is_dir()} == set()


def test_file_names_are_unique():
    names = [path.name for path in SOURCE.rglob("*.py") if path.name != "__init__.py"]
    assert {name for name in names if names.count(name) > 1} == set()


def test_class_names_are_unique():
    nodes = [(path, node) for path in SOURCE.rglob("*.py") for node in ast.walk(parse(path))]
    names = [node.name for _, node in nodes if isinstance(node, ast.ClassDef)]
    assert {name for name in names if names.count(name) > 1} == set()


@pytest.mark.parametrize("path", module_files(SOURCE).values(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_are_small(path):
    limit = MAX_MODELING_LINES if path.name.startswith("modeling_") else MAX_LINES
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit


# Names


def used_names(tree: ast.Module) -> Iterator[str]:
    """Identifiers and strings of a file. Docstrings and comments are left out.

    Attributes also with the name of their object (`transformers.__version__`), imports with that of their library.
    """
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        for field in ("arg", "asname", "attr", "id", "name"):
            if isinstance(name := getattr(node, field, None), str):
                yield from name.split(".")
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from node.module.split(".")
            yield from (f"{node.module.split('.')[0]}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def private_names(paths: Iterable[Path]) -> dict[str, set[str]]:
    """The private APIs that files use, by the name of the file."""
    found = {path.name: PRIVATE_NAMES.intersection(used_names(parse(path))) for path in paths}
    return {name: names for name, names in found.items() if names}


def test_private_names_are_used_in_compat_only():
    paths = set(SOURCE.rglob("*.py"))
    inside = {path for path in paths if path.is_relative_to(SOURCE / "compat")}
    assert private_names(paths - inside) == {}
    assert set().union(*private_names(inside).values()) == PRIVATE_NAMES


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("processor._merge_kwargs()", "_merge_kwargs"),
        ("from transformers.conversion_mapping import get", "conversion_mapping"),
        ("import transformers.core_model_loading as loading", "core_model_loading"),
        (
            "from transformers.configuration_utils import SubConfigSpec",
            "transformers.SubConfigSpec",
        ),
        ("setattr(part, '_is_hf_initialized', True)", "_is_hf_initialized"),
        ("def forward(past_key_values): pass", "past_key_values"),
        ("model(past_key_values=None)", "past_key_values"),
        ("transformers.__version__ > '5.23'", "transformers.__version__"),
        ("from transformers import __version__", "transformers.__version__"),
        ("names = TransformersKwargs.__annotations__", "TransformersKwargs.__annotations__"),
    ],
)
def test_a_private_name_is_found(tmp_path, code, name):
    path = tmp_path / "a.py"
    path.write_text(f'"""The names past_key_values and _merge_kwargs do not count here."""\n{code}')
    assert private_names([path]) == {"a.py": {name}}


@pytest.mark.parametrize(
    ("folder", "pattern"),
    [("src", "*.py"), ("examples", "*.py"), ("examples", "*.md"), ("benchmarks", "*.py"), ("docs", "*.md")],
)
def test_old_names_are_gone(folder, pattern):
    paths = [path for path in (ROOT / folder).rglob(pattern) if "_build" not in path.parts]
    assert paths
    words = re.compile(rf"\b({'|'.join(OLD_NAMES)})\b")
    found = {str(path.relative_to(ROOT)): words.findall(path.read_text(encoding="utf-8")) for path in paths}
    assert {name: names for name, names in found.items() if names} == {}


def test_old_words_name_no_function_class_or_argument():
    nodes = [(path, node) for path in SOURCE.rglob("*.py") for node in ast.walk(parse(path))]
    names = {
        (str(path.relative_to(SOURCE)), node.arg if isinstance(node, ast.arg) else node.name)
        for path, node in nodes
        if isinstance(node, ast.arg | ast.ClassDef | ast.FunctionDef)
    }
    assert names
    assert {(path, name) for path, name in names if name.lstrip("_") in OLD_DEFINITIONS} == set()


# Functions


def argument_names(function: ast.FunctionDef) -> tuple[list[str], list[str]]:
    """The arguments that can be passed by position, and the keyword-only ones."""
    positional = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    own = [name for name in positional if name not in ("self", "cls")]
    return own, [argument.arg for argument in function.args.kwonlyargs]


def functions(folder: Path) -> list[tuple[str, ast.FunctionDef]]:
    """The functions and methods of a folder, each with the name of its file."""
    return [
        (str(path.relative_to(folder)), node)
        for path in folder.rglob("*.py")
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef)
    ]


def test_constructors_of_modules_are_keyword_only_after_the_first_argument():
    constructors = [(path, node) for path, node in functions(SOURCE / "modules") if node.name == "__init__"]
    assert constructors
    found = {}
    for path, node in constructors:
        positional, keyword_only = argument_names(node)
        if len(positional) + len(keyword_only) > 2 and len(positional) > 1:
            found[f"{path}:{node.lineno}"] = positional[1:]
    assert found == {}


@pytest.mark.parametrize("folder", ["losses", "modules"])
def test_functions_are_keyword_only_after_the_second_argument(folder):
    public = [
        (path, node)
        for path, node in functions(SOURCE / folder)
        if not node.name.startswith("_") and node.name != "forward"
    ]
    assert public
    found = {f"{path}: {node.name}": argument_names(node)[0][2:] for path, node in public}
    assert {name: names for name, names in found.items() if names} == {}


def body_lines(function: ast.FunctionDef) -> int:
    """How many lines a function has behind its signature and docstring."""
    body = function.body if ast.get_docstring(function) is None else function.body[1:]
    return function.end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("folder", ["benchmarks", "examples", "src"])
def test_functions_are_small(folder):
    lengths = {f"{path}: {node.name}": body_lines(node) for path, node in functions(ROOT / folder)}
    assert lengths
    assert {name: lines for name, lines in lengths.items() if lines > MAX_BODY_LINES} == {}
