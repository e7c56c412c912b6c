"""Makes a report of executed notebooks: a page and a PDF for each, one PDF of all, an index and results.json."""

import json
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbconvert.utils.exceptions import ConversionException
from pydantic import ValidationError

from kdutils.errors import InputError
from kdutils.machine import cores
from kdutils.report.answers import COLUMNS, answers, answers_caption, answers_sentence, answers_table
from kdutils.report.exporters import Chapter, PageExporter, PrintExporter, pandoc, typeset, with_mathml
from kdutils.report.page import rendered
from kdutils.report.results import Results, collect
from kdutils.report.statistics import Gain
from kdutils.settings import write_atomic

ALT = (
    "Dot plot of accuracies, a row for each network, grouped by document: a dot for every seed of ours, a line for "
    "their mean and its 95% interval, a diamond for a published value. The table has the numbers."
)


def export(notebook: Path, folder: Path) -> list[Path]:
    """Write `folder`/<stem>.html and .pdf of an executed notebook; returns the paths of the files written.

    A PDF that cannot be set is left out with a warning on standard error. Raises `InputError` if there is no notebook.
    """
    read = read_notebook(notebook)
    _page(read, notebook, folder)
    _paper(read, notebook, folder)
    return [path for path in (folder / f"{notebook.stem}{suffix}" for suffix in (".html", ".pdf")) if path.exists()]


def publish(notebooks: list[Path], folder: Path, cover: dict, failed: tuple[Path, ...] | list[Path] = ()) -> Path:
    """Write all of a report into `folder`: a page and a PDF of every notebook, results.json, report.pdf, index.html.

    Returns the index's path. `cover` holds a title, facts (a dict) and perhaps a subtitle and a notice, all plain text.
    Notebooks that `failed` are only listed, each with its error. A PDF that cannot be set is left out with a warning on
    standard error.
    """
    read = {path: read_notebook(path) for path in [*notebooks, *failed]}
    exporter, texts, images = PageExporter(), [], {}
    with ThreadPoolExecutor(cores()) as threads:  # most work, by pandoc and Typst, is done outside the interpreter
        papers, pages = [], []
        for place, path in enumerate(notebooks):
            papers.append(threads.submit(_paper, read[path], path, folder, f"chapter-{place + 1}-"))
            bar = [("index", "index.html", "Index")]
            for relation, others in (("prev", notebooks[:place][-1:]), ("next", notebooks[place + 1 :][:1])):
                bar += [(relation, f"{other.stem}.html", other.stem.replace("_", " ")) for other in others]
            pages.append(threads.submit(_page, read[path], path, folder, bar))
        opening, files = _opening({path.stem: read[path] for path in notebooks}, folder, cover, exporter.environment)
        for path, call in zip(notebooks, papers, strict=True):
            if paper := call.result():
                images |= paper["chapter"].images
                number = path.stem.partition("_")[0]  # by which chapters refer to each other
                texts.append(f"#counter(heading).update({int(number)})" if number.isdecimal() else "")
                has_title = any(level == 1 for level, _, _ in paper["chapter"].headings)
                texts.append("" if has_title else f"#heading(level: 1, {json.dumps(paper['chapter'].title)})")
                texts.append(paper["typst"])
        whole = folder / "report.pdf"
        whole.unlink(missing_ok=True)
        if texts:  # set while pages are made
            try:
                images["answers.svg"] = files.get("figures/answers.svg", b"")
                front = pandoc(opening.get("table", ""), "typst")
                write_atomic(whole, typeset("\n\n".join(texts), images, cover | opening, front)[0])
            except ConversionException as error:
                print(f"report.pdf is not made: {error}", file=sys.stderr)
    chapters = [_entry(path, folder, page.result()) for path, page in zip(notebooks, pages, strict=True)]
    for path in failed:
        made = exporter.from_notebook_node(read[path], _resources(path))[1]["chapter"]
        made.error = made.error or "it failed; failed/ holds it for diagnosis"
        chapters.append(_entry(path, folder, made))
    chapters.sort(key=lambda chapter: chapter["stem"])
    given = opening | {"cover": cover, "report": whole.name if whole.exists() else None, "chapters": chapters}
    index = exporter.environment.get_template("index.html.j2").render(given, files=files)
    return write_atomic(folder / "index.html", with_mathml(index).encode())


