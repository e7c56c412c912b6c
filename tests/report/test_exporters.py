"""What people's notebooks hold, as a reader sees it: pages through an HTML parser, PDFs through a PDF reader."""

import base64
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell
from papers import page_texts
from PIL import Image
from pypdf import PdfReader

import kdutils
from kdutils.__main__ import main
from kdutils.report import exporters
from kdutils.report.exporters import PageExporter, PrintExporter

SYMBOLS = (Path(__file__).parent / "latex_symbols.txt").read_text().split()
ACCENTS = """
hat widehat check tilde widetilde acute grave dot ddot breve bar vec overline underline overbrace
underbrace mathring overrightarrow overleftarrow boldsymbol bm mathbf mathrm mathit mathsf mathtt mathcal
mathbb mathfrak mathscr text textbf textit operatorname sqrt boxed cancel phantom pmod xrightarrow
xleftarrow substack mathbbm mathds smash
""".split()


class Page(HTMLParser):
    """A page's elements, what in it can run or load, and its text."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(html.partition("<main>")[2])

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


class Made:
    """The page and the PDF of some cells."""

    def __init__(self, *cells, folder=".", **metadata):
        notebook, about = new_notebook(cells=list(cells)), {"metadata": {"name": "made", "path": str(folder)}}
        self.html, self.resources = PageExporter().from_notebook_node(notebook, about)
        self.pdf, self.printed = PrintExporter().from_notebook_node(notebook, about)
        self.page, self.reader = Page(self.html), PdfReader(io.BytesIO(self.pdf))
        self.pages = page_texts(self.pdf)
        self.paper, self.text = " ".join(self.pages), " ".join(self.page.text.split())

    def places(self):
        """Where the first page has its texts: (x, y) in points by what is said there, of the last one that says so."""
        found = {}

        def visit(said, page, line, *_):
            found[said.strip()] = page[4] + line[4], page[5] + line[5]

        self.reader.pages[0].extract_text(visitor_text=visit)
        return found

    def pictures(self):
        """The images of the PDF."""
        return [image.image for page in self.reader.pages for image in page.images]


def text(*sources, **options):
    return Made(*map(new_markdown_cell, sources), **options)


def shown(*outputs, **options):
    return Made(new_code_cell("show()", outputs=list(outputs)), **options)


def display(data, **metadata):
    return new_output("display_data", data, metadata=metadata)


def printed(text):
    return new_output("stream", name="stdout", text=text)


def picture(kind="PNG", size=(60, 40), colour="teal"):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def table(name, rows, **ours):
    markdown = "\n".join(
        "| " + " | ".join(row) + " |" for row in [rows[0], [":--"] + ["--:"] * (len(rows[0]) - 1), *rows[1:]]
    )
    return display(
        {"text/markdown": markdown}, kdutils={"kind": "table", "name": name, "caption": f"The {name}."} | ours
    )


# Formulas


def test_every_symbol_and_accent_is_set_in_both():
    formulas = [rf"$\{name}$" for name in SYMBOLS if name != "circledS"] + [rf"$\{name}{{x}}$" for name in ACCENTS]
    made = text("\n\n".join(f"{number} {formula}" for number, formula in enumerate(formulas)))
    assert "<code>" not in made.html and made.html.count("<math") == len(formulas)
    assert "`" not in made.printed["typst"] and made.printed["warnings"] == []


def test_a_macro_that_is_unknown_stands_as_its_source_beside_the_rest():
    made = text(r"Sets $A \cap B$ and $\sign(w) \oplus b$ and $u \odot v$.")
    assert made.html.count("<math") == 2 and r"$\sign(w) \oplus b$" in made.text
    assert all(words in made.paper for words in ("𝐴 ∩ 𝐵", r"$\sign(w) \oplus b$", "𝑢 ⊙ 𝑣"))


@pytest.mark.parametrize("formula", [r"$ \alpha $", r"$\alpha$", r"$$\alpha$$", r"\\(\alpha\\)", r"\\[ \alpha \\]"])
def test_every_delimiter_of_jupyter_makes_a_formula(formula):
    made = text(f"The weight {formula} is small.")
    assert "<mi>α</mi>" in made.html and "𝛼" in made.paper and "$" not in made.text + made.paper
    assert (made.page.all("math")[0]["display"] == "block") == ("$$" in formula or "[" in formula)


@pytest.mark.parametrize(
    "name", "align align* aligned gather multline eqnarray split cases dcases matrix Bmatrix alignat*".split()
)
def test_environments_are_set(name):
    argument = "{2}" if name == "alignat*" else ""
    made = text(rf"\begin{{{name}}}{argument} a &= b \notag \\ c &= d \nonumber \end{{{name}}}")
    assert made.html.count("<math") == 1 and "<code>" not in made.html
    assert set("𝑎𝑏𝑐𝑑") <= set(made.paper) and "begin" not in made.paper and "notag" not in made.paper


COLUMNS = (  # columns of the first and the second row
    r"f(x) = \begin{cases} a & b \\ c & d \end{cases}",
    r"\begin{cases} a & b \\[4pt] c & d \\ \end{cases}",
    r"\left\{\begin{array}{ll} a & b \\ c & d \end{array}\right.",
    r"x = \begin{matrix} a & b \\ c & d \end{matrix}",
    r"\left\{\begin{matrix} a & b \\ c & d \end{matrix}\right.",
    r"\left\{\begin{array}{l} x \end{array}\right\} \left\{\begin{array}{ll} a & b \\ c & d \end{array}\right.",
    r"\left(\begin{smallmatrix} a & b \\ c & d \end{smallmatrix}\right)",
    r"\begin{array}[t]{c|c} a & b \\ \hline c & d \end{array}",
    r"x = \left[\begin{array}{cc} a & b \\ c & d \end{array}\right]",
    r"\begin{vmatrix} a & b \\ c & d \end{vmatrix}",
    r"\begin{Vmatrix} a & b \\ c & d \end{Vmatrix}",
    r"x = \begin{bmatrix} \begin{matrix} a & b \\ c & d \end{matrix} \end{bmatrix}",
    r"\begin{align} x &= y \\ z &= \begin{cases} a & b \\ c & d \end{cases} \end{align}",
)


@pytest.mark.parametrize("formula", COLUMNS)
def test_columns_stand_apart_and_below_each_other(formula):
    made = text(f"$${formula}$$\n\n${formula}$")
    assert made.paper.count("{") == 2 * (formula.count(r"\{") + formula.count(r"\begin{cases}"))
    assert made.html.count("<math") == 2 and "begin" not in made.paper and made.printed["warnings"] == []
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = map(made.places().get, "𝑎𝑏𝑐𝑑")
    assert abs(ay - by) < 2 and abs(cy - dy) < 2 and ay > cy + 3
    assert abs(ax - cx) < 2 and abs(bx - dx) < 2 and bx - ax > 7, "a letter is 5 points wide, in a small matrix 3.5"


@pytest.mark.parametrize(
    "formula",
    [
        r"f = \begin{aligned} a &= b \\ c + x &= d \end{aligned}",
        r"\left\{\begin{aligned} a &= b \\ c + x &= d \end{aligned}\right.",
        r"\begin{eqnarray} a &=& b \\ c + x &=& d \end{eqnarray}",
        r"\begin{array}{rcl} a &=& b \\ c + x &=& d \end{array}",
        r"\begin{align*} a &= b & e &= f \\ c + x &= d & g &= h \end{align*}",
    ],
)
def test_lines_are_aligned_at_their_marks_and_pairs_of_columns_stand_apart(formula):
    made = text(f"$${formula}$$")
    places = made.places()
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = map(places.get, "𝑎𝑏𝑐𝑑")
    assert abs(ay - by) < 2 and abs(cy - dy) < 2 and ay > cy + 8 and not set("[(|") & set(made.paper)
    assert abs(bx - dx) < 2 and ax > cx + 10
    if "𝑒" in places:
        assert places["𝑒"][0] - bx > 20 and abs(places["𝑓"][0] - places["ℎ"][0]) < 2
    elif "𝑓" in places:
        assert cy < places["𝑓"][1] < ay, "what stands before the lines stands at their middle"


NORMS = (
    r"\|x\|_1^2",
    r"\left\|x\right\|_1^2",
    r"\big\|x\big\|_1^2",
    r"\lVert x\rVert_1^2",
    r"\Vert x\Vert_1^2",
    r"|x|_1^2",
)


@pytest.mark.parametrize("norm", [*NORMS, r"\newcommand{\n}[1]{\left\lVert #1\right\rVert} \n{x}_1^2"])
def test_a_norm_has_its_exponent_beside_it_and_no_gaps(norm):
    made = text(f"$${norm}$$\n\nSo ${norm}$ is")
    (bar,) = {"‖", "|"} & set(re.sub(r"\s", "", made.paper))
    assert re.search(rf"{re.escape(bar)}𝑥{re.escape(bar)}", made.paper)
    places = made.places()
    assert places["2"][0] - places[bar][0] < 6 and places["2"][0] > places[bar][0] + 1
    assert abs(places["So"][1] - places["𝑥"][1]) < 1, "a formula within a line stays there"


@pytest.mark.parametrize(
    "operator",
    [
        r"\operatorname*{arg\,min}_w",
        r"\underset{w}{\operatorname{argmin}}",
        r"\underset{w}{\mathrm{argmin}}",
        r"\mathop{\mathrm{argmin}}_w",
        r"\DeclareMathOperator*{\amin}{arg\,min}\amin_w",
    ],
)
def test_what_an_operator_runs_over_stands_below_it(operator):
    made = text(rf"${operator} L$ and $\operatorname{{tr}}_w A$", rf"$${operator} L$$")
    places = made.places()
    assert places["𝑤"][0] < places["𝐿"][0] - 8 and places["𝑤"][1] < places["𝐿"][1] - 5
    other = text(
        r"$\operatorname{tr}_w A + \left(\operatorname{KL}\right) + \begin{pmatrix} \operatorname{diag} \end{pmatrix}$"
    )
    made = other.printed["typst"]
    assert "limits" not in made and all(f'op("{name}")' in made for name in ("tr", "KL", "diag"))


def test_an_index_of_a_relation_stands_beside_it_unless_one_sets_it_above():
    places = text(r"$$x \sim_i p$$ $$y \overset{d}{=} q$$ $$z \to_n u \text{ if } v\mid_0$$").places()
    assert places["𝑖"][0] > places["∼"][0] + 6 and places["𝑛"][0] > places["→"][0] + 8
    assert places["0"][0] > places["∣"][0] + 1 and abs(places["𝑑"][0] - places["="][0]) < 4


def test_brackets_are_as_high_as_what_they_bound_where_one_says_so():
    made = text(r"$$\Big(\frac{a}{b}\Big) + \bigl\{\frac{c}{d}\bigr\}$$", r"$$\Big( x \\ y \Big)$$ $$\big|u\big|$$")
    assert "(frac(a, b)) + {frac(c, d)}" in made.printed["typst"]
    assert all(words in made.paper.replace(" ", "") for words in ("(𝑥𝑦)", "|𝑢|"))


def test_bars_are_as_high_as_what_they_bound():
    made = text(r"$$\left|\frac{a}{b}\right| + \left\|\frac{c}{d}\right\|$$")
    assert all(
        f"lr({bar}frac({what}){bar})" in made.printed["typst"].replace(" ", "")
        for bar, what in (("|", "a,b"), ("‖", "c,d"))
    )
    made = text(r"$$\left. F(x) \right|_a^b = \left.\frac{df}{dx}\right\rvert_{x=0} + \left.\left(u\right)\right|_0$$")
    typst = made.printed["typst"].replace(" ", "")
    assert r"lr(F\(x\)|)_a^b=lr(frac(df,dx)|)_(x=0)+(u)" in typst and "binom" not in typst
    assert made.html.count("<math") == 1 and "𝐹(𝑥)|" in made.paper.replace(" ", "")


@pytest.mark.parametrize(
    ("formula", "above"),
    [
        (r"\frac{a}{\frac{b}{c}}", "𝑎"),
        (r"\dfrac{\tfrac{a}{b}}{c}", "𝑎𝑏"),
        (r"\frac{\frac{a}{b}}{\frac{c}{d}}", "𝑎𝑏"),
        (r"\frac ab^c", "𝑎𝑐"),
        (r"{a \over {b \over c}}", "𝑎"),
        (r"{{a \over b} \over c + d}", "𝑎𝑏"),
        (r"{\frac{a}{b} \choose c}", "𝑎𝑏"),
        (r"\left( \sqrt{{a \atop b}} \right)", "𝑎"),
    ],
)
def test_what_is_above_the_bar_of_a_fraction_stays_there(formula, above):
    made = text(f"$$x = {formula}$$")
    places, letters = made.places(), set("𝑎𝑏𝑐𝑑") & set(made.paper)
    assert {letter for letter in letters if places[letter][1] > places["𝑥"][1] + 1} == set(above) < letters
    assert made.html.count("<math") == 1 and "<code>" not in made.html


@pytest.mark.parametrize(
    "formula", ["{x^2}^3", "a + {x_2}^{3}", r"\frac{{x^2}^3}{y}", r"\left( {x^2} ^3 \right)", r"{{x^2}^3}"]
)
def test_an_exponent_of_what_has_one_is_no_exponent_of_that(formula):
    made = text(f"$${formula}$$")
    places = made.places()
    assert places["3"][0] > places["2"][0] and "x^2^3" not in made.printed["typst"]
    assert re.search(r"lr\(x[_^]2\)\^3", made.printed["typst"].replace(" ", ""))
    assert made.html.count("<math") == 1 and "<code>" not in made.html


@pytest.mark.parametrize(
    "formula", ["x_{i^2}^3", r"\frac{a}{b^2}", r"\mathbf{x_i}^2", "x^{y^{z^2}}", r"\sqrt[3]{x^2}^4"]
)
def test_an_index_or_an_argument_stays_what_it_is(formula):
    assert "lr" not in text(f"$${formula}$$").printed["typst"]


def test_a_macro_holds_in_the_formulas_after_it():
    first = r"$\newcommand{\E}{\mathbb{E}}\newcommand{\KL}[2]{D(#1|#2)}\def\R{\mathbb{R}}$ "
    first += r"$\DeclareMathOperator*{\amin}{arg\,min}$"
    made = text(
        first,
        r"# About $\E$",
        r"$\E[x] \R$, $\KL{p}{q}$, $\amin_x$",
        r"$\renewcommand{\E}{e}\E$ $\E$",
        "$\\mathbbm{1}[x>0]$",
    )
    assert "<code>" not in made.html and "\\" not in made.text
    assert all(words in made.paper for words in ("𝔼[𝑥]ℝ", "𝐷(𝑝|𝑞)", "arg", "𝑒 𝑒", "𝟙[𝑥 > 0]"))


@pytest.mark.parametrize(
    ("formula", "seen"),
    [
        (r"$L_{\rm KD}$", "𝐿KD"),
        (r"${\cal L}$", "ℒ"),
        (r"${\bf x}_1$", "𝐱1"),
        (r"$\large x$", "𝑥"),
        (r"$\require{cancel} x$", "𝑥"),
        (r"$x\vphantom{y}$", "𝑥"),
        (r"$x \hbox{ if } y$", "𝑥 if 𝑦"),
        (r"$$x \\ y$$", "𝑥 𝑦"),
        (r"$$x &= 1 \\ y &= 2$$", "𝑥 = 1 𝑦 = 2"),
    ],
)
def test_what_people_write_is_set(formula, seen):
    made = text(f"Here {formula}")
    assert made.html.count("<math") == 1 and "<code>" not in made.html
    assert re.sub(r"[\s\ufe00]", "", made.paper) == re.sub(r"\s", "", f"Here {seen} 1/1")


def test_formulas_stay_whole_in_tables_headings_and_alternative_texts():
    made = text(
        "## On $a_1 * b_1$\n\n| a |\n|---|\n| $|x|_1$ |\n\n![of $y_1*y_2*$](data:image/png;base64," + picture() + ")"
    )
    assert made.html.count("<math") == 2 and made.page.all("img")[0]["alt"] == "of $y_1*y_2*$" and "𝑥" in made.paper


@pytest.mark.parametrize("before", ["", "> ", "1. text\n\n   "])
def test_rows_of_a_table_are_filled_up_and_cut_to_its_head(before):
    rows = ["| a | b |", "|:--|--:|", "| 1 |", "| 2 | 3 | four |", "| $|x|$ | `c` |"]
    made = text(before + ("\n" + ("   " if before[:1] == "1" else before)).join(rows) + "\n\nAfter | it.")
    assert len(made.page.all("tr")) == 4 and len(made.page.all("th") + made.page.all("td")) == 8
    assert "four" not in made.text + made.paper and "After | it." in made.text and "After | it." in made.paper
    assert made.html.count("<math") == 1 and made.text.count("|") == 3, "of the formula and of the last line"


def test_what_follows_a_table_is_no_row_of_it():
    made = text("| a | b |\n|---|---|\n| 1 |\n- item | x | y\n\n| c |\n|---|\n| 2 |\n# Next | z")
    assert len(made.page.all("tr")) == 4 and len(made.page.all("li")) == 1 and len(made.page.all("h1")) == 1


def test_bars_in_a_text_make_no_table():
    assert "a | b c | d e | f | g ||h| i" in text("a | b\nc | d\ne | f | g\n||h| i").text


def test_pictures_of_a_paragraph_stand_side_by_side():
    image = f"![p](data:image/png;base64,{picture(size=(400, 300))})"
    assert text(f"{image} {image}").printed["typst"].count("beside: true") == 2
    assert text(f"One: {image}\n\n{image}").printed["typst"].count("beside: false") == 2


def test_a_number_stays_with_its_spread_and_its_unit():
    assert (
        "reaches 81.2\u00a0±\u00a00.4\u00a0% of 5 and 60\u00a0% ± x"
        in text("It reaches 81.2 ± 0.4 % of 5 and 60 % ± x.").html
    )


def test_dollars_in_code_are_dollars():
    made = text("Use `$HOME` or `$PATH`.\n\n```\n$a$ and $b$\n```\n\n~~~\n$$c$$\n~~~\n\n    $d$ $e$")
    assert "<math" not in made.html
    assert all(
        words in made.text and words in made.paper for words in ("$HOME", "$PATH", "$a$ and $b$", "$$c$$", "$d$ $e$")
    )


# Text


def test_backslashes_are_characters():
    made = text(r"The data lie in C:\Users\student\data; see \eqref{eq:kd}.")
    assert (
        made.text == made.paper.removesuffix(" 1 / 1") == r"The data lie in C:\Users\student\data; see \eqref{eq:kd}."
    )


def test_quotes_are_typographic_but_in_code():
    made = text("""He said "so", 'no' and *"yes"*'s (`"a"`).""")
    assert made.text == """He said “so”, ‘no’ and “yes”’s ("a").""" and "“so”" in made.paper


