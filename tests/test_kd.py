"""`kd.` is a table of contents: what it lists, what the stub tells editors and what notebooks use are one thing."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

import kdutils as kd

ROOT = Path(__file__).parents[1]


def stub_names() -> set[str]:
    """What the stub imports, each under its own name, as editors need it."""
    imports = [node for node in ast.walk(ast.parse(Path(kd.__file__).with_suffix(".pyi").read_text())) if node]
    aliases = [alias for node in imports if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert all(alias.asname == alias.name for alias in aliases)
    assert len({alias.name for alias in aliases}) == len(aliases)
    return {alias.name for alias in aliases}


def used_names() -> set[str]:
    """The names that notebooks take from `kd`."""
    used = set()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                nodes = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Attribute)]
                used |= {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "kd"}
    return used


def test_it_lists_what_the_stub_has_and_every_name_is_there_and_explained():
    assert set(dir(kd)) == set(kd.__all__) == stub_names()
    for name in dir(kd):
        thing = getattr(kd, name)
        assert not callable(thing) or thing.__doc__, name


def test_notebooks_use_what_it_lists():
    used = used_names()
    assert len(used) > 30 and used <= set(dir(kd))


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="assignmnet"):
        _ = kd.assignmnet


@pytest.mark.parametrize("jedi", [False, True])
def test_tab_completion_lists_exactly_these_names(jedi):
    shell = InteractiveShell()
    shell.user_ns["kd"] = kd
    shell.Completer.use_jedi = jedi
    with provisionalcompleter():
        offered = {completion.text.removeprefix(".") for completion in shell.Completer.completions("kd.", 3)}
    assert offered == set(dir(kd))


def test_importing_it_imports_nothing_heavy():
    code = "import sys, kdutils; dir(kdutils); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert {"torch", "pandas", "matplotlib", "distributed"}.isdisjoint(loaded.split())


def test_the_stub_is_shipped_and_what_reads_it_is_required():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "*.pyi" in project["tool"]["setuptools"]["package-data"]["kdutils"]
    assert any(name.startswith("lazy_loader") for name in project["project"]["dependencies"])
    assert "lazy_loader" in (ROOT / "requirements.txt").read_text()
