"""Executed notebooks as pages that load nothing (`kd_html`) and as PDFs set by Typst (`kd_pdf`), for nbconvert.

Jupyter's server finds only names that match `\\w+`, and constructs every exporter whenever it lists them: heavy imports
are made where they are used.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import re
import shutil
import subprocess
import tempfile
import unicodedata
from collections import defaultdict
from html import escape, unescape
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

from mistune import BlockParser, HTMLRenderer, InlineParser
from nbconvert.exporters import TemplateExporter
from nbconvert.filters import Highlight2HTML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.utils.exceptions import ConversionException
from traitlets import default
from traitlets.config import Config

TEMPLATES = Path(__file__).parent / "templates"
WIDGET = "application/vnd.jupyter.widget-view+json"  # a progress bar or a control: dead on paper
IMAGES = ("image/svg+xml", "image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp")
HEAVY = 1_500_000  # characters; an SVG beyond this (a scatter of many points) is slower to open than its PNG
CONTROL = re.compile(r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-?]*[ -/]*[@-~]|\x1b.|[\x00-\x08\x0b-\x1f\x7f]")
FORMULA = re.compile(  # as in JupyterLab, found before the markdown is read; code comes first, for it holds none
    r"^ {0,3}(?P<fence>`{3,}|~{3,}).*?(?:^ {0,3}(?P=fence)|\Z)|(?<!`)(?P<tick>`+)(?!`).+?(?<!`)(?P=tick)(?!`)|(?P<math>"
    r"(?<!\\)\$\$.+?\$\$|(?<![\\$])\$(?!\$)(?:(?!\n\s*\n).)+?(?<![\\$])\$(?!\$)|\\\\\[.+?\\\\\]|\\\\\(.+?\\\\\)"
    r"|\\begin\{(?P<name>[A-Za-z]+\*?)\}.*?\\end\{(?P=name)\})",
    re.DOTALL | re.MULTILINE,
)
KEPT = re.compile("\ue000(\\d+)\ue001")  # a formula's place while the markdown is read
MARKUP = re.compile(r"(<pre\b.*?</pre>|<code\b.*?</code>|<[^>]*>)", re.DOTALL)
ATTRIBUTES = {"*": {"id", "class", "title", "lang", "dir", "align", "style"}, "img": {"src", "alt", "width"}}
ATTRIBUTES |= {"a": {"href", "name"}, "ol": {"start", "type"}, "th": {"colspan", "rowspan"}, "td": {"colspan", "rowspan"}}
STYLES = {"text-align", "color", "background-color", "font-weight", "font-style", "text-decoration"}


class PageExporter(TemplateExporter):
    """One self-contained HTML page: no script, MathML, folded code, numbered figures and tables.

    `resources` may hold `pages`, the `(relation, address, label)` of a navigation bar, and a `prefix` for all anchors.
    Those that come back hold the `Chapter` that was read. Raises `ConversionException` if pandoc fails.
    """

    export_from_notebook = "Course page"
    output_mimetype = "text/html"
    prints = False

    @default("file_extension")
    def _file_extension_default(self):
        return ".html"

    @default("template_name")
    def _template_name_default(self):
        return "kd"

    @default("template_file")
    def _template_file_default(self):
        return "page.html.j2"

    @default("extra_template_basedirs")
    def _default_extra_template_basedirs(self):
        return [str(TEMPLATES)]  # not share/jupyter, which an editable installation leaves empty

    @property
    def default_config(self):
        """nbconvert's own, with tags and streams as a page needs them."""
        tags = {"remove_cell_tags": {"remove-cell"}, "remove_input_tags": {"hide-input"}}
        ours = {"TagRemovePreprocessor": tags, "CoalesceStreamsPreprocessor": {"enabled": True}}
        config = super().default_config
        config.merge(Config(ours))
        return config

    def from_notebook_node(self, nb, resources=None, **kw):
        """The page of a notebook, as text, and the resources."""
        html, resources = self._read(nb, resources, **kw)
        return with_mathml(html), resources

    def _read(self, nb, resources, **kw):
        resources = self._init_resources(resources)
        language = nb.metadata.get("kernelspec", {}).get("language", "python")
        self.register_filter("highlight", Highlight2HTML(pygments_lexer=language, parent=self))
        folder, name = Path(resources["metadata"]["path"] or "."), resources["metadata"]["name"] or "notebook"
        resources["chapter"] = Chapter(folder, name, resources.get("prefix") or "", self.prints)
        html, resources = super().from_notebook_node(nb, resources, **kw)
        return _without_dead_links(html.encode("utf-8", "replace").decode()), resources