def test_a_minus_is_one_where_a_number_follows_and_no_digit_comes_before():
    made = text("A gain of -8.55 [-1.61, +1.98], (-8 %), WRN-16-7, 3-5, 1e-06, `-1`.")
    said = "A gain of −8.55 [−1.61, +1.98], (−8 %), WRN-16-7, 3-5, 1e-06, -1."
    assert made.text.replace("\xa0", " ") == said
    assert all(part in made.paper.replace("\xa0", " ") for part in ("−8.55 [−1.61, +1.98]", "(−8 %)", "WRN-16-7, 3-5"))


@pytest.mark.parametrize(
    "heading", ["My Results", "The teacher's table", "Größe (in %)", 'A "quoted" *title*', "On $T^2$"]
)
def test_a_link_leads_to_the_anchor_that_jupyter_makes(heading):
    anchor = re.sub("[*]", "", heading).replace(" ", "-")
    made = text(f"[go](<#{anchor}>) [gone](#nowhere)", f"## {heading}", "Here.")
    assert [link["href"] for link in made.page.all("a")] == ["#" + made.page.all("h2")[0]["id"]]
    assert made.page.all("h2")[0]["id"] == anchor
    assert (
        len(
            [
                note
                for note in made.reader.pages[0]["/Annots"]
                if "/Dest" in note.get_object() or "/A" in note.get_object()
            ]
        )
        == 1
    )


