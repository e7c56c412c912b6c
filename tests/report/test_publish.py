"""A report is read back with tools that know nothing of how it was made: an HTML parser and a PDF reader."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from papers import page_texts
from pypdf import PdfReader

from kdutils import settings as files
from kdutils.__main__ import main
from kdutils.errors import InputError
from kdutils.report import exporters
from kdutils.report.publish import export, publish

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="300" height="90"><rect width="300" height="90" fill="teal"/></svg>'
)
COVER = {
    "title": "Small students",
    "subtitle": "A course report",
    "facts": {"Data set": "CIFAR-10 & *friends*", "Hardware": "two cores <x86_64>", "Date": "2031-05-06"},
    "notice": "Synthetic data: no number here describes a photograph.",
}


def figure(name, caption):
    data = {"image/svg+xml": SVG, "image/png": PIXEL, "text/plain": f"The shape of {name}"}
    return new_output("display_data", data, metadata={"kdutils": {"kind": "figure", "name": name, "caption": caption}})


def table(name, caption, markdown="| Method | Accuracy |\n|:--|--:|\n| Alone | 91.02 ± 0.30 |"):
    data = {"text/markdown": markdown, "text/html": "<table></table>", "text/plain": "Method Accuracy"}
    return new_output("display_data", data, metadata={"kdutils": {"kind": "table", "name": name, "caption": caption}})


def code(source, *outputs, tags=()):
    return new_code_cell(source, outputs=list(outputs), metadata={"tags": list(tags)})


def save(folder, stem, *cells):
    path = Path(folder) / f"{stem}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


def study(folder, stem, title, question, word):
    text = f"# {title}\n\n{question} A second sentence.\n\n## Method\n\nWe use $T^2$, $\\lVert z \\rVert$ and "
    text += "[the result](#Outcome).\n\n## Outcome"
    return save(
        folder,
        stem,
        new_markdown_cell(text),
        code("profile = 'secret_default'", tags=["parameters"]),
        code("profile = 'secret_smoke'", tags=["injected-parameters"]),
        code(
            "secret_call()",
            new_output("stream", name="stderr", text="\r 10%|#"),
            figure(f"{word}_curves", f"{word} curves."),
        ),
        code("shown_call()", table(f"{word}_table", f"{word} numbers at $T=4$."), tags=["show-input"]),
        code("secret_panel()", figure(f"{word}_panel", f"{word} panel."), tags=["hide-input"]),
        code(
            "",
            new_output("display_data", {"text/markdown": "*Said twice.*"}, metadata={"kdutils": {"kind": "caption"}}),
        ),
        code("removed_call()", table(f"{word}_removed", "Never seen."), tags=["remove-cell"]),
        code(
            "",
            new_output(
                "display_data", {"text/markdown": f"The {word} student gains **1.1** points.", "text/plain": ""}
            ),
        ),
    )


class Page(HTMLParser):
    """What of a page can load something, and what a reader sees."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.links, self.tags, self.text, self.ids, self.alts = [], [], [], "", set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.ids.add(values.get("id"))
        self.loads += [values[name] for name in ("src", "srcset", "data", "poster") if values.get(name)]
        (self.links if tag == "a" else self.loads).append(values["href"]) if values.get("href") else None
        self.alts += [values.get("alt")] if tag == "img" else []

    def handle_data(self, data):
        if "style" not in self.tags[-1:]:
            self.text += data


def read_page(path):
    return Page(Path(path).read_text(encoding="utf-8"))