class PrintExporter(PageExporter):
    """A PDF without code, but for cells tagged `show-input`: the page's content by pandoc to Typst.

    `resources["typst"]` comes back with the Typst text. Raises `ConversionException` if Typst cannot set it.
    """

    export_from_notebook = "Course PDF"
    output_mimetype = "application/pdf"
    prints = True

    @default("file_extension")
    def _file_extension_default(self):
        return ".pdf"

    @default("template_file")
    def _template_file_default(self):
        return "cells.html.j2"

    def from_notebook_node(self, nb, resources=None, **kw):
        """The PDF of a notebook, as bytes, and the resources."""
        html, resources = self._read(nb, resources, **kw)
        chapter, failure = resources["chapter"], None
        for text in (html, html.replace('<code class="math">', "<code>")):  # if need be with its formulas as source
            resources["typst"] = _pandoc(text, "typst")
            try:
                pdf, warnings = typeset(resources["typst"], chapter.images, {"title": chapter.title})
                break
            except ConversionException as error:
                failure = error
        else:
            raise failure
        chapter.warnings += warnings + (["its formulas stand as source: Typst cannot set one of them"] if failure else [])
        for warning in chapter.warnings:
            self.log.warning("%s: %s", chapter.name, warning)
        return pdf, resources


class Chapter:
    """A notebook while its cells become HTML, and what is known of it then.

    `headings` are (level, anchor, HTML), `figures` and `tables` names, `summary` is the first sentence as HTML, `error`
    the first one, `images` what a PDF needs beside its text, and `warnings` what a reader of the PDF misses.
    """

    def __init__(self, folder: Path, name: str, prefix: str, prints: bool):
        self.folder, self.name, self.prefix, self.prints = folder.resolve(), name, prefix, prints
        self.headings: list[tuple[int, str, str]] = []
        self.figures: list[str] = []
        self.tables: list[str] = []
        self.warnings: list[str] = []
        self.images: dict[str, bytes] = {}
        self.summary = self.error = ""

    @property
    def title(self) -> str:
        """The first heading as plain text, or the file's name."""
        return _plain(self.headings[0][2]) if self.headings else self.name.replace("_", " ")

    def markdown(self, source: str, attachments: dict | None = None) -> str:
        """Jupyter's markdown as clean HTML; a formula as `code.math`, with its dollars."""
        formulas: list[str] = []

        def keep(match: re.Match) -> str:
            if not match["math"]:
                return match[0]
            formulas.append(escape(match["math"], quote=True))
            return f"\ue000{len(formulas) - 1}\ue001"

        renderer = _Renderer(escape=False, exclude_anchor_links=True)
        if self.prints:
            renderer.register("block_code", lambda _, *code, **info: HTMLRenderer.block_code(renderer, *code, **info))
        markdown = MarkdownWithMath(renderer, BlockParser(), InlineParser())
        parts = MARKUP.split(self.clean(markdown.render(FORMULA.sub(keep, CONTROL.sub("", source))), attachments or {}))
        for place, text in enumerate(parts):
            if place % 2:  # inside a tag or code a formula is its source
                parts[place] = KEPT.sub(lambda kept: formulas[int(kept[1])], text)
            else:
                begins = not place or not parts[place - 1].startswith("</")
                text = KEPT.sub(lambda kept: f'<code class="math">{formulas[int(kept[1])]}</code>', _curled(text, begins))
                parts[place] = text
        html = re.sub(r"<h([1-6])([^>]*)>(.*?)</h\1>", self._heading, "".join(parts), flags=re.DOTALL)
        if not self.summary and (found := re.search(r"<p>(?=\s*[^\s<]|<(?:em|strong|code))(.*?)</p>", html, re.DOTALL)):
            self.summary = re.split(r"(?<=[.?!])\s+(?=[A-Z])", re.sub(r"</?(?:a|img)\b[^>]*>", "", found[1]))[0]
        return html

    def _heading(self, found: re.Match) -> str:
        anchor = unescape(re.sub("<[^>]*>", "", found[3])).strip().replace(" ", "-")  # as JupyterLab makes it
        anchor = escape(self.prefix + anchor)
        while any(anchor == other for _, other, _ in self.headings):
            anchor += "-1"
        self.headings.append((int(found[1]), anchor, re.sub(r"</?(?:a|img)\b[^>]*>", "", found[3])))
        return f'<h{found[1]}{found[2]} id="{anchor}">{found[3]}</h{found[1]}>'

    def clean(self, html: str, attachments: dict | None = None) -> str:
        """HTML by an allow list: nothing that runs, restyles or loads; what an image shows travels inside."""
        import nh3

        def attribute(tag: str, name: str, value: str) -> str | None:
            if name in ("id", "name"):
                return self.prefix + value
            if tag == "a" and name == "href":
                if value.startswith("#"):
                    return f"#{self.prefix}{unquote(value[1:])}"
                if not re.match(r"[\w+.-]+:|//", value):  # another notebook: beside a page lies its page
                    return None if self.prints else re.sub(r"\.ipynb(?=#|$)", ".html", value)
                return None if value.lower().startswith(("data:", "attachment:")) else value
            return value

        html = nh3.clean(
            html,
            tags=nh3.ALLOWED_TAGS | {"section", "tfoot"},
            clean_content_tags={"script", "style", "iframe", "object", "template", "title"},
            attributes=ATTRIBUTES,
            attribute_filter=attribute,
            url_schemes={"http", "https", "mailto", "data", "attachment"},
            filter_style_properties=STYLES,
            link_rel=None,
        )
        html = re.sub(r"<img\b([^>]*)>", lambda found: self._embedded(found[1], attachments or {}), html)
        html = re.sub(r"(\d) ± (?=\d)", "\\1\u00a0±\u00a0", html)
        if self.prints:
            return re.sub(r'<table(?: class="(?P<frame>dataframe)?)?[^>]*>', r'<table class="typst:no-figure \g<frame>">', html)
        return html.replace("<table", '<div class="scroll" tabindex="0"><table').replace("</table>", "</table></div>")

    def _embedded(self, attributes: str, attachments: dict) -> str:
        values = {name: unescape(value) for name, value in re.findall(r'([\w-]+)="([^"]*)"', attributes)}
        source, alt = values.get("src", ""), values.get("alt", "")
        if re.match(r"(https?:)?//", source, re.IGNORECASE):
            return f'<a href="{escape(source)}">{escape(alt or source)}</a>'
        if source.startswith("attachment:"):
            data = attachments.get(unquote(source[11:])) or attachments.get(source[11:]) or {}
            content = _decoded(next(iter(data.values()), ""))
        elif source.startswith("data:"):
            kind, _, data = source.partition(",")
            content = _decoded(data) if kind.endswith("base64") else unquote(data).encode()
        else:
            path = (self.folder / unquote(source)).resolve()
            content = path.read_bytes() if path.is_relative_to(self.folder) and path.is_file() else b""
        return self.image(content, alt, values.get("width")) or f"<em>{escape(alt or source[:80])}</em>"

    def image(self, content: bytes, alt: str, width: object = None) -> str | None:
        """An `img` that holds `content`, whose bytes tell its format; None where they are no picture."""
        mime, content = _picture(content, self.prints)
        if not mime:
            return None
        if self.prints:
            source = hashlib.sha256(content).hexdigest()[:16]
            self.images[source] = content
        else:
            source = f"data:{mime};base64,{base64.b64encode(content).decode()}"
        size = f' width="{width}"' if re.fullmatch(r"\d+(\.\d+)?%?", str(width)) else ""
        return f'<img alt="{escape(alt)}" src="{source}"{size}>'

    def output(self, output: dict, place: int) -> str:
        """What a cell printed or displayed, in the richest form that paper can hold; `place` is the cell's."""
        if output.output_type == "stream":
            return "" if output.name == "stderr" else _printed(output.text)
        if output.output_type == "error":
            line = f"{output.ename}: {output.evalue}"
            self.error = self.error or CONTROL.sub("", line.splitlines()[0])
            return _printed("\n".join(output.traceback) or line, "error")
        data, ours = output.data, output.metadata.get("kdutils", {})
        kind = ours.get("kind")
        if kind == "caption":
            return ""  # Jupyter shows it under the figure; a page sets its own
        if kind not in ("figure", "table"):
            return self._displayed(data, output.metadata, place)
        names, body = (self.figures, self._displayed(data, output.metadata, place)) if kind == "figure" else (self.tables, "")
        names.append(ours["name"])
        number = "" if self.prints else f'<span class="number">{kind.title()} {len(names)}.</span> '
        caption = re.sub("</?p>", "", self.markdown(ours["caption"]))
        caption = f"<figcaption>{number}{caption}</figcaption>"
        if kind == "table":
            caption, body = "", caption + self.markdown(data["text/markdown"])
        return f'<figure class="{kind}" id="{escape(self.prefix + ours["name"])}">{body}{caption}</figure>'

    def _displayed(self, data: dict, metadata: dict, place: int) -> str:
        plain, html = data.get("text/plain", ""), data.get("text/html", "")
        if "text/markdown" in data:
            return self.markdown(data["text/markdown"])
        kinds = [kind for kind in IMAGES if kind in data]
        if len(data.get("image/svg+xml", "")) > HEAVY and "image/png" in kinds:
            kinds.remove("image/svg+xml")
        for kind in kinds:
            content = data[kind].encode("utf-8", "replace") if kind == "image/svg+xml" else _decoded(data[kind])
            if drawn := self.image(content, plain, (metadata | metadata.get(kind, {})).get("width")):
                return f'<div class="picture">{drawn}</div>'
        if "text/latex" in data:
            return self.markdown(data["text/latex"])
        runs = "<script" in html.lower()
        if html and not runs or runs and not plain:
            cleaned = self.clean(html)
            if _plain(cleaned).strip() or "<img" in cleaned:
                return cleaned
        if WIDGET in data:
            return ""
        kinds = ", ".join(kind for kind in data if kind != "text/plain")
        return _printed(plain) or f'<p class="unprintable">An output of cell {place} ({escape(kinds)}) has no printable form.</p>'


