"""Chapters as lessons: what a reader needs on top, exercises whose solutions hold, and formulas that are their code."""

from __future__ import annotations

import math
import re
from pathlib import Path

import nbformat
import pytest
from chapters import CHAPTERS

FOLDER = Path(__file__).parents[1] / "notebooks"
LESSONS = tuple(chapter for chapter in CHAPTERS if chapter != "11_explore")
# in each lesson, a line of its code that is a formula, and the same with a mistake
BROKEN = (
    ("00_data", "divmod(place, 9)", "divmod(place, 8)"),
    ("01_baseline_small_cnn", ".log().mean()", ".mean()"),
    ("02_finetune_resnets", "(probabilities - F.one_hot", "(probabilities + F.one_hot"),
    ("03_one_teacher", "weight * temperature**2 * kl", "weight * temperature * kl"),
    ("03_one_teacher", "p * (p / q).log()", "q * (q / p).log()"),
    ("03_one_teacher", "logits / temperature", "logits * temperature"),
    ("04_two_teachers", "logits.mean(0) / temperature", "logits.sum(0) / temperature"),
    ("04_two_teachers", ".softmax(2).mean(0)", ".mean(0).softmax(1)"),
    ("04_two_teachers", "1 - entropy / entropy.sum(0)", "entropy / entropy.sum(0)"),
    ("04_two_teachers", "1 - error.softmax(0)", "error.softmax(0)"),
    ("05_binary_wideresnet", "x.clamp(-1, 1)", "x.clamp(-2, 2)"),
    ("05_binary_wideresnet", "x >= 0", "x > 0"),
    ("06_binary_distillation", "w * T**2 *", "w * T *"),
    ("07_teacher_initialisation", "-(p * p.log()).sum()", "(p * p.log()).sum()"),
    ("08_cifar100_grid", 'reduction="batchmean"', 'reduction="sum"'),
    ("09_report", "sum() / (n - 1)", "sum() / n"),
    ("10_methods", "T**2 * kl(", "T * kl("),
    ("10_methods", "z[~label]", "z[label]"),
    ("10_methods", "correlation(q.T, p.T)", "correlation(q, p)"),
    ("10_methods", "(power * z_t)", "(z_t / power)"),
)


@pytest.fixture(params=LESSONS)
def notebook(request):
    return nbformat.read(FOLDER / f"{request.param}.ipynb", as_version=4)


def tagged(notebook, *tags):
    return [cell for cell in notebook.cells if set(tags) & set(cell.metadata.get("tags", []))]


def follow(notebook, old="", new=""):
    """Run the cells that are formulas or solutions, which need no run and nothing but each other."""
    source = "\n".join(cell.source for cell in tagged(notebook, "show-input", "solution"))
    assert old in source
    exec(compile(source.replace(old, new) if old else source, "lesson", "exec"), {})


def test_the_top_says_what_to_know_and_how_long_it_takes(notebook):
    words = sum(len(cell.source.split()) for cell in notebook.cells if cell.cell_type == "markdown")
    (minutes,) = re.findall(r"Reading\s+takes\s+about\s+(\d+)\s+minutes?", notebook.cells[0].source)
    assert "**Before you start.**" in notebook.cells[0].source
    assert int(minutes) == math.ceil(words / 200), f"{words} words at 200 a minute"


def test_three_exercises_with_folded_solutions_and_references_end_it(notebook):
    headings = [cell.source.splitlines()[0] for cell in notebook.cells if cell.source.startswith("## ")]
    assert headings[-2:] == ["## Exercises", "## References"]
    texts = [place for place, cell in enumerate(notebook.cells) if cell.source.startswith("**Exercise ")]
    assert [notebook.cells[place].source.split()[1] for place in texts] == ["1.**", "2.**", "3.**"]
    assert [notebook.cells[place + 1] for place in texts] == tagged(notebook, "solution")
    for cell in tagged(notebook, "solution"):
        assert cell.source.startswith("# Solution\n"), "JupyterLab shows the first line of a folded cell"
        assert cell.metadata.jupyter.source_hidden and "assert " in cell.source
    assert len(re.findall(r"\]\(https://", notebook.cells[-1].source)) >= 2


def test_a_reader_predicts_and_is_led_on(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "**Predict first.**" in text and "## What to try next" in text


def test_code_of_formulas_and_solutions_fits_a_page(notebook):
    room = (210 - 2 * 24) / 25.4 * 72 - 2 * 7  # points: a page of A4 within its margins, a block within its inset
    shown = tagged(notebook, "show-input", "solution")
    longest = max(len(line) for cell in shown for line in cell.source.splitlines())
    assert longest * 8 * 0.602 <= room  # DejaVu Sans Mono of 8 points


def test_formulas_and_solutions_hold(notebook):
    assert tagged(notebook, "show-input")
    follow(notebook)


@pytest.mark.parametrize(("name", "old", "new"), BROKEN)
def test_a_broken_formula_is_noticed(name, old, new):
    with pytest.raises(AssertionError):
        follow(nbformat.read(FOLDER / f"{name}.ipynb", as_version=4), old, new)


def test_every_lesson_has_a_formula_that_was_broken():
    assert {name for name, _, _ in BROKEN} == set(LESSONS)


def test_every_reference_is_cited(notebook):
    text = "\n".join(cell.source for cell in notebook.cells[:-1])
    listed = re.findall(r"^- (?:[A-Z]\.[ -]?)*([^,.]+?)(?:,| et al|\. \[)", notebook.cells[-1].source, re.MULTILINE)
    assert len(listed) == len(re.findall("^- ", notebook.cells[-1].source, re.MULTILINE))
    assert [name for name in listed if name not in text] == []
