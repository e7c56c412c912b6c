"""Executed notebooks become a report: self-contained HTML pages, PDFs and an index that leads through them.

A notebook's cells become a list of plain blocks; `templates/notebook.lua` reads that list into pandoc, one process per
page, and Typst sets the PDFs. Neither LaTeX nor a browser nor a network takes part. Every file is written whole or not
at all.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import pypandoc
import typst

from kdutils.errors import InputError
from kdutils.settings import write_atomic

TEMPLATES = Path(__file__).parent / "templates"
CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07|[\x00-\x08\x0b-\x1f\x7f]"
)  # ANSI colours and the like
WIDGET = "application/vnd.jupyter.widget-view+json"  # a progress bar or a control: dead on paper
HEAVY = 1_500_000  # characters; an SVG beyond this (a scatter of many points) is slower to open than its PNG
PARAMETERS = {"parameters", "injected-parameters"}


@dataclass(frozen=True)
class Cover:
    """What a report says about itself. Title, subtitle and notice may hold markdown; facts are plain text."""

    title: str
    subtitle: str
    facts: dict[str, str]
    notice: str | None = None


@dataclass(frozen=True)
class Chapter:
    """A notebook's place in the index: its title, its first sentence, the files it made, or its one-line error."""

    stem: str
    title: str
    summary: str = ""
    error: str | None = None
    figures: tuple[Path, ...] = ()
    tables: tuple[Path, ...] = ()


def export_notebook(
    executed: Path,
    folder: Path,
    *,
    index: Path | None = None,
    previous: Path | None = None,
    following: Path | None = None,
) -> list[Path]:
    """Write `folder/<stem>.html` and `folder/<stem>.pdf` from an executed notebook, and return both paths.

    The page folds code away; the PDF leaves it out, except in cells tagged `show-input`. `index` (a page) and
    `previous` and `following` (notebooks exported to the same folder) put a navigation bar on the page. Raises
    InputError if `executed` is missing or is no notebook; files already there stay as they are on any error.
    """
    notebook = _load(executed)
    blocks = _blocks(notebook)
    printed = [block for block in blocks if block["kind"] != "code" or block["open"]]
    meta = {"title": _title(notebook, executed)}
    page = _pandoc("html5", "page.html", [_part(executed, blocks)], meta | _pages(index, previous, following))
    contents = {".html": page.encode(), ".pdf": _pdf([_part(executed, printed)], meta)}
    return [write_atomic(folder / f"{executed.stem}{suffix}", content) for suffix, content in contents.items()]


def export_report(notebooks: list[Path], destination: Path, cover: Cover) -> Path:
    """Write one PDF: title page, contents and a chapter per executed notebook, without code; return its path.

    Figures and tables are numbered through the whole report. Raises InputError if a notebook is missing or is none.
    """
    parts = []
    for number, path in enumerate(notebooks, start=1):
        notebook = _load(path)
        blocks = [block for block in _blocks(notebook) if block["kind"] != "code"]
        if not _heading(notebook):
            blocks.insert(0, {"kind": "markdown", "text": f"# {_title(notebook, path)}"})
        parts.append(_part(path, blocks, prefix=f"chapter-{number}-"))
    return write_atomic(destination, _pdf(parts, _cover(cover) | {"report": True}))


def read_chapter(executed: Path, folder: Path, error: str | None = None) -> Chapter:
    """Describe an executed notebook for the index: its files in `folder/figures` and `folder/tables`, and its error.

    `error` stands for a failure that left no trace in the notebook, such as a time-out. Raises InputError if
    `executed` is missing or is no notebook.
    """
    notebook = _load(executed)
    blocks = _blocks(notebook)
    number = executed.stem.partition("_")[0]  # kdutils.display puts it before the names of a chapter's files
    return Chapter(
        stem=executed.stem,
        title=_title(notebook, executed),
        summary=_summary(notebook),
        error=_error(notebook) or error,
        figures=_files(folder / "figures", number, ".svg", [b["name"] for b in blocks if b["kind"] == "figure"]),
        tables=_files(folder / "tables", number, ".csv", [b["name"] for b in blocks if b["kind"] == "table"]),
    )