class _Renderer(IPythonRenderer):
    image = HTMLRenderer.image  # `Chapter.clean` looks after images


def _plain(html: str) -> str:
    return unescape(re.sub("<[^>]*>", "", html))


def _curled(text: str, begins: bool) -> str:
    """Text between tags with typographic quotes; `begins` where a quote at its start opens."""
    text = re.sub(r'(?<=[\s(\[–—])"|^"' if begins else r'(?<=[\s(\[–—])"', "“", text).replace('"', "”")
    return re.sub(r"(?<=[\s(\[–—“])'|^'" if begins else r"(?<=[\s(\[–—“])'", "‘", text).replace("'", "’")


def _printed(text: str, kind: str = "output") -> str:
    """Terminal text as a reader saw it in the end: without colours, backspaces done."""
    text = re.sub(r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-?]*[ -/]*[@-~]", "", text)
    while (shorter := re.sub("[^\n\b]\b", "", text)) != text:
        text = shorter
    text = CONTROL.sub("", text).strip("\n")
    return f'<pre class="{kind}"><code>{escape(text, quote=False)}</code></pre>' if text.strip() else ""


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        return b""


def _picture(content: bytes, prints: bool) -> tuple[str, bytes]:
    """The format that the bytes tell, and the bytes (of the first frame, where Typst knows only others)."""
    from PIL import Image

    try:
        if b"<svg" in content:
            ElementTree.fromstring(content)
            return "image/svg+xml", content
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            mime = image.get_format_mimetype() or ""
            if prints and mime not in ("image/png", "image/jpeg"):
                frame = io.BytesIO()
                image.convert("RGBA").save(frame, "PNG")
                return "image/png", frame.getvalue()
            return mime, content
    except Exception:  # Pillow raises nearly anything for bytes that are no picture
        return "", b""


