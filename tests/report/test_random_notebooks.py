"""Whatever a notebook holds, both exporters make something of it. `make fuzz` tries more."""

import base64

from hypothesis import given, strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from kdutils.report.exporters import PageExporter, PrintExporter

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
PIECE = st.sampled_from(
    r"""\alpha \beta x y_1 z^2 \frac{a}{b} \sqrt{x} \sum_{i=1}^n \left( \right) \left\{ \right. \| | \, \! & \\ { } ^
    _ # % ~ " ' \text{if } \mathbb{E} \operatorname{KL} \newcommand{\q}[1]{#1} \q{z} \sign \begin{matrix}
    \end{matrix} // /* */ @ $ < > [ ] \hat{x} \overline{x} \begin{cases} \end{cases} \tag{1} \notag \color{red}
    \left\{\begin{aligned} \end{aligned}\right. \begin{array}{rcl} \end{array} \big\|
    \mathcal{L} = + - \to \infty é 中""".split()
)
TEX = st.lists(PIECE, min_size=1, max_size=8).map(" ".join)
FORMULA = st.builds(lambda tex, form: form.format(tex), TEX, st.sampled_from(["${}$", "$${}$$", "$ {} $", r"\\[{}\\]"]))
ENVIRONMENT = st.builds(
    lambda name, tex: rf"\begin{{{name}}} {tex} \end{{{name}}}",
    st.sampled_from("align gather* cases Bmatrix multline eqnarray itemize split array aligned vmatrix matrix".split()),
    TEX,
)
CELL = st.one_of(TEXT.map(lambda text: text.replace("\n", " ")), FORMULA)
TABLE = st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=3).map(
    lambda rows: "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], ("---", ":--:", "--:"), *rows[1:]])
)
TAGS = st.sampled_from(
    [
        "<b>",
        "</b>",
        "<div>",
        "</div>",
        "<table><tr><td>",
        "</table>",
        "<td rowspan=3 colspan=0>",
        "<img src=x width=9>",
        "<a href='#a'>",
    ]
    + [
        "<p id='é x'>",
        "<pre>",
        "<!--",
        "<script>",
        "<svg>",
        "<math>",
        "<li>",
        "<h1>",
        "<details>",
        "<a name=x>",
        "&lt;",
        "&#0;",
    ]
)
MARKS = st.sampled_from(
    ["# ", "## ", "- ", "1. ", "> ", "    ", "```\n", "\n\n", "***", "__", "`", "[a](#b)", "![a](b)", "![](data:,x)"]
)
MARKDOWN = st.lists(st.one_of(TEXT, FORMULA, ENVIRONMENT, TABLE, TAGS, MARKS), max_size=8).map("".join)
IMAGE = st.binary(max_size=60).map(lambda content: base64.b64encode(content).decode())
DATA = st.fixed_dictionaries(
    {},
    optional={
        "text/plain": TEXT,
        "text/html": st.lists(st.one_of(TEXT, TAGS), max_size=6).map("".join),
        "text/markdown": MARKDOWN,
        "text/latex": FORMULA,
        "image/png": IMAGE,
        "image/svg+xml": st.one_of(
            TEXT, TAGS, st.just('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="0"/>')
        ),
        "application/json": st.dictionaries(TEXT, TEXT, max_size=2),
    },
)
OURS = st.sampled_from(
    [{}, {"kind": "figure", "name": "a b", "caption": "$x$ *y"}, {"kind": "table", "name": "é", "caption": "|"}]
)
SIZES = st.sampled_from([{}, {"width": 0}, {"width": 90}, {"image/png": {"width": "50%"}}])
OUTPUT = st.one_of(
    st.builds(
        lambda name, text: new_output("stream", name=name, text=text), st.sampled_from(["stdout", "stderr"]), TEXT
    ),
    st.builds(
        lambda data, ours, sizes: new_output("display_data", data, metadata={"kdutils": ours} | sizes),
        DATA,
        OURS,
        SIZES,
    ),
    st.builds(
        lambda text, lines: new_output("error", ename="E", evalue=text, traceback=lines),
        TEXT,
        st.lists(TEXT, max_size=2),
    ),
)
CODE = st.builds(
    lambda source, outputs, tag: new_code_cell(source, outputs=outputs, metadata={"tags": [tag]}),
    TEXT,
    st.lists(OUTPUT, max_size=3),
    st.sampled_from(["other", "show-input", "hide-input", "parameters"]),
)
NOTEBOOK = st.lists(st.one_of(MARKDOWN.map(new_markdown_cell), CODE), max_size=4).map(
    lambda cells: new_notebook(cells=cells)
)


@given(NOTEBOOK)
def test_a_random_notebook_becomes_a_page_and_a_pdf(notebook):
    assert PageExporter().from_notebook_node(notebook)[0].startswith("<!DOCTYPE html>")
    assert PrintExporter().from_notebook_node(notebook)[0].startswith(b"%PDF")
