"""Exploring: what the widgets show equals what the runs recorded, wherever it is read from, and nothing is run."""

from __future__ import annotations

import base64
import io
import re
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from fake_records import CLASSES, store_run, write_explored
from nbformat.v4 import new_output
from papers import page_texts
from PIL import Image

import kdutils as kd
from kdutils.report import explore as explored, page as display, widgets
from kdutils.report.cells import WIDGET
from kdutils.report.page import Page
from kdutils.report.publish import export
from kdutils.runs import run as runs
from kdutils.runs.records import Store

NOTEBOOK = Path(kd.__file__).parents[1] / "notebooks" / "11_explore.ipynb"
SETTING = "Synthetic data: a few images; profile smoke."
CELLS = {("one", 0.5): 30.0, ("one", 0.9): 41.0, ("both", 0.5): 52.0, ("both", 0.9): 47.0}  # validation accuracy (%)


@pytest.fixture
def study():
    return kd.open_study("assignment", "smoke", "synthetic", init="random")


@pytest.fixture
def shown(monkeypatch):
    """What was displayed: pairs of data and metadata."""
    seen = []
    monkeypatch.setattr(display, "display", lambda data, metadata=None, **how: seen.append((data, metadata or {})))
    return seen


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The project's folder, with nothing in it."""
    monkeypatch.setattr(explored, "ROOT", tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a run was started")

    for name in ("train", "_run_missing", "fill", "connect"):
        monkeypatch.setattr(runs, name, refuse)


def record_all(study, leave_out=()):
    """Records of study A, as chapters 03 and 04 leave them: by arm."""
    random = np.random.RandomState(0)

    def keep(spec, val=50.0):
        found = Store().find(spec)
        return found or store_run(spec, random.normal(size=(100, 10)).astype(np.float32), val)

    for who, networks in (("one", ("resnet50",)), ("both", study.TEACHERS)):
        for spec in study.grid(networks):
            keep(spec, CELLS[who, spec.distillation.method.kd_weight])
    best = kd.build_method("kd", temperature=4.0, kd_weight=0.9), kd.build_method("kd", temperature=4.0, kd_weight=0.5)
    arms = study.arms(*best).items()
    return {name: [keep(spec) for spec in specs] for name, specs in arms if name not in leave_out}


def numbers(html):
    """The texts of an HTML table's cells, row by row."""
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [[unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall(r"<t[dh].*?</t[dh]>", row)] for row in rows]


# What is shown of recorded runs


def test_softened_probabilities_are_those_of_the_stored_logits(study, shown):
    arms, classes = record_all(study), kd.load_dataset("synthetic").classes
    found = kd.explore(study, Page(SETTING))
    assert found.classifiers[0] == "ResNet50" and set(found.classifiers) == set(arms) and len(found.images) == 12
    box = kd.temperature_widget(found)
    image, classifier, temperature, html = box.children
    image.value, classifier.value = int(found.images["image"][5]), "distilled from ResNet18"
    for temperature.value in (0.5, 7.5):
        z = arms["distilled from ResNet18"][0].predictions[0][image.value].astype(float)
        expected = np.exp(z / temperature.value) / np.exp(z / temperature.value).sum()
        rows = numbers(html.value)
        assert [row[0].removesuffix(" (label)") for row in rows] == list(classes)
        assert [float(row[2].removesuffix(" %")) for row in rows] == pytest.approx(100 * expected, abs=0.06)
        widths = re.findall(r"width:([\d.]+)%", html.value)
        assert [float(width) for width in widths] == pytest.approx(100 * expected, abs=0.01)


def test_an_image_is_shown_with_its_own_pixels_and_label(study, shown):
    record_all(study)
    images, found = kd.load_dataset("synthetic"), kd.explore(study, Page(SETTING))
    for place, name in found.images[["image", "class"]].itertuples(index=False):
        html = widgets.softened(found, place, "small CNN", 1.0)
        pixels = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])))
        assert (np.asarray(pixels) == images.test_images[place].numpy()).all()
        assert name == images.classes[images.test_labels[place]] and html.count(f"{name} (label)") == 1