def test_two_headings_of_one_name_have_two_anchors():
    made = text("# A", "# A", "[a](#A)")
    assert len({heading["id"] for heading in made.page.all("h1")}) == 2


def test_what_may_scroll_is_reached_by_the_keyboard():
    made = Made(new_markdown_cell("$$x = 1$$\n\n    code"), new_code_cell("show()", outputs=[printed("out")]))
    scrolls = [*made.page.all("pre"), *made.page.all("math")]
    assert len(scrolls) == 4 and all(element["tabindex"] == "0" for element in scrolls)


def test_scripts_without_a_font_are_one_warning_that_names_them():
    made = text("Знание, γνώση, \u16a0\U0001e900\U0001e901")  # runes perhaps, Adlam hardly
    assert "Знание, γνώση" in made.paper and made.pdf.startswith(b"%PDF")
    assert len(made.printed["warnings"]) == 1 and re.search("RUNIC|ADLAM", made.printed["warnings"][0])
    (warning,) = text("Done \U000f0000").printed["warnings"]  # for private use
    assert warning.startswith("no installed font has all characters of symbols and emoji, such as ")


def test_what_other_tools_leave_in_a_text_does_no_harm():
    made = text("a\x00b\x1b[0m \ue0005\ue001 \ud800 # <br> @x <label> `un", "```\nunclosed", "after")
    assert "after" in made.text and "after" in made.paper