def read_pdf(path):
    return " ".join(page_texts(path))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A folder as the suite leaves it: two studies and a failed one, their files, the combined PDF and the index."""
    folder = tmp_path_factory.mktemp("with a space")
    notebooks = [
        study(folder, "01_heat", "How hot should a teacher be?", "Does $T$ matter?", "warm"),
        study(folder, "02_pair", "Two *teachers*", "Are two better than one, e.g. for small students?", "twin"),
    ]
    for kind, suffix in (("figures", "svg"), ("figures", "png"), ("tables", "csv")):
        (folder / kind).mkdir(exist_ok=True)
        for name in ("01_warm_curves", "01_warm_panel", "02_twin_curves", "01_warm_table", "02_twin_table"):
            if ("table" in name) == (kind == "tables"):
                (folder / kind / f"{name}.{suffix}").write_text(SVG)
    error = new_output("error", ename="ValueError", evalue="no such data set <cifar>\nsecond line", traceback=[])
    failed = [
        save(folder / "failed", "03_broken", new_markdown_cell("# A broken study\n\nWill it end?"), code("x", error)),
        save(folder / "failed", "04_slow", new_markdown_cell("Too slow.")),
    ]
    assert publish(notebooks, folder, COVER, failed) == folder / "index.html"
    return folder


def test_pages_load_nothing_but_themselves(report):
    for path in report.glob("0*.html"):
        page, text = read_page(path), path.read_text(encoding="utf-8")
        assert page.loads and all(load.startswith("data:image/") for load in page.loads)
        assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
        assert "url(" not in text and "@import" not in text and "default-src 'none'; img-src data:" in text
    assert not {"script", "link"} & set(read_page(report / "index.html").tags)


def test_page_is_accessible(report):
    text = (report / "01_heat.html").read_text(encoding="utf-8")
    page = Page(text)
    assert '<html lang="en">' in text and 'name="viewport"' in text
    assert "<title>How hot should a teacher be?</title>" in text and page.tags.count("h1") == 1
    assert page.alts == ["The shape of warm_curves", "The shape of warm_panel"]


def test_figure_is_drawn_from_its_svg(report):
    load = read_page(report / "01_heat.html").loads[0]
    assert load.startswith("data:image/svg+xml;base64,")
    assert base64.b64decode(load.partition(",")[2]).decode() == SVG


def test_page_numbers_captions_in_order(report):
    for stem, word in (("01_heat", "warm"), ("02_pair", "twin")):
        text = re.sub(r"\s+", " ", read_page(report / f"{stem}.html").text)
        captions = [f"Figure 1. {word} curves.", f"Table 1. {word} numbers at", f"Figure 2. {word} panel."]
        positions = [text.index(caption) for caption in captions]
        assert positions == sorted(positions)
        assert "Table 2" not in text and "Figure 3" not in text
    assert read_page(report / "01_heat.html").tags.count("figure") == 3


def test_mathematics_becomes_mathml(report):
    text = (report / "01_heat.html").read_text(encoding="utf-8")
    assert "<msup><mi>T</mi><mn>2</mn></msup>" in text and "$T" not in text  # in a cell
    assert "<mi>T</mi><mo>=</mo><mn>4</mn>" in text.replace(' form="infix"', "")  # in a caption


def test_the_report_numbers_a_chapter_as_its_notebook_by_which_others_speak_of_it(tmp_path):
    notebooks = [study(tmp_path, f"{number}_study", f"Study {number}", "Why?", "warm") for number in ("00", "07")]
    publish(notebooks, tmp_path, COVER)
    text = read_pdf(tmp_path / "report.pdf")
    assert "0 Study 00" in text and "0.1 Method" in text
    assert "7 Study 07" in text and "7.2 Outcome" in text and "1 Study" not in text


def test_page_folds_code_and_drops_progress_bars(report):
    text = (report / "01_heat.html").read_text(encoding="utf-8")
    labels = re.findall(r'<details class="code"( open)?><summary>([\w ]+)</summary>', text)
    assert labels == [("", "Parameters"), ("", "Parameters of this run"), ("", "Code"), (" open", "Code")]
    assert "10%" not in text and "secret_panel" not in text and "removed_call" not in text


def test_page_leads_to_its_neighbours(report):
    first, second = read_page(report / "01_heat.html"), read_page(report / "02_pair.html")
    assert first.links[:2] == ["index.html", "02_pair.html"] and second.links[:2] == ["index.html", "01_heat.html"]
    anchors = {link[1:] for link in first.links if link.startswith("#")}
    assert "Outcome" in anchors and anchors <= first.ids


def test_notebook_pdf_has_results_and_only_the_code_marked_for_it(report):
    path = report / "01_heat.pdf"
    text = read_pdf(path)
    assert path.read_bytes().startswith(b"%PDF")
    for words in (
        "How hot should a teacher be?",
        "Figure 1. warm curves.",
        "Figure 2. warm panel.",
        "Table 1. warm numbers",
        "gains 1.1 points",
    ):
        assert words in text
    assert "shown_call()" in text and "91.02 ± 0.30" in text.replace("\xa0", " ")
    assert not re.search(r"secret|removed|Never seen|10%|Said twice", text)


def test_report_numbers_run_on_over_chapters(report):
    text = read_pdf(report / "report.pdf")
    for words in ("Figure 1. warm curves", "Figure 2. warm panel", "Figure 3. twin curves", "Figure 4. twin panel"):
        assert words in text
    assert "Table 1. warm numbers" in text and "Table 2. twin numbers" in text
    assert "1 How hot should a teacher be?" in text and "2 Two teachers" in text and "2.1 Method" in text


def test_report_opens_with_its_facts_and_holds_no_code_but_what_is_to_be_shown(report):
    pages = page_texts(report / "report.pdf")
    for words in ("Small students", "A course report", COVER["notice"], *COVER["facts"], *COVER["facts"].values()):
        assert words in pages[0]
    assert "Contents" in pages[0] and "Two teachers" in pages[0]
    assert not re.search(r"secret|removed", " ".join(pages)) and "shown_call()" in " ".join(pages)


def test_report_contents_are_clickable(report):
    reader = PdfReader(report / "report.pdf")
    links = [a.get_object() for a in reader.pages[0]["/Annots"]]
    assert len(links) >= 2 and all(link["/Subtype"] == "/Link" for link in links)
    assert [item.title for item in reader.outline if not isinstance(item, list)][-2:] == [
        "1 How hot should a teacher be?",
        "2 Two teachers",
    ]


def test_index_links_resolve(report):
    page = read_page(report / "index.html")
    assert all((report / unquote(target)).is_file() for target in page.links + page.loads)
    expected = {
        "report.pdf",
        "01_heat.html",
        "02_pair.pdf",
        "02_pair.ipynb",
        "figures/01_warm_panel.svg",
        "tables/02_twin_table.csv",
    }
    assert expected <= set(page.links)
    assert page.loads == ["figures/01_warm_curves.svg", "figures/02_twin_curves.svg"]


def test_index_tells_what_is_there(report):
    text = re.sub(r"\s+", " ", read_page(report / "index.html").text)
    for words in (
        COVER["title"],
        COVER["notice"],
        *COVER["facts"].values(),
        "Two teachers",
        "Are two better than one, e.g. for small students?",
    ):
        assert words in text
    assert "A second sentence" not in text
    assert (
        "A broken study" in text
        and "Failed. ValueError: no such data set <cifar>" in text
        and "second line" not in text
    )
    assert "04 slow" in text and "Failed. it failed; failed/ holds it for diagnosis" in text
    assert not any(name in link for link in read_page(report / "index.html").links for name in ("03_broken", "04_slow"))


def broken(*_args, **_options):
    raise exporters.ConversionException("the printer is on fire")


def test_a_chapter_that_cannot_be_set_costs_its_own_pdf_and_one_warning(tmp_path, monkeypatch, capsys):
    notebooks = [study(tmp_path, f"0{number}_x", f"Study {number}", "Why?", f"word{number}") for number in (1, 2, 3)]
    publish(notebooks, tmp_path, COVER)
    typeset = exporters.typeset
    monkeypatch.setattr(
        exporters, "typeset", lambda text, *rest: broken() if "Study 2" in text else typeset(text, *rest)
    )
    publish(notebooks, tmp_path, COVER)
    assert capsys.readouterr().err == "02_x.pdf is not made: the printer is on fire\n"
    assert sorted(path.name for path in tmp_path.glob("*.*")) == sorted(
        [
            f"0{number}_x.{suffix}"
            for number in (1, 2, 3)
            for suffix in ("html", "ipynb", "pdf")
            if (number, suffix) != (2, "pdf")
        ]
        + ["index.html", "report.pdf", "results.json"]
    )
    text = read_pdf(tmp_path / "report.pdf")
    assert "1 Study 1" in text and "3 Study 3" in text and "Study 2" not in text
    page = read_page(tmp_path / "index.html")
    assert "02_x.html" in page.links and "02_x.pdf" not in page.links


def test_a_chapter_without_a_title_has_the_name_of_its_file(tmp_path):
    publish([save(tmp_path, "07_note", new_markdown_cell("Text."))], tmp_path, COVER)
    assert "7 07 note" in read_pdf(tmp_path / "report.pdf") and "07 note" in read_page(tmp_path / "index.html").text
    assert "<title>07 note</title>" in (tmp_path / "07_note.html").read_text()


def test_no_report_is_left_where_no_chapter_is(tmp_path):
    (tmp_path / "report.pdf").write_text("old")
    page = read_page(publish([], tmp_path, COVER))
    assert not (tmp_path / "report.pdf").exists() and page.links == ["results.json"] and not page.loads


NO_SOURCE = '{"cells": [{"cell_type": "code"}], "nbformat": 4, "nbformat_minor": 4, "metadata": {}}'
TEXT_VERSION = '{"cells": [], "nbformat": 4, "nbformat_minor": "5", "metadata": {}}'


@pytest.mark.parametrize("content", ["no json", "[]", "{}", NO_SOURCE, TEXT_VERSION])
def test_what_is_no_notebook_is_refused(tmp_path, content, capsys):
    path = tmp_path / "letter.ipynb"
    path.write_text(content)
    with pytest.raises(InputError, match="letter.ipynb is not a Jupyter notebook"):
        export(path, tmp_path)
    assert main(["export", str(path)]) == 2 and len(capsys.readouterr().err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "reason"), [(NO_SOURCE, "key: metadata"), ("<<<<<<< HEAD\n{}", "JSON: '<<<<<<< HEAD")]
)
def test_what_makes_it_no_notebook_is_said(tmp_path, content, reason):
    (tmp_path / "letter.ipynb").write_text(content)
    with pytest.raises(InputError, match=f"is not a Jupyter notebook .*{reason}.*: give a file that Jupyter saved$"):
        export(tmp_path / "letter.ipynb", tmp_path)


@pytest.mark.parametrize(
    ("data", "metadata"),
    [
        ({"text/plain": 1}, {}),
        ({"text/plain": ["a", 1]}, {}),
        ({"text/html": {"a": 1}}, {}),
        ({"image/png": 3}, {}),
        ({"image/png": PIXEL}, {"image/png": [1]}),
        ({"text/plain": "the first"}, {"kdutils": [1]}),
        ({"text/plain": "the first"}, {"kdutils": None}),
        ({"text/plain": "the first"}, {"kdutils": {"kind": ["figure"]}}),
        ({"text/plain": "the first"}, {"kdutils": {"kind": "figure", "name": 4, "caption": 5}}),
    ],
)
def test_what_is_no_text_where_one_is_due_costs_nothing_but_itself(tmp_path, data, metadata):
    first, following = (
        {"output_type": "display_data", "metadata": {}} | given
        for given in ({"data": data, "metadata": metadata}, {"data": {"text/plain": "the next output"}})
    )
    path = save(tmp_path, "note", new_code_cell("show()"))
    notebook = json.loads(path.read_text())
    notebook["cells"][0]["outputs"] = [first, following]
    path.write_text(json.dumps(notebook))
    page, paper = export(path, tmp_path)
    for text in (read_page(page).text, read_pdf(paper)):
        assert "the next output" in text and ("the first" in text) == ("the first" in data.values())
    assert ("data:image/png" in page.read_text()) == ("image/png" in metadata)


def test_a_formula_that_pandoc_cannot_read_is_its_source_and_no_other_one_is(tmp_path, capsys):
    formula = f"${'{' * 300}x{'}' * 300}$ beside $a_1$ and $b_2$"
    paths = [
        save(tmp_path, stem, new_markdown_cell(f"# {stem}\n\n{text}"))
        for stem, text in (("00_a", "A."), ("01_b", formula))
    ]
    publish(paths, tmp_path, COVER)
    made = {path.name for path in tmp_path.iterdir()}
    assert {"00_a.pdf", "01_b.html", "01_b.pdf", "report.pdf", "index.html"} <= made and not capsys.readouterr().err
    page = read_page(tmp_path / "01_b.html").text
    assert "{{{{x}}}}" in page and "a_1" not in page
    assert "{{{{" in read_pdf(tmp_path / "01_b.pdf")


def test_a_missing_notebook_is_named(tmp_path):
    with pytest.raises(InputError, match="absent.ipynb"):
        publish([tmp_path / "absent.ipynb"], tmp_path, COVER)
    assert not list(tmp_path.iterdir())


def test_interrupted_writing_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = save(tmp_path, "06_note", new_markdown_cell("# Note"))
    page = export(path, tmp_path)[0]
    before = page.read_bytes()
    save(tmp_path, "06_note", new_markdown_cell("# Another note"))

    def gone(*_args):
        raise OSError("disk gone")

    monkeypatch.setattr(files.os, "replace", gone)
    with pytest.raises(InputError, match="disk gone"):
        export(path, tmp_path)
    assert page.read_bytes() == before and not list(tmp_path.glob(".*"))