def test_the_images_are_telling_ones_and_then_the_surest_errors(study, shown):
    record = record_all(study)["ResNet50"][0]
    found, (logits, labels) = kd.explore(study, Page(SETTING)), record.predictions
    telling, places = list(kd.telling_images(record, 12)), list(found.images["image"])
    assert places[: len(telling)] == telling and len(telling) < 12
    confidence = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).max(1)
    wrong = sorted(np.flatnonzero(logits.argmax(1) != labels), key=lambda place: -confidence[place])
    assert places[len(telling) :] == wrong[: 12 - len(telling)]


def test_what_classes_are_taken_for_is_counted_over_all_seeds(study, shown):
    arms, classes = record_all(study), kd.load_dataset("synthetic").classes
    found = kd.explore(study, Page(SETTING))
    classifier, one, other, html = kd.confusion_widget(found).children
    classifier.value, one.value, other.value = "small CNN", classes[3], classes[7]
    rows = numbers(html.value)
    for true, another, lines in ((3, 7, rows[:3]), (7, 3, rows[3:])):
        counts = {true: 0, another: 0, "rest": 0}
        for record in arms["small CNN"]:
            for z, label in zip(*record.predictions):
                if label == true:
                    counts[z.argmax() if z.argmax() in counts else "rest"] += 1
        names = [f"taken for {name}" for name in (classes[true], classes[another], "all others")]
        shares = [f"{100 * count / sum(counts.values()):.1f} %" for count in counts.values()]
        assert [[line[0], line[2]] for line in lines] == [list(pair) for pair in zip(names, shares)]
        assert f"<b>{classes[true]}</b> ({sum(counts.values())} images)" in html.value and len(arms["small CNN"]) == 2
    other.value = classes[3]
    assert [row[0] for row in numbers(html.value)] == [f"taken for {classes[3]}", "taken for all others"]


def test_the_pair_that_is_shown_first_is_the_most_frequent_error(study, shown):
    (record,), classes = record_all(study)["ResNet50"], kd.load_dataset("synthetic").classes
    found, (logits, labels) = kd.explore(study, Page(SETTING)), record.predictions
    shares = np.zeros((len(classes), len(classes)))
    for true, given in zip(labels, logits.argmax(1), strict=True):
        shares[true, given] += (true != given) / np.count_nonzero(labels == true)
    assert shares[tuple(map(classes.index, found.most_confused("ResNet50")))] == pytest.approx(shares.max())
    few = pd.DataFrame([("cat", "dog", 9), ("cat", "cat", 41), ("dog", "cat", 8), ("dog", "dog", 12)])
    few.columns = ["class", "taken for", "images"]
    found = replace(found, confusion=few.assign(classifier="x"))
    assert found.most_confused("x") == ("dog", "cat"), "8 of 20 dogs are more than 9 of 50 cats"


def test_a_cell_of_the_grid_is_its_run(study, shown):
    record_all(study)
    teachers, weight, temperature, html = kd.grid_widget(kd.explore(study, Page(SETTING))).children
    assert weight.options == (0.5, 0.9) and temperature.options == (4.0,)
    for who, name in (("one", "ResNet50"), ("both", "ResNet18 and ResNet50")):
        for weight.value in (0.5, 0.9):
            teachers.value = name
            assert numbers(html.value)[1:] == [[f"kd_weight {w}", f"{CELLS[who, w]:.2f}"] for w in (0.5, 0.9)]
            framed = re.findall(r"solid #\w+\">([\d.]+)<", html.value)
            share = CELLS[who, weight.value] / 100
            error = 100 * (share * (1 - share) / study.data.val_size) ** 0.5
            assert framed == [f"{100 * share:.2f}"] and f"standard error {error:.2f} points" in html.value
            below = max(value for (grid, _), value in CELLS.items() if grid == who) - 100 * share
            assert (f"{below:.2f} points below" in html.value) == (below > 0)


