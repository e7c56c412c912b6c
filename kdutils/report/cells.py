"""The cells of a notebook as clean HTML, for pages and for PDFs."""

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable
from functools import partial
from html import escape, unescape
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

from mistune import BlockParser, BlockState, HTMLRenderer, InlineParser
from mistune.plugins import table
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

WIDGET = "application/vnd.jupyter.widget-view+json"  # a progress bar or a control: dead on paper
HEAVY = 1_500_000  # characters; an SVG beyond this (a scatter of many points) is slower to open than its PNG
ESCAPES = re.compile(r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[ -/]*.")
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ue000\ue001]")
FORMULA = re.compile(  # found before markdown is read, as in JupyterLab; code is matched first: it holds no formulas
    r"^ {0,3}(?P<fence>`{3,}|~{3,}).*?(?:^ {0,3}(?P=fence)|\Z)|(?<!`)(?P<ticks>`{3,})(?!`).+?(?<!`)(?P=ticks)(?!`)"
    r"|(?<!`)(?P<few>``?)(?!`)(?:(?!\n\s*\n).)+?(?<!`)(?P=few)(?!`)"  # within a paragraph
    r"|(?P<tex>(?<!\\)\$\$.+?\$\$|(?<![\\$])\$(?!\$)(?:(?!\n\s*\n).)+?(?<![\\$])\$(?!\$)"
    r"|(?<!\\)\\\\(?:\[.+?\\\\\]|\(.+?\\\\\))|\\begin\{(?P<name>[A-Za-z]+\*?)\}.*?\\end\{(?P=name)\})",
    re.DOTALL | re.MULTILINE,
)
KEPT = re.compile("\ue000(\\d+)\ue001")  # stands for a formula while markdown is read
CELLS = re.compile(r"(?<!\\)\|")  # between two cells in a row of a table
DRAWING = re.compile(r"<svg\b.*?</svg>", re.DOTALL | re.IGNORECASE)
MARKUP = re.compile(r"(<pre\b.*?</pre>|<code\b.*?</code>|<[^>]*>)", re.DOTALL)
ATTRIBUTES = {"*": {"id", "class", "title", "lang", "dir", "align", "style"}, "img": {"src", "alt", "width"}}
ATTRIBUTES |= {"a": {"href", "name"}, "ol": {"start"}, "th": {"colspan", "rowspan"}, "td": {"colspan", "rowspan"}}
DROPPED = {"script", "style", "iframe", "object", "template", "title", "svg"}  # removed with their contents
STYLES = {"text-align", "color", "background-color", "font-weight", "font-style", "text-decoration"}


class _Renderer(IPythonRenderer):
    image = HTMLRenderer.image  # `Chapter.clean` handles images

    def block_code(self, code: str, info: str = "") -> str:
        html, name = super().block_code(code, info), escape(info.strip().partition(" ")[0])
        return html.replace(f'">{name}\n', '">', 1)  # nbconvert shows a language unknown to Pygments as code

    def task_list_item(self, text: str, checked: bool = False) -> str:
        return f"<li>{'☑' if checked else '☐'} {text}</li>"