@pytest.mark.parametrize(
    "info", ["", "python", "c++", "c#", 'c++ title="x"', "{python}", "python:train.py", "pseudocode"]
)
def test_code_is_shown_without_its_language(info):
    made = text(f"```{info}\nx = 1\n```")
    assert made.text == "x = 1" and made.paper == "x = 1 1 / 1"


# HTML


ATTACKS = [
    "<img src='{png}' onload='x()'>",
    "[a](javascript:x())",
    "<a href=' JaVa&#x09;Script:x()'>a</a>",
    "<svg onload=x()></svg>",
]
ATTACKS += [
    "<SCRIPT>x()</SCRIPT>",
    "<iframe src=x></iframe>",
    "<object data=x></object>",
    "<a href='data:text/html,x()'>a</a>",
]
ATTACKS += [
    "<math><mtext><img src=x onerror=x()></mtext></math>",
    "<style>@import 'x()'</style>",
    "<link href=x()>",
    "<base href=x()>",
]
ATTACKS += [
    "<p style='background: url(x())'>a</p>",
    "<form action='x()'><button formaction='x()'>a</button></form>",
    "[a](vbscript:x())",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_runs(attack):
    html = attack.format(png=f"data:image/png;base64,{picture()}")
    made = text(f"Before {html} behind", html, "after")
    assert all(word in seen for word in ("behind", "after") for seen in (made.text, made.paper))
    assert "x()" not in made.html
    assert {tag for tag, _ in made.page.elements} <= set("main p a img em details summary div pre span code".split())
    names = [name for _, attributes in made.page.elements for name in attributes]
    assert not [name for name in names if name.startswith("on") or name == "action"]


@pytest.mark.parametrize("name", ["path", "int", "set", "image", "float", "your-name", "custom-element x='y'"])
def test_an_unknown_tag_costs_nothing_but_itself(name):
    html = f"Data lie in <{name}>/images, **and** models elsewhere."
    for made in (text(html, "last"), shown(display({"text/html": f"<p>{html}"}), display({"text/html": "last"}))):
        for seen in (made.text, made.paper):
            assert all(words in seen for words in ("Data lie in", "images", "and", "models elsewhere.", "last"))


def test_what_is_elsewhere_becomes_a_link():
    made = text("![far](https://example.com/far.png) <img src=//example.com/near.png>")
    assert [link["href"] for link in made.page.all("a")] == ["https://example.com/far.png", "//example.com/near.png"]
    assert made.page.all("img") == [] and "far" in made.paper and made.pictures() == []


# Tables


def test_a_table_may_follow_its_text():
    made = text("Results:\n| network | % |\n|---|---|\n| small | 62 |")
    assert len(made.page.all("table")) == 1 and len(made.page.all("td")) == 2
    assert "|" not in made.text + made.paper and "Results: network % small 62" in made.paper


@pytest.mark.parametrize("place", ["1. ", "- ", "> "])
def test_a_table_may_stand_in_a_list_or_a_quote(place):
    lines = ("Results:", "", "| network | % |", "|---|---|", "| small | 62 |")
    made = text("\n".join((place if line == 0 or ">" in place else "   ") + words for line, words in enumerate(lines)))
    assert len(made.page.all("td")) == 2 and "|" not in made.text + made.paper and "small 62" in made.paper


def test_tables_of_all_sorts_keep_their_cells():
    html = "<table><tr><th colspan=2>wide</th></tr><tr><td>a|b</td>"
    html += "<td><p>c</p><table><tr><td>inner</td></tr></table></td></tr></table>"
    frame = '<table class="dataframe"><tr><th></th><th>n</th></tr><tr><th>r</th><td>-1.5</td></tr></table>'
    made = shown(display({"text/html": html}), display({"text/html": frame}))
    for word in ("wide", "a|b", "c", "inner", "1.5"):
        assert word in made.text and word in made.paper
    assert {"colspan": "2"} in made.page.all("th") and made.page.all("td")[-1]["style"] == "text-align:right"


def test_a_table_has_the_columns_of_its_cells_whatever_col_says():
    html = "<table><colgroup><col width='30%'></colgroup><tr><th>first</th><th>second</th></tr>"
    made = text(html + "<tr><td rowspan=2>third</td><td>fourth</td></tr><tr><td>fifth</td></tr></table>")
    assert made.paper == "first second third fourth fifth 1 / 1"


def test_a_table_keeps_the_caption_of_its_own():
    html = "<table>\n <caption class='c'>Of <b>seeds</b></caption><tr><td>cell</td></tr></table>"
    made = shown(display({"text/html": html + "<table><tr><td>other</td></tr></table>"}))
    assert made.paper == "Of seeds cell other 1 / 1" and "Of seeds" in made.text


def test_the_name_of_many_rows_stands_at_the_first():
    made = shown(display({"text/html": "<table><tr><th rowspan=2>KD</th><td>1</td></tr><tr><td>2</td></tr></table>"}))
    assert re.findall(r"([^{}]*)\{[^{}]*vertical-align: bottom", made.html) == [" thead th "]


def test_a_wide_table_stays_on_the_page():
    names = [f"Temperature {i}" for i in range(12)]
    made = shown(table("wide", [["Method", *names], ["KD", *["91.02 ± 0.30"] * 11, "77.77"]]))
    cells, page = [], made.reader.pages[0]
    page.extract_text(
        visitor_text=lambda text, cm, tm, font, size: cells.append(cm[4] + tm[4]) if "91.02" in text else None
    )
    assert (
        len(cells) == 11
        and cells == sorted(cells)
        and cells[-1] < page.mediabox.width - 60
        and np.diff(cells).min() > 20
    )


@pytest.mark.parametrize("lines", range(40, 52))
def test_a_table_stays_with_its_caption(lines):
    made = Made(
        new_markdown_cell("\n\n".join(["line"] * lines)),
        new_code_cell(outputs=[table("small", [["a", "b"], ["1", "cell"]])]),
    )
    assert [("The small." in page) for page in made.pages] == [("cell" in page) for page in made.pages]


def test_long_tables_break_over_pages():
    made = shown(table("long", [["a", "b"], *([str(row), "x"] for row in range(200))]))
    first, *_, last = made.pages
    assert len(made.pages) > 2 and "199" in last and "The long." in first and "9x" in first.replace(" ", "")


# Pictures


@pytest.mark.parametrize("name", ["my shot.png", "100%.png", "Größe (1).png", "a+b&c.png"])
def test_an_attachment_of_any_name_is_shown(name):
    for address in (
        f"attachment:{name.replace('%', '%25').replace(' ', '%20')}",
        f"<attachment:{name.replace('%', '%25')}>",
    ):
        if "(" in name and "<" not in address:
            continue
        made = Made(new_markdown_cell(f"![shot]({address})", attachments={name: {"image/png": picture()}}))
        assert made.page.all("img")[0]["src"] == f"data:image/png;base64,{picture()}" and made.pictures()[0].size == (
            60,
            40,
        )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_the_bytes_of_a_picture_tell_its_format(kind):
    labels = ["image/png", "image/jpeg", "image/gif", "image/svg+xml", "image/x-unknown"]
    widths = {60 + number: label for number, label in enumerate(labels)}  # one picture twice would be stored once
    made = shown(
        *(display({label: picture(kind, (width, 40)), "text/plain": label}) for width, label in widths.items())
    )
    images, drawn = made.page.all("img"), made.pictures()
    assert [image["alt"] for image in images] == labels
    assert all(image["src"].startswith(f"data:image/{kind.lower()};base64,") for image in images)
    assert sorted(image.size for image in drawn) == [(width, 40) for width in widths]
    for image in drawn:
        assert np.abs(np.array(image.convert("RGB"))[20, 30] - np.array([0, 128, 128])).max() < 4


def test_a_film_is_a_film_on_the_page_and_its_first_frame_on_paper():
    file, frames = io.BytesIO(), [Image.new("RGB", (12, 8), colour) for colour in ("green", "red")]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    made = shown(display({"image/gif": base64.b64encode(file.getvalue()).decode(), "text/plain": "film"}))
    source = made.page.all("img")[0]["src"]
    assert Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).n_frames == 2
    assert np.array(made.pictures()[0].convert("RGB"))[0, 0].tolist() == [0, 128, 0]


