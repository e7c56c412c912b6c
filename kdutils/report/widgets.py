"""Widgets for JupyterLab over an `Explored`: controls, and a little HTML that is made anew when one of them changes.

The HTML is returned by a function of the controls' values that looks numbers up. Printed pages get figures instead.
"""

from collections.abc import Callable, Iterable
from functools import partial
from html import escape

import matplotlib.pyplot as plt
import numpy as np
from ipywidgets import HTML, Dropdown, FloatSlider, SelectionSlider, VBox, Widget
from matplotlib.figure import Figure
from scipy.special import softmax

from kdutils.distillation.methods import KD
from kdutils.report.explore import Explored
from kdutils.report.plots import COLOURS, plot_grid

_SHOWN = 20  # how many classes of an image are shown, the likeliest


def temperature_widget(found: Explored) -> VBox:
    """softmax(z / T) of a chosen image by a chosen classifier, with a slider for T."""
    names = {f"{image}: {name}": image for image, name in found.images[["image", "class"]].itertuples(index=False)}
    image = Dropdown(options=names, description="image")
    classifier = Dropdown(options=found.classifiers, description="classifier")
    temperature = FloatSlider(4, min=0.5, max=16, step=0.5, description="temperature")
    return _linked(partial(softened, found), image, classifier, temperature)


def confusion_widget(found: Explored) -> VBox:
    """How often a chosen classifier takes either of two chosen classes for the other."""
    one, other = found.most_confused(found.classifiers[0])
    return _linked(
        partial(confused, found),
        Dropdown(options=found.classifiers, description="classifier"),
        Dropdown(options=found.classes, value=one, description="class"),
        Dropdown(options=found.classes, value=other, description="another"),
    )


def grid_widget(found: Explored) -> VBox:
    """Validation accuracy in a chosen cell of a grid, with sliders for kd_weight and temperature."""
    controls = [Dropdown(options=list(found.grid["teachers"].unique()), description="teachers")]
    for name in ("kd_weight", "temperature"):
        values = sorted(found.grid[name].unique())
        kind = SelectionSlider if len(values) > 1 else Dropdown  # a slider needs two stops
        controls.append(kind(options=values, description=name))
    return _linked(partial(celled, found), *controls)


def _linked(show: Callable[..., str], *controls: Widget) -> VBox:
    """The controls, and under them the HTML that `show` returns for their values."""
    shown = HTML()

    def update(_=None) -> None:
        shown.value = show(*(control.value for control in controls))

    for control in controls:
        control.style.description_width = "7em"
        control.observe(update, "value")
    update()
    return VBox([*controls, shown])


def softened(found: Explored, image: int, classifier: str, temperature: float) -> str:
    """HTML: an image, and its softened probabilities as bars."""
    logits, row = found.scores(image, classifier), found.images.set_index("image").loc[image]
    soft, likeliest = softmax(logits / temperature), np.argsort(-logits, kind="stable")[:_SHOWN]
    names = [f"{name} (label)" if name == row["class"] else name for name in found.classes]
    bars = _bars((names[place], soft[place], f"{100 * soft[place]:.1f} %") for place in sorted(likeliest))
    look = "width:96px;margin-right:1em;image-rendering:pixelated"
    picture = f'<img src="data:image/png;base64,{row["png"]}" alt="{escape(row["class"])}" style="{look}">'
    return f'<div style="display:flex;align-items:center">{picture}{bars}</div>'


def confused(found: Explored, classifier: str, one: str, other: str) -> str:
    """HTML: what the images of two classes were taken for, as bars."""
    parts = []
    for true, another in dict.fromkeys([(one, other), (other, one)]):
        counts = found.taken(classifier, true, another)
        whole = max(1, sum(counts.values()))
        rows = [(f"taken for {name}", count / whole, f"{100 * count / whole:.1f} %") for name, count in counts.items()]
        parts.append(f"<b>{escape(true)}</b> ({sum(counts.values()):,} images){_bars(rows)}")
    return "".join(parts)


def _bars(rows: Iterable[tuple[str, float, str]]) -> str:
    """Horizontal bars, a row for each label, share (0 to 1) and text."""
    lines = []
    for label, share, text in rows:
        bar = f'<div style="height:1em;background:{COLOURS[0]};width:{100 * share:.2f}%"></div>'
        named = f'<td style="width:11em;text-align:right">{escape(label)}</td>'
        lines.append(f'<tr>{named}<td style="width:20em">{bar}</td><td>{text}</td></tr>')
    return f'<table style="line-height:1.4">{"".join(lines)}</table>'


def celled(found: Explored, teachers: str, kd_weight: float, temperature: float) -> str:
    """HTML: a grid of validation accuracies with one cell framed, and a sentence on this cell."""
    cells, look = found.cells(teachers), "padding:0.4em 1em;text-align:right;border:3px solid "
    table = cells["accuracy"].unstack()
    head, lines = "".join(f"<th>T = {each:g}</th>" for each in table.columns), ""
    for weight, row in table.map("{:.2f}".format).replace("nan", "–").iterrows():
        lines += f"<tr><th>kd_weight {weight:g}</th>"
        for each, text in row.items():
            mark = COLOURS[1] if (weight, each) == (kd_weight, temperature) else "transparent"
            lines += f'<td style="{look}{mark}">{text}</td>'
        lines += "</tr>"
    if (kd_weight, temperature) not in cells.index:
        said = "No run is recorded in this cell."
    elif np.isnan(accuracy := cells["accuracy"][kd_weight, temperature]):
        said = "The run of this cell diverged."
    else:
        best = cells.loc[cells["chosen"], "accuracy"].iloc[0]
        error, below = cells["error"][kd_weight, temperature], best - accuracy
        said = f"{accuracy:.2f} % on the validation images, standard error {error:.2f} points; "
        said += f"{below:.2f} points below the chosen cell." if below else "this is the chosen cell, or as good."
    return f"<table><tr><th></th>{head}</tr>{lines}</table>{said}"


def plot_taken(found: Explored, one: str, other: str) -> Figure:
    """What every classifier took the images of two classes for (%); the left panel is of class `one`."""
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 0.3 * len(found.classifiers) + 1.5), sharey=True)
    looks = {one: (COLOURS[0], ""), other: (COLOURS[1], "///"), "all others": ("0.8", "")}
    for axis, (true, another) in zip(axes, ((one, other), (other, one)), strict=True):
        rows = [found.taken(name, true, another) for name in found.classifiers]
        left = np.zeros(len(rows))
        for name, (colour, hatch) in looks.items():
            share = np.array([100 * row[name] / max(1, sum(row.values())) for row in rows])
            look = {"color": colour, "hatch": hatch, "edgecolor": "white", "label": f"taken for {name}"}
            axis.barh(found.classifiers, share, left=left, **look)
            left += share
        axis.set(title=f"images of {true}", xlabel="share (%)", xlim=(0, 100))
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def plot_cells(found: Explored, teachers: str) -> Figure:
    """The grid of these teachers as a heat map (`kdutils.report.plots.plot_grid`)."""
    cells = found.cells(teachers)
    kd_weight, temperature = cells.index[cells["chosen"]][0]
    table = cells["accuracy"].unstack().astype(object)
    return plot_grid(table.where(table.notna(), "diverged"), KD(temperature=temperature, kd_weight=kd_weight))