def test_a_cell_that_diverged_says_so(study, shown):
    for spec in study.grid(("resnet50",)):
        store_run(spec, np.zeros((100, 10)), None if spec.distillation.method.kd_weight == 0.5 else 41.0)
    record_all(study)
    found = kd.explore(study, Page(SETTING))
    assert "diverged" in widgets.celled(found, "ResNet50", 0.5, 4.0)
    assert numbers(widgets.celled(found, "ResNet50", 0.9, 4.0))[1:] == [
        ["kd_weight 0.5", "–"],
        ["kd_weight 0.9", "41.00"],
    ]
    assert "diverged" in [text.get_text() for text in kd.plot_cells(found, "ResNet50").axes[0].texts]


def test_what_is_not_recorded_as_a_whole_is_left_out(study, shown, root):
    arms = record_all(study, leave_out=("ResNet18",))
    shutil.rmtree(arms["small CNN"][1].path)
    shutil.rmtree(Store().find(study.grid(study.TEACHERS)[0]).path)
    found = kd.explore(study, Page(SETTING))
    assert not {"ResNet18", "small CNN"} & set(found.classifiers) and "ResNet50" in found.classifiers
    assert list(found.grid["teachers"].unique()) == ["ResNet50"]


# Where there are no runs


def test_own_runs_come_first_then_the_report_then_the_reference(study, shown, root, tmp_path, monkeypatch):
    monkeypatch.setenv("KD_REPORT_DIR", str(tmp_path / "made"))
    monkeypatch.setenv("KD_CHAPTER", "11_explore")
    own, reference = root / "reports" / "smoke" / "tables", root / "reports" / "reference" / "quick" / "tables"
    kept = tmp_path / "made" / "tables"

    def explore():
        page = Page(SETTING)
        found = kd.explore(study, page)
        return found, page.setting, shown[-1][0].data

    found, setting, said = explore()
    assert found is None and setting == SETTING and "nothing to explore" in said
    assert "`python -m kdutils report --profile smoke --dataset synthetic --only 03,04`" in said

    write_explored(reference)
    found, setting, said = explore()
    assert found.classes == list(CLASSES) and setting == "CIFAR-10: imagined numbers; profile paper."
    assert "reports/reference" in said and setting in said and "--only 03,04" in said
    assert not kept.exists()  # a copy of the reference would pass for this report's own

    shutil.copytree(reference, own)
    (own / "11_grid.csv").write_text((own / "11_grid.csv").read_text().replace("imagined", "older"))
    found, setting, said = explore()
    assert setting == "CIFAR-10: older numbers; profile paper." and "reports/smoke" in said
    assert {path.read_bytes() for path in kept.iterdir()} == {path.read_bytes() for path in own.iterdir()}

    record_all(study)
    found, setting, said = explore()
    assert len(found.classifiers) == 7 and setting == SETTING and "recorded runs" in said


def test_nothing_on_cifar_stands_in_for_ones_own_data(study, shown, root):
    ours = study.with_(data=study.data.with_(name="photos", classes=10, digest="0" * 16))
    for folder in ("smoke", "reference/quick"):
        write_explored(root / "reports" / folder / "tables")
    assert kd.explore(ours, Page(SETTING)) is None
    assert "`python -m kdutils report --profile smoke --dataset photos --only 03,04`" in shown[-1][0].data
    write_explored(root / "reports" / "smoke-photos" / "tables")
    assert kd.explore(ours, Page(SETTING)) is None  # of other images of this name
    grid = root / "reports" / "smoke-photos" / "tables" / "11_grid.csv"
    pd.read_csv(grid).assign(digest=ours.data.digest).to_csv(grid, index=False)
    assert kd.explore(ours, Page(SETTING)).classes == list(CLASSES)


def test_what_is_kept_reads_back_as_it_was(study, shown, root, monkeypatch):
    monkeypatch.setenv("KD_REPORT_DIR", str(root / "reports" / "smoke"))
    monkeypatch.setenv("KD_CHAPTER", "11_explore")
    arms = record_all(study)
    before = kd.explore(study, Page(SETTING))
    for records in arms.values():
        for record in records:
            shutil.rmtree(record.path, ignore_errors=True)
    after = kd.explore(study, Page(""))
    for name, table in vars(before).items():
        assert after.__dict__[name].round(6).astype(str).equals(table.round(6).astype(str))


