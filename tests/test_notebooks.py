"""The notebooks as they are kept: one cell of parameters, prose without results, no outputs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import pytest
from chapters import CHAPTERS

from kdutils.parameters import Parameters
from kdutils.studies import STUDIES
from kdutils.suite import notebook_parameters

PATHS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
LINES, COLUMNS = 25, 120
RESULT = re.compile(r"\d\s*(%|\\%|per ?cent|points?\b)|±|\d\s*\+-\s*\d", re.IGNORECASE)


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def cells(notebook, kind):
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def test_the_chapters_of_the_study_are_there():
    assert set(CHAPTERS) <= {path.stem for path in PATHS}


def test_names_are_two_digits_and_a_phrase(path):
    assert re.fullmatch(r"\d\d(_[a-z0-9]+)+", path.stem)
    assert sum(other.stem[:2] == path.stem[:2] for other in PATHS) == 1


def test_it_is_a_valid_notebook_with_ids_of_its_own(notebook):
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert notebook.nbformat == 4 and len(set(ids)) == len(ids)
    assert notebook.metadata.kernelspec.name == "python3"


def test_no_output_is_kept(notebook):
    for cell in cells(notebook, "code"):
        assert cell.outputs == [] and cell.execution_count is None


def test_its_parameters_are_the_suites(path):
    parameters = notebook_parameters(path)
    assert {"profile", "dataset"} <= parameters.keys() <= Parameters.model_fields.keys()
    assert Parameters(**parameters).profile == "quick" and parameters["dataset"] == "auto"


def test_the_cell_of_parameters_comes_before_all_code_that_uses_them(notebook):
    assert cells(notebook, "code")[0].metadata.get("tags") == ["parameters"]


def test_every_parameter_is_used(path, notebook):
    code = "\n".join(cell.source for cell in cells(notebook, "code")[1:])
    assert [name for name in notebook_parameters(path) if not re.search(rf"\b{name}\b", code)] == []


def test_no_later_cell_gives_a_parameter_another_value(path, notebook):
    """The cell that opens the study would open another one, run again."""
    later = [cell for cell in cells(notebook, "code") if "parameters" not in cell.metadata.get("tags", [])]
    nodes = [node for cell in later for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)]
    assert not {node.id for node in nodes if isinstance(node.ctx, ast.Store)} & set(notebook_parameters(path))


def test_it_begins_with_its_title_and_its_question(notebook):
    title, _, rest = notebook.cells[0].source.partition("\n")
    headings = [
        line for cell in cells(notebook, "markdown") for line in cell.source.splitlines() if re.match(r"# ", line)
    ]
    assert notebook.cells[0].cell_type == "markdown" and headings == [title]
    first_sentence = re.split(r"(?<=[.?!])\s", rest.strip())[0]
    assert first_sentence.endswith("?")


def test_cells_are_short(notebook):
    for cell in cells(notebook, "code"):
        assert len(cell.source.splitlines()) <= LINES, cell.source


def test_cells_compile(path, notebook):
    for cell in cells(notebook, "code"):
        compile(cell.source, path.name, "exec")


def test_prose_states_no_result(notebook):
    """A sentence about a result is computed from it."""
    found = [match.group() for cell in cells(notebook, "markdown") for match in RESULT.finditer(cell.source)]
    assert found == []


def test_results_are_shown_under_names_that_are_used_once(notebook):
    code = "\n".join(cell.source for cell in cells(notebook, "code"))
    for kind in ("figure", "table"):
        names = re.findall(rf'page\.{kind}\(.*?,\s+"(\w+)",\s', code, re.DOTALL)
        assert len(names) == code.count(f"page.{kind}(") == len(set(names)), names


def test_its_metadata_name_the_study_that_it_opens(path, notebook):
    """The suite opens the study of every chapter before it runs any."""
    name = notebook.metadata.kdutils.study
    assert name in STUDIES and notebook.metadata.kdutils == {"study": name}
    opened = [cell.source for cell in cells(notebook, "code") if "kd.open_chapter(" in cell.source]
    (call,) = [node for node in ast.walk(ast.parse("\n".join(opened))) if is_call_of(node, "open_chapter")]
    first, profile, dataset = call.args
    assert (first.value, profile.id, dataset.id) == (name, "profile", "dataset")
    given = {keyword.arg: keyword.value.id for keyword in call.keywords}
    assert given == {one: one for one in notebook_parameters(path) if one not in ("profile", "dataset")}


def is_call_of(node, name):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name


def test_lines_are_short(notebook):
    assert [line for cell in cells(notebook, "code") for line in cell.source.splitlines() if len(line) > COLUMNS] == []


def test_a_spread_says_what_it_is_conditional_on(notebook):
    """In every caption of a spread or an interval."""
    for cell in cells(notebook, "code"):
        claims = len(re.findall(r"mean ± SD|confidence intervals|SD and interval", cell.source))
        assert claims == cell.source.count("{kd.conditions("), cell.source
