"""A teacher must not have seen the images that validate its student."""

from __future__ import annotations

import pytest

from kdutils.data.datasets import load_dataset
from kdutils.data.views import split_indices
from kdutils.distillation.methods import KD
from kdutils.errors import InputError
from kdutils.runs.records import Store
from kdutils.runs.run import run_all
from kdutils.specs import DataSpec, Distillation, ModelSpec, RunSpec
from kdutils.training.inputs import check_teachers

DATA = DataSpec(name="synthetic", train_size=200, val_size=100, test_size=50, views=2)


def run_on(**data) -> RunSpec:
    return RunSpec(data=DATA.with_(**data), model=ModelSpec(name="sparse_cnn"), epochs=1)


def student_of(teacher: RunSpec) -> RunSpec:
    method = KD(temperature=4.0, kd_weight=0.5)
    return run_on().with_(
        model=ModelSpec(name="small_cnn"), distillation=Distillation(teachers=(teacher,), method=method)
    )


@pytest.mark.parametrize(
    "teacher", [run_on(), run_on(views=162), run_on(train_size=100), run_on(val_size=0), run_on(name="synthetic")]
)
def test_a_teacher_of_the_same_split_is_fine(teacher):
    check_teachers(student_of(teacher), load_dataset("synthetic"))


@pytest.mark.parametrize(
    "teacher",
    [
        run_on(train_size=300, val_size=0),
        run_on(split_seed=1, train_size=9000),
        run_on(val_size=0).with_(init=run_on(train_size=None, val_size=0)),
        student_of(run_on(train_size=300, val_size=0)).with_(data=DATA.with_(val_size=0)),
    ],
    ids=["larger", "another draw", "by the run that it goes on from", "by its own teacher"],
)
def test_a_teacher_that_was_trained_on_its_students_validation_images_is_refused(teacher):
    dataset, student = load_dataset("synthetic"), student_of(teacher)
    seen = (*teacher.needs, teacher)[0]
    val = set(split_indices(dataset.train_labels, *DATA.split)[1])
    known = len(val & set(split_indices(dataset.train_labels, *seen.data.split)[0]))
    with pytest.raises(InputError, match=f"trained on {known} of the 100 images that validate its student small_cnn"):
        run_all([student])


def test_a_run_goes_on_from_none_that_was_trained_on_its_validation_images():
    spec = run_on().with_(init=run_on(train_size=300, val_size=0))
    with pytest.raises(InputError, match="the run that sparse_cnn goes on from was trained on 100 of the 100 images"):
        run_all([spec])
    assert not [path for path in Store().folder.iterdir() if path.name.startswith("sparse_cnn")]  # not even begun
    check_teachers(run_on().with_(init=run_on()), load_dataset("synthetic"))


def test_without_validation_images_there_is_nothing_to_know():
    student = student_of(run_on(train_size=300, val_size=0))
    alone = student.with_(data=DATA.with_(val_size=0))
    check_teachers(alone, load_dataset("synthetic"))
