"""Makes the four small tables of recorded runs that are explored in JupyterLab (`kdutils.report.widgets`).

Nothing is run. If runs are missing, the tables of the last report or of `reports/reference/quick/` stand in.
"""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.special import softmax

from kdutils.data.datasets import load_dataset
from kdutils.report.page import Page
from kdutils.report.statistics import best_cell, confusion_counts, finished, standard_error, telling_images
from kdutils.runs.records import Record
from kdutils.runs.run import recorded_arms
from kdutils.settings import ROOT
from kdutils.studies import Assignment

_TABLES = ("images", "logits", "confusion", "grid")
_REFERENCE = "reference/quick"
_IMAGES = 12


@dataclass(frozen=True)
class Explored:
    """Four tables with these columns.

    images: `image` (its place in the test set), `class`, `png` (base64). logits, of a classifier's first run: `image`,
    `classifier`, `class`, `logit`. confusion, of all runs together and without zeros: `classifier`, `class`, `taken
    for`, `images`. grid: `teachers`, `temperature`, `kd_weight`, `accuracy` (% of validation images; NaN: diverged),
    `error` (standard error, points), `chosen`, and for all four tables `setting` and, on one's own data, `digest`.
    """

    images: pd.DataFrame
    logits: pd.DataFrame
    confusion: pd.DataFrame
    grid: pd.DataFrame

    @property
    def classifiers(self) -> list[str]:
        """The classifiers' names; the images were chosen for the first one."""
        return list(self.logits["classifier"].unique())

    @property
    def classes(self) -> list[str]:
        """All classes in their order."""
        return list(self.logits["class"].unique())

    def scores(self, image: int, classifier: str) -> np.ndarray:
        """The logits [classes] of an image."""
        return self.logits.query("image == @image and classifier == @classifier")["logit"].to_numpy()

    def taken(self, classifier: str, true: str, other: str) -> dict[str, int]:
        """How many images of class `true` were taken for it, for `other`, and for any other class."""
        rows = self.confusion.query("classifier == @classifier and `class` == @true")
        counts = rows.set_index("taken for")["images"]
        found = {name: int(counts.get(name, 0)) for name in (true, other)}
        return found | {"all others": int(counts.sum()) - sum(found.values())}

    def most_confused(self, classifier: str) -> tuple[str, str]:
        """The class with the largest share taken for one other, and that other; without errors, the first two."""
        rows = self.confusion.query("classifier == @classifier")
        rows = rows.assign(share=rows["images"] / rows.groupby("class")["images"].transform("sum"))
        wrong = rows.query("`class` != `taken for`")
        return tuple(wrong.loc[wrong["share"].idxmax(), ["class", "taken for"]] if len(wrong) else self.classes[:2])

    def cells(self, teachers: str) -> pd.DataFrame:
        """The cells of a grid, indexed by kd_weight and temperature."""
        return self.grid.query("teachers == @teachers").set_index(["kd_weight", "temperature"])


def explore(study: Assignment, page: Page) -> Explored | None:
    """The tables of study A: from its recorded runs, else its last report, else the reference; None if there are none.

    The page says which these are, or what to run, and its captions then end in their setting. The tables are kept among
    the report's, except those of the reference, which does not stand in for one's own data.
    """
    found, kept, data = _recorded(study), True, study.data
    chosen = f" --dataset {data.name}" * (data.name != "cifar10")
    missing = (
        "The runs of the setting above are not recorded here; "
        f"`python -m kdutils report --profile {study.profile}{chosen} --only 03,04` makes them."
    )
    if found:
        found["grid"]["setting"] = page.setting
        if data.digest:  # one's own images may be replaced under their name
            found["grid"]["digest"] = data.digest
        page.say("These are the recorded runs of the setting above.")
    for folder in (f"{study.profile}-{data.name}",) if data.digest else (study.profile, _REFERENCE):
        paths = {name: ROOT / "reports" / folder / "tables" / f"11_{name}.csv" for name in _TABLES}
        if not found and all(path.is_file() for path in paths.values()):
            tables = {name: _read(path) for name, path in paths.items()}
            if data.digest and data.digest not in set(tables["grid"].get("digest", ())):
                continue
            found, kept = tables, folder != _REFERENCE
            page.setting = found["grid"]["setting"][0]
            page.say(f"{missing} Shown are the tables of `reports/{folder}`: {page.setting}")
    if not found:
        page.say(f"{missing} Until then, there is nothing to explore.")
        return None
    for name, table in found.items() if kept else ():
        page.keep(table, name)
    return Explored(**found)


def _read(path: Path) -> pd.DataFrame:
    texts = dict.fromkeys(("class", "taken for", "classifier", "digest"), str)  # a class may be called 7, or None
    return pd.read_csv(path, dtype=texts, keep_default_na=False, na_values={"accuracy": [""], "error": [""]})


def _recorded(study: Assignment) -> dict[str, pd.DataFrame] | None:
    """The tables of the recorded runs, without settings; None unless a grid and an arm are completely recorded."""
    teachers = {"ResNet50": ("resnet50",), "ResNet18 and ResNet50": study.TEACHERS}
    grids = recorded_arms({name: study.grid(networks) for name, networks in teachers.items()})
    best = {name: best_cell(records) for name, records in grids.items()}
    arms = recorded_arms(study.arms(*(best.get(name, study.cells[0]) for name in teachers)))
    arms = {name: finished(records) for name, records in arms.items() if finished(records)}
    if not (grids and arms):
        return None
    dataset, cells, scores, taken = load_dataset(study.data.name), [], [], []
    for name, records in grids.items():
        for record in records:
            method = record.spec.distillation.method
            score = (np.nan, np.nan) if record.diverged else (record.metric("val"), standard_error([record]))
            cells.append((name, method.temperature, method.kd_weight, *score, method == best[name]))
    first = min(arms, key=lambda name: (len(arms[name][0].predictions[1]), name != "ResNet50"))  # fewest test images
    arms = {first: arms[first]} | arms
    images, labels = _images(arms[first][0]), arms[first][0].predictions[1]
    for name, records in arms.items():
        for image, logits in zip(images, records[0].predictions[0][images].round(4), strict=True):
            scores += [(image, name, *each) for each in zip(dataset.classes, logits, strict=True)]
        counts = confusion_counts(records)
        for true, given in np.argwhere(counts):
            taken.append((name, dataset.classes[true], dataset.classes[given], counts[true, given]))
    pictures = [(image, dataset.classes[labels[image]], _png(dataset.test_images[image])) for image in images]
    return {
        "images": pd.DataFrame(pictures, columns=["image", "class", "png"]),
        "logits": pd.DataFrame(scores, columns=["image", "classifier", "class", "logit"]),
        "confusion": pd.DataFrame(taken, columns=["classifier", "class", "taken for", "images"]),
        "grid": pd.DataFrame(cells, columns=["teachers", "temperature", "kd_weight", "accuracy", "error", "chosen"]),
    }


def _images(record: Record) -> list[int]:
    """Indices of `telling_images`, at most one of a class, and then of the errors that the run was surest of."""
    logits, labels = record.predictions
    sure = softmax(logits, axis=1).max(1) * (logits.argmax(1) != labels)
    surest = np.argsort(-sure, kind="stable")[: np.count_nonzero(sure)]
    return list(dict.fromkeys([*telling_images(record, _IMAGES - 2), *surest]))[:_IMAGES]


def _png(pixels: torch.Tensor) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