def test_what_is_missing_is_noted_for_the_suite(study, shown, root, tmp_path, monkeypatch):
    """So that a chapter made without these runs is made again once there are any."""
    monkeypatch.setenv("KD_USED_RUNS", str(tmp_path / "used"))
    assert kd.explore(study, Page(SETTING)) is None
    assert {spec.key for spec in study.grid(("resnet50",))} <= set((tmp_path / "used").read_text().split())


def test_nothing_is_run_and_nothing_is_left_in_the_store(study, shown, root):
    record_all(study, leave_out=("ResNet50",))
    before = sorted(path.name for path in Store().folder.iterdir())
    kd.explore(study, Page(SETTING))
    assert sorted(path.name for path in Store().folder.iterdir()) == before


# The chapter


def executed(shown):
    """The notebook, its cells run here on the smoke profile, with what they displayed."""
    names = {"display": lambda box: shown.append(({"text/plain": repr(box), WIDGET: {"model_id": box.model_id}}, {}))}
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for number, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        del shown[:]
        exec(cell.source.replace('"quick"', '"smoke"').replace('"auto"', '"synthetic"', 1), names)
        for data, metadata in shown:
            data = data if isinstance(data, dict) else {"text/markdown": data.data, "text/plain": data.data}
            data = {
                kind: base64.b64encode(part).decode() if isinstance(part, bytes) else part
                for kind, part in data.items()
            }
            cell.outputs.append(new_output("display_data", data, metadata=metadata))
        cell.execution_count = number + 1
    return notebook


@pytest.mark.parametrize("there", [True, False])
def test_page_and_paper_show_figures_in_the_place_of_widgets(there, shown, root, tmp_path):
    if there:
        write_explored(root / "reports" / "reference" / "quick" / "tables")
    notebook = executed(shown)
    boxes = [output for cell in notebook.cells for output in cell.get("outputs", []) if WIDGET in output.data]
    assert len(boxes) == 3 * there
    nbformat.write(notebook, tmp_path / "11_explore.ipynb")
    export(tmp_path / "11_explore.ipynb", tmp_path)
    page = (tmp_path / "11_explore.html").read_text()
    paper = " ".join(page_texts(tmp_path / "11_explore.pdf"))
    captions = ["Softened probabilities of", "What the test images", "Validation accuracy of"] * there
    assert page.count('<div class="picture">') == len(captions)
    assert all(caption in page and caption in paper for caption in captions)
    assert ("nothing to explore" in paper) == (not there) and ("nothing to explore" in page) == (not there)
    assert "VBox" not in page + paper and "no printable form" not in page + paper


def test_the_figures_show_what_the_widgets_show(shown, root):
    logits = write_explored(root / "reports" / "reference" / "quick" / "tables")
    found = kd.explore(kd.open_study("assignment", "smoke", "synthetic", init="random"), Page(SETTING))
    soft = kd.plot_temperatures(found.scores(1, "ResNet50"), found.classes).axes[3]  # T = 4
    expected = np.exp(logits[1] / 4) / np.exp(logits[1] / 4).sum()
    assert [bar.get_width() for bar in soft.patches] == pytest.approx(list(expected))
    left, right = kd.plot_taken(found, "cat", "dog").axes
    assert [bar.get_width() for bar in left.patches] == pytest.approx([100 * 30 / 39, 100 * 9 / 39, 0])
    assert [bar.get_width() for bar in right.patches] == [0, 100, 0]
    grid = kd.plot_cells(found, "ResNet50").axes[0]
    assert [text.get_text() for text in grid.texts] == ["61.50", "67.50", "61.10", "67.10"]
    assert grid.patches[0].get_xy() == (1, 0)  # temperature 8, kd_weight 0.5
