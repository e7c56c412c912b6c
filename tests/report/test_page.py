"""A page shows every result with its caption, and keeps it for the report where one is being made."""

from __future__ import annotations

import base64
import errno
import html
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from papers import page_texts
from PIL import Image

from kdutils.distillation.methods import KD
from kdutils.errors import InputError
from kdutils.report import page as display, plots
from kdutils.report.page import Page, rendered
from kdutils.report.publish import export
from kdutils.settings import write_atomic

SETTING = "Synthetic data: 200 training images; profile smoke."
FRAME = pd.DataFrame(
    {"classifier": ["small CNN", "ResNet18"], "n": [3, 3], "test (%)": ["62.43 ± 0.20", "78.00 ± 0.31"]}
)


@pytest.fixture
def shown(monkeypatch):
    """What was displayed: pairs of data and metadata."""
    seen = []
    monkeypatch.setattr(display, "display", lambda data, metadata=None, raw=False: seen.append((data, metadata)))
    return seen


@pytest.fixture
def report(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_REPORT_DIR", str(tmp_path / "report"))
    monkeypatch.setenv("KD_CHAPTER", "03_one_teacher")
    return tmp_path / "report"


def a_figure():
    columns = pd.Index([2.0, 4.0], name="temperature")
    table = pd.DataFrame([[50.0, 51.0]], index=pd.Index([0.5], name="kd_weight"), columns=columns)
    return plots.plot_grid(table, KD(temperature=4.0, kd_weight=0.5))


def files(folder: Path):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_figure_is_shown_with_its_caption_and_closed(shown):
    plt.close("all")
    Page(SETTING).figure(a_figure(), "curves", "Accuracy by epoch.")
    (data, metadata), (caption, about) = shown
    text = f"Accuracy by epoch. {SETTING}"
    assert (
        data["image/svg+xml"].lstrip().startswith("<?xml")
        and data["image/png"].startswith(b"\x89PNG")
        and data["text/plain"] == text
    )
    assert metadata == {"kdutils": {"kind": "figure", "name": "curves", "caption": text}}
    assert caption["text/markdown"] == f"*{text}*" and about == {"kdutils": {"kind": "caption"}}
    assert plt.get_fignums() == []


def test_an_illustration_says_that_it_shows_no_run_and_claims_no_setting(shown):
    Page(SETTING).figure(a_figure(), "setup", "Distillation as a picture.", is_illustration=True)
    text = "Distillation as a picture. An illustration: no image and no run of this study is in it."
    assert shown[0][1]["kdutils"]["caption"] == text and shown[1][0]["text/markdown"] == f"*{text}*"


def test_a_table_is_shown_with_its_caption(shown):
    Page(SETTING).table(FRAME, "metrics", "After the last epoch.")
    (data, metadata), (caption, about) = shown
    text = f"After the last epoch. {SETTING}"
    assert metadata == {"kdutils": {"kind": "table", "name": "metrics", "caption": text}}
    assert caption["text/markdown"] == f"*{text}*" and about == {"kdutils": {"kind": "caption"}}
    assert all(f"<td>{cell}</td>" in data["text/html"] for cell in FRAME["test (%)"])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in data["text/markdown"].splitlines()]
    assert rows[0] == list(FRAME.columns) and rows[2:] == [
        ["small CNN", "3", "62.43 ± 0.20"],
        ["ResNet18", "3", "78.00 ± 0.31"],
    ]


def test_a_table_without_rows_is_not_shown_and_says_once_why(shown, report, monkeypatch):
    said, page, empty = [], Page(SETTING), FRAME[:0]
    monkeypatch.setattr(page, "say", said.append)
    page.table(empty, "metrics", "Caption.")
    empty.attrs["instead"] = "There is none."
    page.table(empty, "metrics", "Caption.")
    page.table(empty.copy(), "published", "Caption.")
    assert said == ["There is none."] and not shown and not files(report)


def test_numbers_stand_right_and_words_left(shown):
    Page(SETTING).table(FRAME.assign(remark=["Task 1", "Task 2"]), "metrics", "Caption.")
    rule = shown[0][0]["text/markdown"].splitlines()[1].strip("|").split("|")
    assert [cell.endswith(":") for cell in rule] == [False, True, True, False]