class Chapter:
    """Converts the cells of a notebook to HTML, and collects what the notebook holds.

    `headings` are (level, anchor, HTML); `names` lists figures and tables; `summary` is the first sentence and `answer`
    the computed answer, both as HTML; `error` is the first line of the first error; `images` are the image files, by
    name, that a PDF (`prints`) needs besides its text. Every anchor begins with `prefix`.
    """

    def __init__(self, name: str, folder: Path, prefix: str = "", prints: bool = False):
        self.name, self.folder, self.prefix, self.prints = name, folder.resolve(), prefix, prints
        self.headings: list[tuple[int, str, str]] = []
        self.names: dict[str, list[str]] = {"figure": [], "table": []}
        self.images: dict[str, bytes] = {}
        self.summary = self.answer = self.error = ""

    @property
    def title(self) -> str:
        """The first heading as plain text, or the file's name."""
        return _plain(self.headings[0][2]) if self.headings else self.name.replace("_", " ")

    def markdown(self, source: str, attachments: dict | None = None) -> str:
        """Jupyter's markdown as clean HTML, in which a formula is `code.math` with its dollars."""
        formulas: list[str] = []

        def keep(match: re.Match) -> str:
            formulas.append(escape(match["tex"] or ""))
            return f"\ue000{len(formulas) - 1}\ue001" if match["tex"] else match[0]

        def kept(match: re.Match) -> str:
            return formulas[int(match[1])]

        renderer = _Renderer(escape=False, exclude_anchor_links=True)
        if self.prints:  # Typst colours code itself, and would take the end of "c++" for code
            renderer.block_code = lambda code, info="": HTMLRenderer.block_code(
                renderer, code, re.match(r"[\w-]*", info)[0]
            )
        reader = MarkdownWithMath(renderer, BlockParser(), InlineParser())
        reader.block.register("table", table.TABLE_PATTERN, partial(_filled, table.parse_table))
        reader.block.register("nptable", table.NP_TABLE_PATTERN, partial(_filled, table.parse_nptable))
        table.table_in_list(reader)
        table.table_in_quote(reader)
        html = self.clean(reader.render(FORMULA.sub(keep, CONTROL.sub("", source))), attachments or {})
        html = re.sub(r"<h([1-6])([^>]*)>(.*?)</h\1>", lambda found: self._anchored(found, kept), html, flags=re.DOTALL)
        parts = MARKUP.split(html)
        parts[1::2] = [KEPT.sub(kept, part) for part in parts[1::2]]  # in a tag or code, a formula stays its source
        opening = [True, *(not part.startswith("</") for part in parts[1::2])]
        curled = (_curled(part, opens) for part, opens in zip(parts[::2], opening, strict=False))
        parts[::2] = [KEPT.sub(lambda match: f'<code class="math">{kept(match)}</code>', part) for part in curled]
        html = "".join(parts)
        for level, anchor, text in re.findall(r'<h([1-6])[^>]* id="([^"]*)"[^>]*>(.*?)</h\1>', html, re.DOTALL):
            self.headings.append((int(level), anchor, _unlinked(text)))
        if not self.summary and (found := re.search(r"<p>(?!\s*<img)(.+?)</p>", html, re.DOTALL)):
            self.summary = re.split(r"(?<=[.?!])\s+(?=[A-Z])", _unlinked(found[1]))[0]
        return html

    def _anchored(self, found: re.Match, kept) -> str:
        """A heading with the anchor that JupyterLab makes; "-1" is appended while an earlier heading has it."""
        level, attributes, text = found.groups()
        anchor = escape(self.prefix + unescape(KEPT.sub(kept, re.sub("<[^>]*>", "", text))).strip().replace(" ", "-"))
        if own := re.search(r' id="([^"]*)"', attributes):  # its own anchor, to which a link may lead
            anchor, attributes = own[1], attributes.replace(own[0], "")
        while any(anchor == other for _, other, _ in self.headings):
            anchor += "-1"
        return f'<h{level} id="{anchor}"{attributes}>{text}</h{level}>'

    def clean(self, html: str, attachments: dict) -> str:
        """HTML filtered by an allow list: nothing in it runs, restyles the page or loads files; images are embedded."""
        import nh3

        def attribute(tag: str, name: str, value: str) -> str | None:
            if name in ("id", "name"):
                return self.prefix + value
            if name != "href":
                return value
            if value.startswith("#"):
                return f"#{self.prefix}{unquote(value[1:])}"
            if re.match(r"(https?|mailto):|//", value, re.IGNORECASE):
                return value
            is_file = not (self.prints or re.match(r"[\w+.-]+:", value))  # other notebooks' pages lie beside a page
            return re.sub(r"\.ipynb(?=#|$)", ".html", value) if is_file else None

        tags = nh3.ALLOWED_TAGS - {"col", "colgroup"} | {"section", "tfoot"}  # pandoc drops cells beyond the `col`s
        other = rf"</?(?!(?:{'|'.join(tags | DROPPED)})\b)[a-z][^<>]*>"  # nh3 drops what follows <path> or <int>
        html = DRAWING.sub(_as_picture, html)
        html = nh3.clean(
            re.sub(other, "", html, flags=re.IGNORECASE),
            tags=tags,
            clean_content_tags=DROPPED,
            attributes=ATTRIBUTES,
            attribute_filter=attribute,
            url_schemes={"http", "https", "mailto", "data", "attachment"},
            filter_style_properties=STYLES,
            link_rel=None,
        )
        html = re.sub(r"<img\b([^>]*)>", lambda found: self._embedded(found[1], attachments), html)
        parts = MARKUP.split(html)  # a number stays with its spread and unit, except in code
        parts[::2] = [re.sub(r"(?<=\d) (?=± \d|%)|(?<=\d ±) (?=\d)", "\u00a0", part) for part in parts[::2]]
        html = "".join(parts)
        if self.prints:  # only what has a caption is numbered
            opening = r"(?s)<table[^>]*>(?:\s*<caption[^>]*>(.*?)</caption>)?"
            return re.sub(opening, r'<p>\1</p><table class="typst:no-figure">', html)
        return html.replace("<table", '<div class="scroll" tabindex="0"><table').replace("</table>", "</table></div>")

    def _embedded(self, attributes: str, attachments: dict) -> str:
        values = {name: unescape(value) for name, value in re.findall(r'([\w-]+)="([^"]*)"', attributes)}
        source, alt = values.get("src", ""), values.get("alt", "")
        scheme, _, rest = source.partition(":")
        if re.match(r"(https?:)?//", source, re.IGNORECASE):  # a page loads nothing
            return f'<a href="{escape(source)}">{escape(alt or source)}</a>'
        if scheme == "attachment":
            data = attachments.get(unquote(rest)) or attachments.get(rest) or {}
            content = next(iter(data.values()), "")
        elif scheme == "data":
            content = rest.partition(",")[2] if ";base64," in rest else unquote(rest.partition(",")[2]).encode()
        else:
            path = (self.folder / unquote(source)).resolve()
            content = path.read_bytes() if path.is_relative_to(self.folder) and path.is_file() else b""
        return self.image(content, alt, values.get("width")) or f"<em>{escape(alt or source[:80])}</em>"

    def image(self, content: bytes | str, alt: str, width: object = None) -> str:
        """An `img` of `content` (a str is base64 or SVG); its bytes tell the format. Returns "" if it is no picture."""
        import typst
        from PIL import Image

        try:
            if isinstance(content, str):
                content = content.encode() if "<svg" in content else base64.b64decode(content)
            if b"<svg" in content:
                mime, _ = "image/svg+xml", ElementTree.fromstring(content)
                if self.prints:  # Typst's parser is stricter still
                    text = json.dumps(content.decode(), ensure_ascii=False)
                    typst.query(f"#image(bytes({text}))".encode(), "heading", ignore_system_fonts=True)
            else:
                picture = Image.open(io.BytesIO(content))
                picture.load()
                mime, frame = picture.get_format_mimetype(), io.BytesIO()
                if self.prints and mime not in ("image/png", "image/jpeg"):  # the first frame of an animation
                    picture.convert("RGBA").save(frame, "PNG")
                    content = frame.getvalue()
        except Exception:  # noqa: BLE001 Pillow, expat and Typst raise nearly anything for what is no picture
            return ""
        source = f"data:{mime};base64,{base64.b64encode(content).decode()}"
        if self.prints:
            source = hashlib.sha256(content).hexdigest()[:16]
            self.images[source] = content
        width = str(width).removesuffix("px")
        size = f' width="{width}"' if re.fullmatch(r"\d+(\.\d+)?%?", width) else ""
        return f'<img alt="{escape(alt)}" src="{source}"{size}>'

    def output(self, output: dict, place: int) -> str:
        """An output of the cell at `place` as HTML; figures and tables of `Page` get numbers and captions."""
        if output.output_type == "stream":
            return "" if output.name == "stderr" else _printed(output.text)
        if output.output_type == "error":
            error = f"{output.ename}: {output.evalue}"
            self.error = self.error or CONTROL.sub("", ESCAPES.sub("", error.splitlines()[0]))
            return _printed("\n".join(output.traceback) or error, "error")
        ours = _texts(output.metadata.get("kdutils"))
        kind, name = ours.get("kind"), ours.get("name", "")
        if kind == "caption":  # Jupyter shows this one; a page makes its own
            return ""
        body = self._displayed(output.data, output.metadata, place)
        if kind == "answer":
            self.answer = body
            return f'<div class="answer">{body}</div>'
        if kind not in self.names:
            return body
        self.names[kind].append(name)
        number = "" if self.prints else f'<span class="number">{kind.title()} {len(self.names[kind])}.</span> '
        caption = f"<figcaption>{number}{re.sub('</?p>', '', self.markdown(ours.get('caption', '')))}</figcaption>"
        content = body + caption if kind == "figure" else caption + body
        return f'<figure class="{kind}" id="{escape(self.prefix + name)}">{content}</figure>'

    def _displayed(self, data: dict, metadata: dict, place: int) -> str:
        """The richest printable form of a display, as HTML."""
        texts = _texts(data)
        plain, html = CONTROL.sub("", texts.get("text/plain", "")), texts.get("text/html", "")
        if "text/markdown" in texts:
            return self.markdown(texts["text/markdown"])
        for kind in sorted((kind for kind in texts if kind.startswith("image/")), key="image/svg+xml".__ne__):
            if len(texts[kind]) > HEAVY and kind == "image/svg+xml" and "image/png" in texts:
                continue
            sizes = metadata[kind] if isinstance(metadata.get(kind), dict) else metadata
            if drawn := self.image(texts[kind], plain, sizes.get("width")):
                return f'<div class="picture">{drawn}</div>'
        if "text/latex" in texts and "<table" not in html:  # the LaTeX of a table is `tabular`, no formula
            return self.markdown(texts["text/latex"])
        is_frame = 'class="dataframe"' in html
        if not plain or is_frame or "<script" not in html.lower():
            if is_frame:  # aligned right, as in Jupyter
                html = re.sub("<(t[dh])>", r'<\1 style="text-align: right">', html)
            cleaned = self.clean(html, {})
            if "<img" in cleaned or _plain(cleaned).strip():
                return cleaned
        if "application/json" in data:
            return _printed(json.dumps(data["application/json"], indent=2, ensure_ascii=False))
        kinds = ", ".join(kind for kind in data if kind != "text/plain")
        missing = f'<p class="unprintable">An output of cell {place} ({escape(kinds)}) has no printable form.</p>'
        return "" if WIDGET in data else _printed(plain) or (missing if kinds and "text/plain" not in data else "")