def _without_dead_links(html: str) -> str:
    known = set(re.findall(r' (?:id|name)="([^"]*)"', html))
    return re.sub(r'<a href="#([^"]*)"[^>]*>(.*?)</a>', lambda link: link[0] if link[1] in known else link[2], html, flags=re.DOTALL)


def with_mathml(html: str) -> str:
    """A page whose formulas (`code.math`) are MathML, by one call of pandoc."""
    pattern = re.compile(r'<code class="math">.*?</code>', re.DOTALL)
    formulas = list(dict.fromkeys(pattern.findall(html)))
    if not formulas:
        return html
    made = _pandoc("".join(f"<p>{formula}</p>" for formula in formulas), "html")
    done = dict(zip(formulas, re.findall(r"<p>(.*?)</p>", made, re.DOTALL), strict=True))
    return pattern.sub(lambda formula: done[formula[0]], html)


def _pandoc(html: str, target: str) -> str:
    import pypandoc

    options = ["--from=html", f"--to={target}", f"--lua-filter={TEMPLATES / 'print.lua'}", "--wrap=none", "--sandbox"]
    command = [pypandoc.get_pandoc_path(), *options, "--quiet"]
    made = subprocess.run(command, input=html.encode(), capture_output=True)
    if made.returncode:
        raise ConversionException(f"pandoc cannot read it: {made.stderr.decode(errors='replace').strip()}")
    return made.stdout.decode()