def test_intervals_and_absent_numbers_stand_right_too(shown):
    columns = {"gain": ["a", "b"], "interval": ["[+2.10, +5.70]", "[−1.00, +2.00]"], "some": ["–", "+1.20"]}
    Page(SETTING).table(pd.DataFrame(columns | {"none": ["–", "–"], "words": ["–", "of one"]}), "gains", "Gains.")
    markdown = shown[0][0]["text/markdown"].splitlines()[1]
    right = [cell.endswith(":") and not cell.startswith(":") for cell in markdown.strip("|").split("|")]
    assert right == [False, True, True, False, False]


def test_numbers_are_shown_as_they_were_written(shown):
    Page(SETTING).table(
        pd.DataFrame({"what": ["loss", "gain"], "value": ["1.2700", "+3.10"], "commit": ["1e10", "00123"]}),
        "t",
        "Caption.",
    )
    for form in ("text/markdown", "text/html"):
        assert all(text in shown[0][0][form] for text in ("1.2700", "+3.10", "1e10", "00123"))


def test_a_sentence_is_prose(monkeypatch):
    said = []
    monkeypatch.setattr(display, "display", said.append)
    Page(SETTING).say("No gain.")
    assert [text.data for text in said] == ["No gain."]


def test_an_answer_takes_the_place_that_was_kept_for_it(monkeypatch):
    cell = {}  # what a notebook shows, by display_id

    def shows(data, display_id, update=False, **kwargs):
        assert (display_id in cell) == update
        cell[display_id] = data["text/markdown"]

    monkeypatch.setattr("kdutils.report.page.display", shows)
    page = Page(SETTING)
    page.open_top()
    assert cell == {"answer": "**Answer.** It is computed at the end of this chapter.", "time": ""}
    page.time("A minute.")
    page.answer("yes.")
    assert cell == {"answer": "**Answer.** Yes.", "time": "A minute."}


def test_results_are_kept_for_the_report_under_their_chapter(shown, report):
    page = Page(SETTING)
    page.figure(a_figure(), "curves", "Caption.")
    page.table(FRAME, "metrics", "Caption.")
    assert files(report) == ["figures/03_curves.png", "figures/03_curves.svg", "tables/03_metrics.csv"]
    assert pd.read_csv(report / "tables/03_metrics.csv").equals(FRAME)
    assert (report / "figures/03_curves.png").read_bytes() == shown[0][0]["image/png"]
    assert (report / "figures/03_curves.svg").read_text() == shown[0][0]["image/svg+xml"]