def _opening(notebooks: dict[str, nbformat.NotebookNode], folder: Path, cover: dict, templates) -> tuple[dict, dict]:
    """Write results.json and the files of the answers; returns their texts for the templates, and all these files."""
    chapters = {}
    for stem, notebook in notebooks.items():
        try:
            chapters |= {stem: found} if (found := collect(notebook)) else {}
        except ValidationError:
            print(f"results.json is without {stem}, which another version made: run it again", file=sys.stderr)
    results = Results(format="kdutils results 1", facts=cover["facts"], chapters=chapters)
    found, texts, files = answers(results), {}, {"results.json": results.model_dump_json(indent=1).encode()}
    if found:
        rows = [row for rows in found.values() for row in rows]
        empty = all(row.difference is None for row in rows) + all(row.published is None for row in rows)
        shown = {"answers": found, "columns": COLUMNS[: len(COLUMNS) - empty]}
        shown["caption"] = " ".join([answers_caption(found), cover.get("notice", "")]).strip()
        texts["table"] = templates.get_template("answers.html.j2").render(shown)
        texts["sentence"] = answers_sentence(found)
        files["tables/answers.csv"] = answers_table(found).to_csv(index=False).encode()
    if any(not isinstance(row.ours, Gain) for rows in found.values() for row in rows):
        from kdutils.report import plots  # heavy: a suite that has nothing to draw need not wait for it

        figure = plots.plot_answers(found)
        files |= {f"figures/answers.{kind}": content for kind, content in rendered(figure).items()}
        plots.plt.close(figure)
        texts |= {"picture": "answers.svg", "alt": f"{ALT} {texts['sentence']}"}
    for name, content in files.items():
        write_atomic(folder / name, content)
    for old in {path.relative_to(folder).as_posix() for path in folder.glob("*/answers.*")} - files.keys():
        (folder / old).unlink()
    return texts, files


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """The notebook in a file; raises `InputError` if the file cannot be read or is no notebook."""
    try:
        with warnings.catch_warnings(action="ignore"):  # repeated or missing cell ids do no harm here
            notebook = nbformat.read(path, as_version=4)
            nbformat.validate(notebook, relax_add_props=True)
    except OSError as error:
        raise InputError(f"cannot read the notebook {path}: {error.strerror}") from None
    except (ValueError, nbformat.ValidationError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is not a Jupyter notebook ({reason}): give a file that Jupyter saved") from None
    except (KeyError, AttributeError, TypeError, AssertionError, RecursionError):
        raise InputError(f"{path} is not a Jupyter notebook") from None
    return notebook


def _resources(path: Path) -> dict:
    return {"metadata": {"name": path.stem, "path": str(path.parent)}}


def _page(notebook: nbformat.NotebookNode, path: Path, folder: Path, bar: list | None = None) -> Chapter:
    """Write the page, with a navigation `bar`; returns the chapter that was read."""
    html, made = PageExporter().from_notebook_node(notebook, _resources(path) | {"pages": bar})
    write_atomic(folder / f"{path.stem}.html", html.encode())
    return made["chapter"]


def _paper(notebook: nbformat.NotebookNode, path: Path, folder: Path, prefix: str = "") -> dict | None:
    """Write the PDF; returns its resources, or None if it cannot be set, after printing the reason."""
    pdf = folder / f"{path.stem}.pdf"
    try:
        content, paper = PrintExporter().from_notebook_node(notebook, _resources(path) | {"prefix": prefix})
    except ConversionException as error:
        pdf.unlink(missing_ok=True)
        print(f"{pdf.name} is not made: {error}", file=sys.stderr)
        return None
    for warning in paper["warnings"]:
        print(f"{pdf.name}: {warning}", file=sys.stderr)
    write_atomic(pdf, content)
    return paper


def _entry(path: Path, folder: Path, made: Chapter) -> dict:
    """What the index says of a chapter: its title, question, answer and error, and its files as they exist."""
    number = path.stem.partition("_")[0]  # with which the names of a chapter's files begin
    tables = [f"{number}_{name}.csv" for name in made.names["table"]]
    tables += sorted(path.name for path in (folder / "tables").glob(f"{number}_*.csv"))  # some are not shown
    names = {
        "Read": [f"{path.stem}{suffix}" for suffix in (".html", ".pdf", ".ipynb") if not made.error],
        "Figures": [f"figures/{number}_{name}.svg" for name in dict.fromkeys(made.names["figure"])],
        "Tables": [f"tables/{name}" for name in dict.fromkeys(tables)],
    }
    files = {name: [file for file in listed if (folder / file).exists()] for name, listed in names.items()}
    title = next((html for level, _, html in made.headings if level == 1), path.stem.replace("_", " "))
    shown = {"title": title, "summary": made.summary, "answer": made.answer, "error": made.error}
    return {"stem": path.stem, "files": files} | shown