def write_index(destination: Path, cover: Cover, chapters: list[Chapter]) -> Path:
    """Write the page `destination` that leads through the report whose files lie beside it, and return its path.

    Links lead to `report.pdf`, to each chapter's `<stem>.html`, `.pdf` and `.ipynb` and to its figures and tables, as
    far as these files exist; a failed chapter is listed with its error and without links.
    """
    folder = destination.parent
    report = {"report": "report.pdf"} if (folder / "report.pdf").exists() else {}
    meta = _cover(cover) | report | {"chapters": [_entry(chapter, folder) for chapter in chapters]}
    return write_atomic(destination, _pandoc("html5", "index.html", [], meta).encode())


# Notebook -> blocks


def _load(path: Path) -> nbformat.NotebookNode:
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except OSError as error:
        raise InputError(f"Cannot read the notebook {path}: {error.strerror}.") from error
    except (ValueError, KeyError, AttributeError, TypeError, nbformat.ValidationError) as error:
        raise InputError(f"{path} is not a Jupyter notebook.") from error
    return notebook


def _blocks(notebook: nbformat.NotebookNode) -> list[dict[str, Any]]:
    language = notebook.metadata.get("kernelspec", {}).get("language", "python")
    blocks: list[dict[str, Any]] = []
    for cell in notebook.cells:
        tags = set(cell.metadata.get("tags", []))
        if "remove-cell" in tags:
            continue
        if cell.cell_type == "markdown":
            blocks.append({"kind": "markdown", "text": _with_attachments(cell)})
        elif cell.cell_type == "code":
            if cell.source.strip() and "hide-input" not in tags:
                label = "Parameters" if tags & PARAMETERS else "Code"
                block = {"kind": "code", "text": cell.source, "language": language}
                blocks.append(block | {"label": label, "open": "show-input" in tags})
            blocks += filter(None, map(_output, _joined(cell.outputs)))
    return blocks


def _with_attachments(cell: nbformat.NotebookNode) -> str:
    text = cell.source
    for name, data in cell.get("attachments", {}).items():
        text = text.replace(f"attachment:{name}", _image(data) or "")
    return text