@pytest.mark.parametrize("layout", ["constrained", None])
def test_both_files_of_a_figure_hold_all_of_it_at_160_dots_per_inch(layout):
    figure, axes = plt.subplots(figsize=(3, 2), layout=layout, facecolor="white")
    axes.set_axis_off()
    axes.add_patch(
        plt.Rectangle((-0.5, 0), 2, 1, transform=axes.transAxes, color="red", clip_on=False)
    )  # beyond the axes
    box = figure.get_tightbbox().padded(0.1)
    files = rendered(figure)
    plt.close(figure)
    svg = ElementTree.fromstring(files["svg"])
    size = [float(svg.get(side).removesuffix("pt")) for side in ("width", "height")]
    assert size[0] == pytest.approx(72 * box.width, rel=0.1) and size[0] > 1.5 * 72 * 3
    pixels = np.asarray(Image.open(io.BytesIO(files["png"])))
    assert pixels.shape[1::-1] == pytest.approx([side * 160 / 72 for side in size], abs=1)
    middle, margin = pixels[len(pixels) // 2], int(0.1 * 160)
    assert middle[0].tolist() == middle[-1].tolist() == [255, 255, 255]
    assert (middle[margin + 2 : -margin - 2] == [255, 0, 0]).all()


def test_panels_of_a_rendered_figure_do_not_overlap():
    figure, (above, below) = plt.subplots(2, 1, figsize=(3, 2), layout="constrained")
    above.set_xlabel("epoch\nof the student")
    below.set_title("a title\nof two lines")
    rendered(figure)
    boxes = [axes.get_tightbbox() for axes in (above, below)]
    plt.close(figure)
    assert boxes[0].y0 >= boxes[1].y1


def test_nothing_is_kept_where_no_report_is_made(shown, tmp_path, monkeypatch):
    monkeypatch.delenv("KD_REPORT_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    page = Page(SETTING)
    page.figure(a_figure(), "curves", "Caption.")
    page.table(FRAME, "metrics", "Caption.")
    assert len(shown) == 4 and files(tmp_path) == []


def test_the_same_figure_makes_the_same_file(shown, report):
    kept = report / "figures" / "03_curves.svg"
    Page(SETTING).figure(a_figure(), "curves", "Caption.")
    first = kept.read_bytes()
    Page(SETTING).figure(a_figure(), "curves", "Caption.")
    assert kept.read_bytes() == first


def test_an_export_reads_what_a_page_shows(shown, tmp_path):
    page = Page(SETTING)
    page.figure(a_figure(), "curves", "Accuracy by epoch.")
    page.table(FRAME, "metrics", "After the last epoch.")
    shown[0][0]["image/png"] = base64.b64encode(shown[0][0]["image/png"]).decode()  # as Jupyter keeps it
    outputs = [new_output("display_data", data, metadata=metadata) for data, metadata in shown]
    nbformat.write(new_notebook(cells=[new_code_cell("", outputs=outputs)]), tmp_path / "chapter.ipynb")
    page = " ".join(export(tmp_path / "chapter.ipynb", tmp_path)[0].read_text().split())
    captions = [
        re.sub("<[^>]*>", "", caption).strip() for caption in re.findall("<figcaption.*?>(.*?)</figcaption>", page)
    ]
    assert len(captions) == page.count("<figure") == 2
    assert captions[0].endswith(f"Accuracy by epoch. {SETTING}") and captions[1].endswith(
        f"After the last epoch. {SETTING}"
    )
    assert "62.43 ± 0.20</td>" in page


AS_TYPED = [
    "a|b",
    "<b>c</b>",
    "*d* _e_ `f`",
    "$5 and $6",
    r"\(g\) \begin{h}\end{h} \|",
    "[i](j) ~~k~~ &lt;",
    "http://l.org/_m_n",
    "# o",
]


def test_cells_read_as_they_are_in_page_pdf_and_csv(shown, report, tmp_path):
    Page(SETTING).table(pd.DataFrame({"x|y": AS_TYPED, "_n_": range(8)}), "cells", "Caption.")
    outputs = [new_output("display_data", data, metadata=metadata) for data, metadata in shown]
    nbformat.write(new_notebook(cells=[new_code_cell("", outputs=outputs)]), tmp_path / "chapter.ipynb")
    page, paper = export(tmp_path / "chapter.ipynb", tmp_path)
    cells = [
        html.unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall("<t[dh][^>]*>(.*?)</t[dh]>", page.read_text())
    ]
    assert cells[0::2] == ["x|y", *AS_TYPED] and cells[1::2] == ["_n_", *map(str, range(8))]
    text = page_texts(paper)[0].replace("’", "'")
    assert all(cell in text for cell in ["x|y", "_n_", *AS_TYPED])
    assert list(pd.read_csv(report / "tables" / "03_cells.csv")["x|y"]) == AS_TYPED


# Files that are whole or absent


def test_a_file_is_replaced_by_a_whole_one_with_its_folders_made(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    assert write_atomic(path, b"first") == path and path.read_bytes() == b"first"
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second" and files(tmp_path) == ["a/b/c.txt"]


def test_a_full_disk_leaves_the_old_file_and_names_the_folder(tmp_path, monkeypatch):
    path = write_atomic(tmp_path / "page.html", b"old")

    def half_written(self, content):
        with self.open("wb") as file:
            file.write(content[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half_written)
    with pytest.raises(InputError, match=f"{tmp_path}.*No space left"):
        write_atomic(path, b"new and longer")
    assert path.read_bytes() == b"old" and files(tmp_path) == ["page.html"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=str(tmp_path / "file" / "figures")):
        write_atomic(tmp_path / "file" / "figures" / "a.png", b"content")