@pytest.mark.parametrize("data", ["AAAA", "no base64!", picture()[:60], "<svg", ""])
def test_what_is_no_picture_is_its_text(data):
    made = shown(display({"image/png": data, "text/plain": "a broken picture"}))
    assert "a broken picture" in made.text and "a broken picture" in made.paper and not made.page.all("img")


@pytest.mark.parametrize("metadata", [{"image/png": {"width": 300}}, {"width": 300}])
def test_a_picture_keeps_its_width(metadata):
    made = shown(display({"image/png": picture(size=(900, 600)), "text/plain": ""}, **metadata))
    assert made.page.all("img")[0]["width"] == "300"
    widths = []
    made.reader.pages[0].extract_text(
        visitor_operand_before=lambda op, _, cm, __: widths.append(cm[0]) if op == b"Do" else None
    )
    assert widths == [pytest.approx(225, abs=0.5)]  # points: 300 pixels of 1/96 inch


def test_local_pictures_travel_along_but_none_from_outside_the_folder(tmp_path):
    (tmp_path / "inside").mkdir()
    for place in (".", "inside"):
        (tmp_path / place / "a b.png").write_bytes(base64.b64decode(picture()))
    (tmp_path / "inside" / "link.png").symlink_to(tmp_path / "a b.png")
    (tmp_path / "inside" / "letter.txt").write_text("secret")
    made = text("![in](a%20b.png) <img src='a b.png'>", folder=tmp_path / "inside")
    assert len(made.page.all("img")) == 2 and made.pictures()
    addresses = [
        "../a%20b.png",
        str(tmp_path / "a b.png"),
        f"file://{tmp_path}/inside/a%20b.png",
        "link.png",
        "letter.txt",
        "inside",
        "",
    ]
    made = text(*(f"![alt {address}](<{address}>)" for address in addresses), folder=tmp_path / "inside")
    assert not made.page.all("img") and not made.pictures() and "c2VjcmV0" not in made.html


