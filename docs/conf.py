"""Sphinx configuration: MyST pages, and API pages made from the docstrings."""

import re
from typing import Any

import vlmkit
from vlmkit.base.configuration import VlmkitConfig

project = "vlmkit"
author = "The vlmkit authors"
copyright = "The vlmkit authors"
release = version = vlmkit.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
# What transformers and huggingface_hub add to every class, or read from it.
autodoc_default_options = {"exclude-members": "config_class, valid_processor_kwargs, validate"}
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_use_rtype = False
napoleon_use_ivar = True  # a property described under Attributes appears once
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"vlmkit {release}"

_TABLE = re.compile(r"(?:^\|.*\|$\n?)+", re.MULTILINE)
_CODE = re.compile(r"\[`(?P<reference>[\w.]+)`\]|`(?P<literal>[^`]+)`")


def markdown_to_rst(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn the docstrings' [`Name`] into links, their `code` into literals, and their tables into list tables."""
    text = _CODE.sub(
        lambda m: f":py:obj:`.{m['reference']}`" if m["reference"] else f"``{m['literal']}``", "\n".join(lines)
    )
    lines[:] = _TABLE.sub(lambda m: _list_table(m[0]), text).split("\n")


def _list_table(table: str) -> str:
    """Return a Markdown table with a header as a list table."""
    rows = [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in table.strip().split("\n")]
    cells = [
        "   " + ("* - " if column == 0 else "  - ") + cell
        for row in (rows[0], *rows[2:])
        for column, cell in enumerate(row)
    ]
    return "\n".join([".. list-table::", "   :header-rows: 1", "", *cells, ""])


def own_fields_only(app: Any, what: str, name: str, obj: Any, options: Any, signature: str, returns: str) -> Any:
    """Leave the fields that every transformers configuration has out of a configuration's signature."""
    if what == "class" and issubclass(obj, VlmkitConfig):
        return "(*, " + signature.partition("*, ")[2], returns
    return None


def setup(app: Any) -> None:
    """Run before napoleon, which has the default priority of 500."""
    app.connect("autodoc-process-signature", own_fields_only)
    app.connect("autodoc-process-docstring", markdown_to_rst, priority=400)