def _joined(outputs: Iterable[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Outputs without standard error (progress bars); neighbouring pieces of standard output become one."""
    kept: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if kept and output.output_type == "stream" == kept[-1].output_type:
            kept[-1].text += output.text
        else:
            kept.append(copy.copy(output))
    return kept


def _output(output: nbformat.NotebookNode) -> dict[str, Any] | None:
    if output.output_type == "stream":
        return _text(output.text)
    if output.output_type == "error":
        return _text("\n".join(output.traceback) or f"{output.ename}: {output.evalue}", "error")
    return _display(output.data, output.metadata.get("kdutils", {}))


def _display(data: dict[str, Any], ours: dict[str, str]) -> dict[str, Any] | None:
    """The richest form of a display that paper can hold; what kdutils.display made gets its number and caption."""
    plain = data.get("text/plain", "")
    if ours.get("kind") == "table":
        return ours | {"text": data["text/markdown"]}
    if ours.get("kind") == "figure":
        return ours | {"source": _image(data), "alt": plain}
    if ours.get("kind") == "caption":
        return None  # Jupyter shows it under the figure; a page sets its own
    if "text/markdown" in data:
        return {"kind": "markdown", "text": data["text/markdown"]}
    if source := _image(data):
        return {"kind": "image", "source": source, "alt": plain}
    if "text/latex" in data:
        return {"kind": "markdown", "text": data["text/latex"]}
    if "<script" not in (html := data.get("text/html", "<script")):
        return {"kind": "html", "text": html}
    return _text(plain) if WIDGET not in data else None


def _image(data: dict[str, str]) -> str | None:
    svg = data.get("image/svg+xml")
    if svg and (len(svg) <= HEAVY or "image/png" not in data):
        return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    mime = next((mime for mime in ("image/png", "image/jpeg") if mime in data), None)
    return mime and f"data:{mime};base64," + re.sub(r"\s", "", data[mime])


def _text(text: str, kind: str = "output") -> dict[str, Any] | None:
    """Terminal text as a reader saw it in the end: colours gone, lines that rewrote themselves in their last state."""
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    clean = CONTROL.sub("", "\n".join(lines)).strip("\n")
    return {"kind": "text", "class": kind, "text": clean} if clean.strip() else None


# What a notebook says about itself


def _prose(notebook: nbformat.NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def _heading(notebook: nbformat.NotebookNode) -> str | None:
    found = re.search(r"^# +(.+?)[ #]*$", _prose(notebook), re.MULTILINE)
    return found and found[1]


def _title(notebook: nbformat.NotebookNode, path: Path) -> str:
    return _heading(notebook) or path.stem.replace("_", " ")


def _summary(notebook: nbformat.NotebookNode) -> str:
    paragraphs = re.split(r"\n\s*\n|^#.*$", _prose(notebook), flags=re.MULTILINE)
    first = next((" ".join(p.split()) for p in paragraphs if re.match(r"\s*[\w*_$\"'\[]", p)), "")
    return re.split(r"(?<=[.?!]) +(?=[A-Z])", first)[0]


def _error(notebook: nbformat.NotebookNode) -> str | None:
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    errors = (f"{o.ename}: {o.evalue}".splitlines()[0] for o in outputs if o.output_type == "error")
    return next((CONTROL.sub("", error) for error in errors), None)


def _files(folder: Path, number: str, suffix: str, names: list[str]) -> tuple[Path, ...]:
    paths = (folder / f"{number}_{name}{suffix}" for name in dict.fromkeys(names))
    return tuple(filter(Path.exists, paths))


# Blocks -> pages


def _part(notebook: Path, blocks: list[dict[str, Any]], prefix: str = "") -> dict[str, Any]:
    return {"prefix": prefix, "folder": str(notebook.parent.resolve()), "blocks": blocks}


def _cover(cover: Cover) -> dict[str, Any]:
    facts = [{"name": name, "value": value} for name, value in cover.facts.items()]
    meta = {"title": cover.title, "subtitle": cover.subtitle, "notice": cover.notice, "facts": facts}
    return {name: value for name, value in meta.items() if value}


def _pages(index: Path | None, previous: Path | None, following: Path | None) -> dict[str, Any]:
    pages = [{"relation": "index", "address": quote(index.name), "label": "Index"}] if index else []
    for relation, path in (("prev", previous), ("next", following)):
        if path:
            label = path.stem.replace("_", " ")
            pages.append({"relation": relation, "address": quote(f"{path.stem}.html"), "label": label})
    return {"pages": pages} if pages else {}


def _entry(chapter: Chapter, folder: Path) -> dict[str, Any]:
    entry: dict[str, Any] = {"title": chapter.title, "summary": chapter.summary}
    if chapter.error:
        return entry | {"error": chapter.error}
    forms = [folder / f"{chapter.stem}{suffix}" for suffix in (".html", ".pdf", ".ipynb")]
    lists = {"Read": forms, "Figures": chapter.figures, "Tables": chapter.tables}
    links = {name: _links(paths, folder) for name, paths in lists.items()}
    if forms[0].exists():
        entry["page"] = links["Read"][0]["address"]
    if links["Figures"]:
        entry["thumbnail"] = links["Figures"][0]["address"]
    return entry | {"lists": [{"name": name, "links": found} for name, found in links.items() if found]}


def _links(paths: Iterable[Path], folder: Path) -> list[dict[str, str]]:
    existing = [path for path in paths if path.exists()]
    return [{"address": quote(Path(os.path.relpath(p, folder)).as_posix()), "label": p.name} for p in existing]


def _pandoc(target: str, template: str, parts: list[dict], meta: dict[str, Any], folder: Path | None = None) -> str:
    """Run pandoc on blocks and return its text; images that Typst needs as files go to `folder/media`."""
    document = {"target": "typst" if target == "typst" else "html", "meta": meta, "chapters": parts}
    options = ["--extract-media=media"] if target == "typst" else ["--mathml", "--toc", "--toc-depth=3"]
    files = [f"--from={TEMPLATES / 'notebook.lua'}", f"--template={TEMPLATES / template}"]
    command = [pypandoc.get_pandoc_path(), *files, f"--to={target}", "--quiet", *options]
    result = subprocess.run(command, input=json.dumps(document).encode(), capture_output=True, cwd=folder)
    if result.returncode:
        raise RuntimeError(f"pandoc could not make the {target} page: {result.stderr.decode().strip()}")
    return result.stdout.decode()


def _pdf(parts: list[dict], meta: dict[str, Any]) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "report.typ"
        source.write_text(_pandoc("typst", "report.typ", parts, meta, folder), encoding="utf-8")
        return typst.compile(source, root=folder)