# Outputs


@pytest.mark.parametrize("written, seen", [
    ("1/2\b\b\b2/2\n\x1b]8;;http://example.org\x1b\\link\x1b]8;;\x1b\\\n", "2/2 link"),
    ("\x1b]0;title\x07\x1b[1;31mred\x1b[0m\x1b[2K\x1b(B", "red"),
    (" 10%\r 55%\r\x1b[32m100%\x1b[0m\nlast", "100% last"),
    ("a\x00\x01\x7fb", "ab"),
])  # fmt: skip
def test_terminal_text_is_what_was_seen_in_the_end(written, seen):
    made = shown(printed(written))
    assert made.text.endswith(seen) and made.paper == f"{seen} 1 / 1"


def test_a_long_line_stays_on_the_page():
    made = Made(new_code_cell(outputs=[printed("x" * 300)]), new_markdown_cell("y" * 300))
    assert "x" * 300 in made.paper.replace(" ", "") and "y" * 300 in made.paper.replace(" ", "")
    ends = []
    made.reader.pages[0].extract_text(
        visitor_text=lambda text, cm, tm, font, size: ends.append(tm[4] + len(text.strip()) * 4.0)
    )
    assert max(ends) < made.reader.pages[0].mediabox.width - 60
    assert "pre.output, pre.error { white-space: pre-wrap; overflow-wrap: anywhere; }" in made.html


