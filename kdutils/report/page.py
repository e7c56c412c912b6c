"""How a chapter shows its results: every figure, table and sentence goes through one `Page`."""

import io
import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from kdutils.settings import settings, write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_DPI = 160
_ILLUSTRATION = "An illustration: no image and no run of this study is in it."
_PICTURE = b"#set page(width: auto, height: auto, margin: 0pt)\n#image(bytes(sys.inputs.svg))"


class Page:
    """Shows figures and tables with captions that end in the `setting` (data, sizes, profile) they hold for, if any.

    In the suite, it also writes them to the report's folder as `figures/<chapter>_<name>.svg` and `.png` and
    `tables/<chapter>_<name>.csv`.
    """

    def __init__(self, setting: str):
        self.setting = setting
        self._said = {""}  # instead of tables without rows
        self._folder, self._chapter = settings().report_dir, settings().chapter.partition("_")[0]

    def figure(
        self, figure: "Figure", name: str, caption: str, is_illustration: bool = False, setting: str = ""
    ) -> None:
        """Show a figure with its caption, and close it; its `results` for `results.json` go into the output's metadata.

        An illustration shows no image and no run, and its caption says this instead of the setting. `setting`: for runs
        to which the page's own does not apply (`setting_of`).
        """
        import matplotlib.pyplot as plt  # the suite, which opens studies and draws nothing, need not wait for it

        files = rendered(figure)
        plt.close(figure)
        for kind, content in files.items():
            self._keep("figures", f"{name}.{kind}", content)
        data = {"image/svg+xml": files["svg"].decode(), "image/png": files["png"]}
        holds_for = _ILLUSTRATION if is_illustration else setting or self.setting
        self._show("figure", name, f"{caption} {holds_for}", data, getattr(figure, "results", None))

    def table(self, frame: pd.DataFrame, name: str, caption: str, setting: str = "") -> None:
        """Show a table with its caption; what it carries for `results.json` goes into the output's metadata.

        A table without rows is not shown; the sentence in its `attrs["instead"]` is shown once.
        """
        if frame.empty:
            if (reason := frame.attrs.get("instead", "")) not in self._said:
                self._said.add(reason)
                self.say(reason)
            return
        carried = frame.attrs.get("results")
        self.keep(frame, name)
        frame = frame.map(lambda value: f"{value:,}" if isinstance(value, (int, np.integer)) else value)
        alignment = ["left"] + ["right" if _is_number(frame[column]) else "left" for column in frame.columns[1:]]
        literal = frame.map(_literal).rename(columns=_literal)
        markdown = literal.to_markdown(index=False, colalign=alignment, disable_numparse=True)
        data = {"text/html": frame.to_html(index=False, border=0, justify="left"), "text/markdown": markdown}
        self._show("table", name, f"{caption} {setting or self.setting}", data, carried)

    def open_top(self) -> None:
        """Reserve places, at this point of the page, that `answer` and `time` will fill."""
        self._place("answer", "**Answer.** It is computed at the end of this chapter.")
        self._place("time", "")

    def answer(self, text: str) -> None:
        """Show the chapter's answer, markdown, under its question."""
        self._place("answer", f"**Answer.** {text[:1].upper()}{text[1:]}", update=True)

    def time(self, text: str) -> None:
        """Show how long the runs took, at the top of the page."""
        self._place("time", text, update=True)

    def keep(self, frame: pd.DataFrame, name: str) -> None:
        """Write a table into the report's folder without showing it."""
        self._keep("tables", f"{name}.csv", frame.to_csv(index=False).encode())

    def say(self, text: str) -> None:
        """Show a computed sentence as prose."""
        display(Markdown(text))

    def _place(self, kind: str, text: str, **more) -> None:
        _display({"text/markdown": text, "text/plain": text}, {"kind": kind}, display_id=kind, **more)

    def _show(self, kind: str, name: str, caption: str, data: dict, results: dict | None) -> None:
        about = {"kind": kind, "name": name, "caption": caption}
        if results:
            about["results"] = {"setting": self.setting} | results
        _display(data | {"text/plain": caption}, about)
        _display({"text/markdown": f"*{caption}*", "text/plain": caption}, {"kind": "caption"})

    def _keep(self, folder: str, name: str, content: bytes) -> None:
        if self._folder:
            write_atomic(self._folder / folder / f"{self._chapter}_{name}", content)


def _display(data: dict, about: dict, **more) -> None:
    display(data, metadata={"kdutils": about}, raw=True, **more)


def _literal(value: object) -> object:
    """A text as markdown that shows it as it is; anything else unchanged."""
    if not isinstance(value, str):
        return value
    return re.sub(r"([\\`*_{}\[\]<>|$~#&:]|(?<=\\)[()])", r"\\\1", " ".join(value.split()))


def _is_number(column: pd.Series) -> bool:
    texts = column.astype(str)
    return bool(texts.str.match(r"–$|[\[+−-]*[\d,.]+").all() and texts.ne("–").any())


def rendered(figure: "Figure") -> dict[str, bytes]:
    """A figure's files (bytes) by kind, svg and png; the same figure always gives the same files.

    It is laid out and drawn once, because that takes most of the time: Typst makes the PNG from the SVG.
    """
    import matplotlib.pyplot as plt
    import typst
    from PIL import Image

    if engine := figure.get_layout_engine():
        engine.execute(figure)
        with plt.rc_context({"figure.constrained_layout.use": False}):
            figure.set_layout_engine(None)  # "none" would draw the figure once more before it is saved
    box, drawn, small = figure.get_tightbbox().padded(0.1), io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="svg", dpi=_DPI, bbox_inches=box, metadata={"Date": None})
    source = {"svg": drawn.getvalue().decode()}  # its characters are paths: no fonts are needed
    picture = typst.compile(_PICTURE, format="png", ppi=_DPI, sys_inputs=source, ignore_system_fonts=True)
    Image.open(io.BytesIO(picture)).convert("RGB").save(small, "png")
    return {"svg": drawn.getvalue(), "png": small.getvalue()}
