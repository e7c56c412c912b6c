"""Study A on one's own images: its sizes fit them, its runs are theirs alone, and its chapters tell of them."""

from __future__ import annotations

import re

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from smoke_report import Copy

from kdutils import suite
from kdutils.__main__ import main
from kdutils.data import own
from kdutils.data.datasets import load_dataset
from kdutils.errors import InputError
from kdutils.report.chapter import open_study, setting_table
from kdutils.runs.records import Store
from kdutils.runs.run import run_all
from kdutils.specs import RunSpec
from kdutils.suite import make_plan


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """A `KD_DATA_DIR` of this test alone."""
    monkeypatch.setenv("KD_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def write(folder, classes: int, each: int, seed: int = 0):
    """A folder of images of one colour and a little noise, by which their classes can be told apart."""
    random = np.random.RandomState(seed)
    for label in range(classes):
        place = folder / f"colour {label:03d}"
        place.mkdir(parents=True)
        for number in range(each):
            pixels = random.randint(0, 60, (32, 32, 3)) + [190 * label // classes, 80, 195 - 190 * label // classes]
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("profile", "each", "there", "train", "val"),
    [("smoke", 40, 96, 64, 32), ("smoke", 38, 93, 64, 18), ("smoke", 30, 72, 58, 14)]
    + [("quick", 25, 60, 48, 12), ("paper", 25, 60, 48, 12), ("smoke", 3, 6, 5, 1)],
)
def test_a_profile_takes_no_more_images_than_there_are(profile, each, there, train, val, tmp_path, capsys):
    own.add("colours", write(tmp_path / "files", 3, each))
    study = open_study("assignment", profile, "colours", init="random")
    assert (study.data.train_size, study.data.val_size, study.data.num_classes) == (train, val, 3)
    said = f"The data set colours has {there} training images: {train} train and {val} validate.\n"
    assert capsys.readouterr().out == (said if there < 96 else "")
    table = setting_table(study).set_index("what")
    here, full = table.columns
    assert table.loc["data"].tolist() == ["The data set colours", "CIFAR-10"]
    assert table.loc["images that there are", here].startswith(f"{there} to train and to validate with, ")
    assert table.loc["training images"].tolist() == [str(train), "9,000"]
    tests = 3 * max(1, each // 5)
    assert f"up to {100 * (0.25 / tests) ** 0.5:.1f} points" in table.loc["standard error of an accuracy", here]


def test_too_few_images_are_refused(tmp_path):
    own.add("colours", write(tmp_path / "files", 4, 2))
    with pytest.raises(InputError, match="has 4 training images of 4 classes, too few.*at least 8"):
        open_study("assignment", "smoke", "colours")


def test_other_studies_are_about_cifar(tmp_path, capsys, monkeypatch):
    own.add("colours", write(tmp_path / "files", 2, 10))
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    with pytest.raises(
        InputError, match="study binary: allowed are .* got 'colours'; one's own data are for assignment"
    ):
        make_plan({"profile": "smoke", "dataset": "colours"}, ["05"])
    plan = make_plan({"profile": "smoke", "dataset": "colours"}, given=["init=random"])
    assert [path.stem[:2] for path in plan.chapters] == ["00", "01", "02", "03", "04", "09", "11"]
    assert plan.folder == tmp_path / "reports" / "smoke-colours"
    said = capsys.readouterr().out
    assert said.startswith("Left out, for they are about CIFAR: 05_binary_wideresnet, ") and "10_methods" in said


def test_sets_that_follow_each_other_under_one_name_share_no_run(tmp_path):
    store = Store(tmp_path / "runs")

    def trained(seed: int) -> RunSpec:
        own.add("colours", write(tmp_path / f"files {seed}", 3, 20, seed), replace=True)
        spec = open_study("assignment", "smoke", "colours", init="random").small_cnn()
        run_all([spec], store)
        return spec

    first, second = trained(1), trained(2)
    assert first.key != second.key and store.find(first).digest != store.find(second).digest
    assert store.find(first).summary["data"]["digest"] == first.data.digest != second.data.digest
    with pytest.raises(InputError, match="the data set colours has been replaced since this was planned"):
        run_all([first.with_(seed=1)], store)
    own.add("colours", tmp_path / "files 1", replace=True)
    assert store.find(first).spec == first and not list(store.folder.glob("*damaged*"))


def test_chapters_on_images_that_were_replaced_are_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    told = []
    monkeypatch.setattr(suite.exports, "publish", lambda notebooks, folder, cover, failed: told.extend(notebooks))
    own.add("colours", write(tmp_path / "files", 2, 10))
    plan = make_plan({"profile": "smoke", "dataset": "colours"}, given=["init=random"])
    digest = load_dataset("colours").digest
    for stem, of in (("00_data", digest), ("01_baseline_small_cnn", "f" * 16), ("03_one_teacher", None)):
        noted = {"kdutils": {"study": "assignment", "dataset": "colours", "init": "random"}}
        noted["kdutils"] |= {"digest": of} if of else {}  # as an earlier version left it
        plan.folder.mkdir(parents=True, exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(metadata=noted), plan.folder / f"{stem}.ipynb")
    capsys.readouterr()
    suite.publish(plan)
    assert [path.stem for path in told] == ["00_data"]
    said = "Left out, for their images have been replaced: 01_baseline_small_cnn, 03_one_teacher; run them again."
    assert said in capsys.readouterr().out


def test_ones_own_set_is_made_anew_from_its_files_alone(tmp_path, capsys):
    own.add("colours", write(tmp_path / "files", 2, 3))
    assert main(["data", "colours", "--rebuild"]) == 2
    assert "`data add colours FOLDER --rebuild`" in capsys.readouterr().err


def test_of_three_hundred_classes_every_label_is_kept(tmp_path):
    own.add("colours", write(tmp_path / "files", 300, 4))
    spec = open_study("assignment", "smoke", "colours", init="random").small_cnn()
    (record,) = run_all([spec.with_(data=spec.data.with_(test_size=None))], Store(tmp_path / "runs"))
    logits, labels = record.predictions
    assert logits.shape == (300, 300) and sorted(labels.tolist()) == list(range(300))
    assert record.load_model().fc2.out_features == 300


def test_the_command_tells_study_a_of_ones_own_images(tmp_path, data, capsys):
    copy = Copy(tmp_path / "copy", data)
    assert main(["data", "add", "colours", str(write(tmp_path / "files", 3, 25))]) == 0
    assert "the data set colours: 3 classes" in capsys.readouterr().out
    command = ["report", "--only", "00,01,03", "--profile", "smoke", "--dataset", "colours", "-p", "init=random"]
    done = copy.run(*command, KD_WORKERS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("The data set colours has 60 training images: 48 train and 12 validate.") == 1
    folder = copy.reports.with_name("smoke-colours")
    index = (folder / "index.html").read_text()
    assert "What small networks learn from large ones, on the data set colours; profile smoke: a test" in index
    answers = pd.read_csv(folder / "tables" / "answers.csv")
    assert {"small CNN", "ResNet50", "distilled from ResNet50"} <= set(answers["classifier or gain"])
    assert "figures/answers.svg" in index and "published" not in re.search(r"<thead>.*?</thead>", index, re.DOTALL)[0]
    for chapter in ("00_data", "01_baseline_small_cnn", "03_one_teacher"):
        cells = nbformat.read(folder / f"{chapter}.ipynb", as_version=4).cells
        shown = [
            output.metadata.kdutils
            for cell in cells
            for output in cell.get("outputs", [])
            if "kdutils" in output.get("metadata", {})
        ]
        captions = [each.caption for each in shown if "An illustration" not in each.get("caption", "An illustration")]
        assert captions and all(
            "The data set colours: 48 training, 12 validation and 15 test" in each for each in captions
        )
        assert "published" not in {each.get("name") for each in shown}
        page = (folder / f"{chapter}.html").read_text()
        assert page.count("The published values are left out here") == (chapter != "00_data")