def test_an_output_without_a_printable_form_is_named():
    made = shown(display({"application/vnd.plotly.v1+json": {"data": [], "layout": {}}}))
    sentence = "An output of cell 1 (application/vnd.plotly.v1+json) has no printable form."
    assert sentence in made.text and sentence in made.paper


def test_what_is_blank_is_nothing():
    made = shown(
        display({"text/html": "<pre style='white-space:pre'></pre>\n", "text/plain": ""})
    )  # a rich progress bar
    assert "printable" not in made.text and made.paper == "1 / 1"


def test_the_richest_form_that_paper_can_hold_is_shown():
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "widget 0%"}
    chart = {"text/html": "<script src='x'></script>", "text/plain": "Chart!"}
    formula = {"text/latex": r"$\displaystyle \int x$", "text/plain": "Integral"}
    made = shown(*map(display, (widget, chart, formula, {"text/html": "<b>bold</b>", "text/plain": "plain"})))
    assert "Chart!" in made.paper and "∫" in made.paper and "bold" in made.paper and made.html.count("<math") == 1
    assert not re.search("widget|Integral|plain", made.paper + made.text)


def test_a_table_in_latex_and_html_is_a_table():
    latex, html = r"\begin{tabular}{l} x \end{tabular}", "<table><tr><td>R-squared</td></tr></table>"
    made = shown(display({"text/latex": latex, "text/html": html, "text/plain": "Summary"}))
    assert len(made.page.all("td")) == 1 and made.paper == "R-squared 1 / 1" and "tabular" not in made.text


def test_a_frame_of_colab_is_a_table_without_its_buttons():
    html = '<table class="dataframe"><tr><td>0.5</td></tr></table><a onclick=x()><svg/></a><script>x()</script>'
    made = shown(display({"text/html": html, "text/plain": "   acc\n0  0.5"}))
    assert len(made.page.all("td")) == 1 and made.paper == "0.5 1 / 1" and "x()" not in made.html


def test_an_error_is_shown_without_its_colours():
    lines = ["\x1b[0;31mKeyError\x1b[0m  Traceback", "\x1b[1;32m----> 1\x1b[0m d['x']"]
    made = shown(new_output("error", ename="KeyError", evalue="'x'\nmore", traceback=lines))
    assert "KeyError Traceback ----> 1 d['x']" in made.text and "KeyError Traceback ----> 1 d['x']" in made.paper
    assert made.resources["chapter"].error == "KeyError: 'x'"


def test_pages_fold_code_and_papers_leave_it_out():
    tagged = [
        new_code_cell(f"{tag.replace('-', '_')}()", metadata={"tags": [tag]})
        for tag in ("parameters", "show-input", "hide-input", "remove-cell")
    ]
    made = Made(
        *tagged, new_code_cell("plain()", outputs=[new_output("stream", name="stderr", text="10%"), printed("said")])
    )
    assert [(fold["class"], "open" in fold) for fold in made.page.all("details")] == [
        ("code", False),
        ("code", True),
        ("code", False),
    ]
    assert "Parameters" in made.text and made.paper == "show_input() said 1 / 1"
    assert not re.search("hide_input|remove_cell|10%", made.text)


def test_a_raw_cell_is_text_unless_it_is_for_another_format():
    raw = (new_raw_cell("# not **run**"), new_raw_cell(r"\newpage", metadata={"raw_mimetype": "text/latex"}))
    made = Made(*raw, new_raw_cell(" "))
    assert made.text == "# not **run**" and made.paper == "# not **run** 1 / 1"


def test_figures_and_tables_are_numbered_and_described():
    figure = display(
        {"image/png": picture(), "text/plain": "What it shows"},
        kdutils={"kind": "figure", "name": "f", "caption": "At $T=4$."},
    )
    made = shown(
        figure,
        display({"text/markdown": "*twice*"}, kdutils={"kind": "caption"}),
        table("t", [["a", "b"], ["1", "2"]]),
        figure,
    )
    for words in ("Figure 1. At", "Table 1. The t.", "Figure 2. At"):
        assert words in made.text and words in made.paper
    assert "twice" not in made.text + made.paper and made.page.all("img")[0]["alt"] == "What it shows"
    assert b"What it shows" in b"".join(
        str(value).encode() for value in map(made.reader.get_object, range(1, len(made.reader.xref[0]))) if value
    )


# Who calls them


NOTEBOOK = new_notebook(cells=[new_markdown_cell("# A title\n\nText.")])


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """What an installation adds to a Python path: the entry points that pyproject.toml names."""
    import tomllib

    root = Path(kdutils.__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    folder = tmp_path_factory.mktemp("site")
    about = folder / "kdutils-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: kdutils\nVersion: 0\n")
    lines = (f"{name} = {target}" for name, target in project["entry-points"]["nbconvert.exporters"].items())
    (about / "entry_points.txt").write_text("[nbconvert.exporters]\n" + "\n".join(lines))
    return f"{folder}:{root}"


