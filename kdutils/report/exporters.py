"""Exporters for nbconvert: notebooks as pages that load nothing (`kd_html`) and as PDFs set by Typst (`kd_pdf`).

Jupyter's server finds only exporters whose names match `\\w+`, and constructs all of them whenever it lists them, so
heavy imports are made where they are used.
"""

import json
import re
import shutil
import subprocess
import tempfile
import unicodedata
from functools import cache
from html import unescape
from pathlib import Path

from nbconvert.exporters import TemplateExporter
from nbconvert.exporters.exporter import FilenameExtension
from nbconvert.filters import Highlight2HTML
from nbconvert.utils.exceptions import ConversionException
from nbformat import from_dict
from traitlets import Bool, List, Unicode
from traitlets.config import Config

from kdutils.report.cells import Chapter

TEMPLATES = Path(__file__).parent / "templates"
FORMULA = re.compile(r'<code class="math">.*?</code>', re.DOTALL)  # as `Chapter` leaves it


class PageExporter(TemplateExporter):
    """One self-contained HTML page: no script, MathML, folded code, numbered figures and tables.

    `resources` may hold `pages`, the (relation, address, label) of navigation links, and a `prefix` for anchors; the
    returned resources hold the `chapter` that was read. A formula that pandoc cannot read is shown as its source.
    """

    export_from_notebook = "Course page"
    output_mimetype = "text/html"
    prints = False
    left_out = {"remove-cell"}  # cells with these tags
    file_extension = FilenameExtension(".html")
    template_name = Unicode("kd")
    template_file = Unicode("page.html.j2")
    optimistic_validation = Bool(True)  # validates once, not after each step
    extra_template_basedirs = List([str(TEMPLATES)])  # not share/jupyter, which an editable installation leaves empty

    @property
    def default_config(self):
        """nbconvert's own, changed to remove cells by tag and to join the parts of a stream."""
        config = super().default_config
        tags = {"remove_cell_tags": self.left_out, "remove_input_tags": {"hide-input"}}
        config.merge(Config(TagRemovePreprocessor=tags, CoalesceStreamsPreprocessor={"enabled": True}))
        return config

    def from_notebook_node(self, nb, resources=None, **kw):
        """The page of a notebook (text), and the resources."""
        html, resources = self.read(nb, resources, **kw)
        reached = r'\1 tabindex="0"'  # so the keyboard can reach what scrolls
        return re.sub('(<pre|<math display="block")', reached, with_mathml(html)), resources

    def read(self, nb, resources=None, **kw):
        """The HTML of a notebook whose formulas are not set yet, and the resources."""
        resources = self._init_resources(resources)
        language = str(nb.metadata.get("kernelspec", {}).get("language", "python"))
        self.register_filter("highlight", Highlight2HTML(pygments_lexer=language, parent=self))
        about = resources["metadata"]
        prefix, folder = resources.get("prefix") or "", Path(about["path"] or ".")
        resources["chapter"] = Chapter(about["name"] or "notebook", folder, prefix, self.prints)
        text = json.dumps(nb, ensure_ascii=False).encode("utf-8", "replace")  # half a surrogate pair has no UTF-8
        html, resources = super().from_notebook_node(from_dict(json.loads(text)), resources, **kw)
        known = set(map(unescape, re.findall(r' (?:id|name)="([^"]*)"', html)))
        links = re.compile(r'<a href="#([^"]*)"[^>]*>(.*?)</a>', re.DOTALL)
        return links.sub(lambda link: link[0] if unescape(link[1]) in known else link[2], html), resources


class PrintExporter(PageExporter):
    """A PDF set by Typst: the page's content without solutions, and without code except in cells tagged `show-input`.

    The returned resources also hold the text for Typst (`typst`) and `warnings`. Raises `ConversionException` if pandoc
    or Typst fails.
    """

    export_from_notebook = "Course PDF"
    output_mimetype = "application/pdf"
    prints = True
    left_out = {"remove-cell", "solution"}
    file_extension = FilenameExtension(".pdf")
    template_file = Unicode("cells.html.j2")

    def from_notebook_node(self, nb, resources=None, **kw):
        """The PDF of a notebook (bytes), and the resources."""
        html, resources = self.read(nb, resources, **kw)
        chapter = resources["chapter"]
        cover = {"title": chapter.title}
        try:
            resources["typst"] = pandoc(html, "typst")
            pdf, resources["warnings"] = typeset(resources["typst"], chapter.images, cover)
        except ConversionException:
            resources["typst"] = pandoc(_with_sources(html), "typst")
            pdf, resources["warnings"] = typeset(resources["typst"], chapter.images, cover)
        for warning in resources["warnings"]:
            self.log.warning("%s: %s", chapter.name, warning)
        return pdf, resources