def typeset(text: str, images: dict[str, bytes], cover: dict) -> tuple[bytes, list[str]]:
    """The PDF of a Typst text, and warnings; with `facts` in its `cover` it is a report with a title page.

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
        main.write_text(f'#import "report.typ": *\n#show: report.with(json("cover.json"))\n{text}', encoding="utf-8")
        try:
            return typst.compile(main, root=folder, pdf_standards=["a-2b"]), []  # which forbids characters without a glyph
        except typst.TypstError as error:
            warnings = _undrawn(text) if "could not be displayed" in str(error) else []
        try:
            return typst.compile(main, root=folder), warnings
        except typst.TypstError as error:
            raise ConversionException(f"Typst cannot set it: {error}") from None


def _undrawn(text: str) -> list[str]:
    """One warning that names the scripts for which no font is installed."""
    import typst

    scripts: dict[str, str] = defaultdict(str)
    for character in sorted(set(text)):
        is_letter = unicodedata.category(character).startswith("L")
        scripts[unicodedata.name(character, "unknown").split()[0] if is_letter else "symbols"] += character
    missing = []
    for script, characters in scripts.items():
        try:
            typst.compile(f"#{json.dumps(characters, ensure_ascii=False)}".encode(), pdf_standards=["a-2b"])
        except typst.TypstError as error:
            example = re.search(r'"(.*)`? could not|`"(.*?)"`', str(error))
            missing.append(f"{script} (such as {example[2] or example[1]})" if example else script)
    return [f"no installed font has all characters of these scripts: {', '.join(missing)}"] if missing else []