def test_nbconvert_finds_them(tmp_path, installed, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", installed)
    nbformat.write(NOTEBOOK, tmp_path / "a b.ipynb")
    code = """
from nbconvert.nbconvertapp import NbConvertApp, main
for name in ("kd_html", "kd_pdf"):  # two commands in one process, which imports for seconds
    main(["--to", name, "a b.ipynb"])
    NbConvertApp.clear_instance()
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    for suffix, start in (("html", b"<!DOCTYPE html>"), ("pdf", b"%PDF")):
        assert (tmp_path / f"a b.{suffix}").read_bytes().startswith(start)


def test_jupyters_menu_finds_and_constructs_them(installed):
    sys.path[:0] = installed.split(":")
    try:
        from nbconvert.exporters.base import get_export_names, get_exporter

        assert {"kd_html", "kd_pdf"} <= set(get_export_names())
        for name, kind in (("kd_html", "text/html"), ("kd_pdf", "application/pdf")):
            assert re.fullmatch(r"\w+", name) and get_exporter(name)().output_mimetype == kind
    finally:
        del sys.path[: len(installed.split(":"))]


CASES = {
    "minor_4_with_ids": {
        "nbformat": 4,
        "nbformat_minor": 4,
        "metadata": {},
        "cells": [{"id": "m-0", "cell_type": "markdown", "source": "# Opened", "metadata": {}}],
    }
}
CASES["nothing"] = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}
CASES["version_3"] = {
    "nbformat": 3,
    "nbformat_minor": 0,
    "metadata": {},
    "worksheets": [{"metadata": {}, "cells": [{"cell_type": "markdown", "source": ["# Old"], "metadata": {}}]}],
}


CASES["one_id_twice"] = CASES["nothing"] | {"cells": CASES["minor_4_with_ids"]["cells"] * 2}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("error")
def test_the_command_line_exports_what_jupyter_opens(tmp_path, capsys, name):
    (tmp_path / f"{name}.ipynb").write_text(json.dumps(CASES[name]))
    assert main(["export", str(tmp_path / f"{name}.ipynb")]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / f"{name}.{suffix}") for suffix in ("html", "pdf")]


def test_pandoc_and_typst_are_those_that_fit():
    import pypandoc
    import typst

    assert pypandoc.get_pandoc_version().startswith("3.9") and typst.__version__.startswith("0.14.9")
    assert exporters.TEMPLATES.is_dir()


def test_a_formula_that_typst_refuses_is_its_source_and_the_others_are_set():
    made = text(r"Set $x^2$, refused $\sqrt{}$, set $|y|$.")
    assert r"𝑥" in made.paper and r"$\sqrt{}$" in made.paper and "𝑦" in made.paper and "<math" in made.html


@pytest.mark.parametrize(
    "svg", ['<svg xmlns="http://www.w3.org/2000/svg" width="9" height="0"/>', "<b><svg/></b>", "<svg>&nbsp;</svg>"]
)
def test_a_drawing_that_typst_refuses_is_its_text(svg):
    assert "a drawing" in shown(display({"image/svg+xml": svg, "text/plain": "a drawing"})).paper


def test_solutions_are_folded_on_a_page_and_left_out_of_a_paper():
    solution = new_code_cell("answer()", metadata={"tags": ["solution"]}, outputs=[printed("forty-two")])
    made = Made(new_markdown_cell("The question."), solution)
    (fold,) = made.page.all("details")
    assert fold["class"] == "solution" and "open" not in fold
    assert "Solution answer () forty-two" in made.text.replace("answer()", "answer ()")
    assert made.paper == "The question. 1 / 1"


# What must arrive as it was


def test_code_keeps_its_spaces_and_prose_its_units():
    made = text("`x = 10 % 3` of 10 %\n\n```\ny = 10 % 3\n```")
    assert "x = 10 % 3" in made.text and "y = 10 % 3" in made.text and "10\u00a0%" in made.html


def test_quotes_of_latex_hide_no_formula():
    made = text("He says ``hello'' to all.\n\nThe loss $L_{a}*b_{c}*$ is.\n\nAnd ``bye'' too.")
    assert made.html.count("<math") == 1 and "<em>" not in made.html


def test_json_is_printed_and_a_drawing_in_html_is_a_picture():
    svg = '<svg width="40" height="20"><rect width="40" height="20" onclick="x()"/></svg>'
    made = shown(display({"application/json": {"a": [1, 2]}, "text/plain": "<IPython JSON object>"}))
    assert '"a": [' in made.text and "IPython" not in made.text + made.paper
    made = shown(display({"text/html": f"<p>Fig</p>{svg}", "text/plain": "<IPython HTML object>"}))
    (image,) = made.page.all("img")
    assert image["src"].startswith("data:image/svg+xml") and "Fig" in made.paper and "IPython" not in made.paper
    assert made.printed["typst"].count("#picture") == 1


def test_columns_of_tabs_stay_columns():
    made = shown(printed("epoch\tloss\n1\t0.5\n12345\t0.1\n"))
    assert "epoch   loss\n1       0.5\n12345   0.1" in made.html


def test_spaces_and_ampersands_of_formulas_are_set():
    made = text(r"$5\;\mathrm{km}$ and $a \& b$, $\text{R\&D}$")
    assert "thick" in made.printed["typst"] and "𝑎&𝑏" in re.sub(r"\s", "", made.paper) and "R&D" in made.paper


def test_a_heading_and_a_picture_keep_what_they_say_of_themselves():
    made = text(
        f"<h2 id='intro'>Introduction</h2>\n\n[go](#intro)\n\n<img width='30px' src='data:;base64,{picture()}'>"
    )
    assert 'id="intro"' in made.html and 'id="Introduction"' not in made.html, "of two ids a browser takes the first"
    assert made.page.all("img")[0]["width"] == "30"