def with_mathml(html: str) -> str:
    """The page with its formulas (`code.math`) as MathML; a formula that pandoc cannot read is left as its source."""
    formulas = list(dict.fromkeys(reversed(FORMULA.findall(html))))[::-1]  # in text order: contents repeat some first
    done = dict(zip(formulas, _mathml(formulas), strict=True))
    return FORMULA.sub(lambda formula: done[formula[0]], html)


def _mathml(formulas: list[str]) -> list[str]:
    try:
        made = pandoc("".join(f"<p>{formula}</p>" for formula in formulas), "html") if formulas else ""
    except ConversionException:  # at least one is wrong: each half is tried
        half = len(formulas) // 2
        return _mathml(formulas[:half]) + _mathml(formulas[half:]) if half else formulas
    return re.findall("<p>(.*?)</p>", made, re.DOTALL)


def _with_sources(html: str) -> str:
    """The HTML with the source in place of each formula that pandoc or Typst refuses."""
    import typst

    for formula in set(FORMULA.findall(html)):
        try:
            text = f'#import "report.typ": *\n{pandoc(formula, "typst")}'
            typst.query(text.encode(), "heading", root=TEMPLATES, font_paths=_fonts())
        except (ConversionException, RuntimeError):
            html = html.replace(formula, formula.replace(' class="math"', ""))
    return html


def pandoc(html: str, target: str) -> str:
    """Converts HTML to `target` (html or typst); raises `ConversionException` if pandoc fails."""
    import pypandoc

    options = ["--from=html", f"--to={target}", f"--lua-filter={TEMPLATES / 'print.lua'}", "--wrap=none", "--sandbox"]
    made = subprocess.run([pypandoc.get_pandoc_path(), *options], input=html.encode(), capture_output=True, check=False)
    if made.returncode:
        raise ConversionException(f"pandoc cannot read it: {made.stderr.decode(errors='replace').strip()}")
    return made.stdout.decode()


@cache
def _fonts():
    """The fonts of this machine, looked up once, because Typst would look for them again in every text."""
    import typst

    return typst.Fonts()


def typeset(text: str, images: dict[str, bytes], cover: dict, front: str = "") -> tuple[bytes, list[str]]:
    """The PDF (bytes) of a Typst text, and warnings; if `cover` has `facts`, it is a report with a title page.

    `cover` may name a `picture` from `images`, and its `alt` text, for the title page; `front` (Typst) comes after it.
    Raises `ConversionException` if Typst cannot set it.
    """
    import typst

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in images.items():
            (folder / file).write_bytes(content)
        (folder / "cover.json").write_text(json.dumps(cover))
        shutil.copy(TEMPLATES / "report.typ", folder)
        main = folder / "main.typ"
        shown = f'#show: report.with(json("cover.json"), front: [\n{front}\n])'
        main.write_text(f'#import "report.typ": *\n{shown}\n{text}', encoding="utf-8")
        warnings = []
        for standards in (["a-2b"], []):  # PDF/A forbids characters without a glyph
            try:
                return typst.compile(main, root=folder, font_paths=_fonts(), pdf_standards=standards), warnings
            except typst.TypstError as error:
                failure = str(error)
                if missing := re.search(r'the text `"(.+?)"` could not be displayed', failure):
                    text = re.sub(r"\\u\{(\w+)\}", lambda code: chr(int(code[1], 16)), missing[1])
                    script = unicodedata.name(text[0], "unknown").split()[0]
                    kind = f"the script {script}" if text[0].isalpha() else "symbols and emoji"
                    warnings.append(f"no installed font has all characters of {kind}, such as {missing[1]}")
        raise ConversionException(f"Typst cannot set it: {failure}")