def _filled(parse: Callable, block: BlockParser, head: re.Match, state: BlockState) -> int | None:
    """Read a table whose rows may have fewer cells than its head, or more (which are left out), as JupyterLab does."""
    marks, *rows = state.src[head.end() :].split("\n")
    if not re.fullmatch(r"[\s|:-]*-[\s|:-]*", marks):
        return None
    columns, edge = len(CELLS.split(marks.strip().strip("|"))), "|" * head[0].lstrip().startswith("|")
    for number, row in enumerate(rows):
        if "|" not in row or not row.lstrip().startswith(edge):
            break
        cells = CELLS.split(row.strip().removeprefix("|").removesuffix("|"))
        rows[number] = edge + "|".join((cells + [" "] * columns)[:columns]) + edge
    state.src = state.src[: head.end()] + "\n".join([marks, *rows])
    state.cursor_max = len(state.src)
    return parse(block, head, state)


def _texts(given: object) -> dict[str, str]:
    """The items of a dict whose values are strings, {} for anything else: a notebook may hold anything there."""
    return {name: value for name, value in given.items() if isinstance(value, str)} if isinstance(given, dict) else {}


def _plain(html: str) -> str:
    return unescape(re.sub("<[^>]*>", "", html))


def _unlinked(html: str) -> str:
    return re.sub(r"</?(?:a|img)\b[^>]*>", "", html)


def _curled(text: str, opens: bool) -> str:
    """Text between tags with typographic quotes and minus signs; `opens`: whether a quote at its start is opening."""
    text = re.sub(r"(?<![\w.)\]−-])-(?=\d)", "−", text)
    before = r"(^|(?<=[\s(\[–—“]))" if opens else r"((?<=[\s(\[–—“]))"
    return re.sub(before + "'", "‘", re.sub(before + '"', "“", text).replace('"', "”")).replace("'", "’")


def _as_picture(drawing: re.Match) -> str:
    """An inline SVG as an `img`, in which no script runs."""
    svg = drawing[0] if "xmlns=" in drawing[0] else f'<svg xmlns="http://www.w3.org/2000/svg"{drawing[0][4:]}'
    return f'<img alt="a drawing" src="data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}">'


def _printed(text: str, kind: str = "output") -> str:
    """Terminal text as HTML, as a reader finally saw it: without colours and without what backspaces erased."""
    text = ESCAPES.sub("", text)
    while (shorter := re.sub("[^\n\b]\b", "", text)) != text:
        text = shorter
    text = CONTROL.sub("", text).strip("\n").expandtabs()
    return f'<pre class="{kind}"><code>{escape(text, quote=False)}</code></pre>' if text.strip() else ""
