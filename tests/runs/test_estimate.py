"""What is foretold: runs, time and room of what is missing, against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest

from kdutils.data.datasets import load_dataset
from kdutils.distillation.methods import KD
from kdutils.distillation.tables import FILL_BATCH
from kdutils.runs import estimate as estimates
from kdutils.runs.estimate import estimate
from kdutils.runs.records import Store
from kdutils.runs.run import image_work, run
from kdutils.specs import DataSpec, Distillation, ModelSpec, RunSpec

DATA = DataSpec(name="synthetic", train_size=40, val_size=20, test_size=30, views=1)
ALONE = RunSpec(data=DATA, model=ModelSpec(name="small_cnn"), epochs=2, batch_size=16)
TEACHER = ALONE.with_(seed=7)
TAUGHT = ALONE.with_(distillation=Distillation(teachers=(TEACHER,), method=KD(temperature=2.0, kd_weight=0.5)))
PARAMETERS = 268_650  # of the small CNN, as torchsummary counts them


@pytest.fixture
def rate(monkeypatch):
    """A machine that does a unit of work in a second, with two workers; the networks that it was measured with."""
    measured = []
    monkeypatch.setattr(estimates, "_rate", lambda few: measured.append(few) or 1.0)
    monkeypatch.setattr(estimates, "workers", lambda: 2)
    return measured


def test_a_student_alone_is_its_passes_and_its_weights(rate):
    found = estimate([ALONE, ALONE])
    assert found.runs == 1 and found.seconds == (2 * (3 * 40 + 20) + 30) * image_work(ALONE) / 2
    assert found.size == 4 * PARAMETERS + 4 * 10 * 30


def test_validation_and_test_images_are_only_predicted(rate):
    rest = len(load_dataset("synthetic").train_labels) - 20
    whole = ALONE.with_(data=DATA.with_(train_size=None))
    assert estimate([whole]).seconds == (2 * (3 * rest + 20) + 30) * image_work(ALONE) / 2
    watched = whole.with_(test_curve=True)
    assert estimate([watched]).seconds == 2 * (3 * rest + 20 + 30) * image_work(ALONE) / 2  # tested after each epoch


def test_what_a_run_needs_counts_and_so_does_its_table(rate):
    found, work = estimate([TAUGHT]), image_work(ALONE)
    assert found.runs == 2  # the teacher, too, though nobody asked for it
    assert found.seconds == (2 * (2 * (3 * 40 + 20) + 30) + 40) * work / 2  # 40 images in one view are looked up
    assert found.size == 2 * (4 * PARAMETERS + 4 * 10 * 30) + 2 * 40 * 10


def test_what_is_recorded_costs_nothing(rate):
    run(TEACHER, Store())
    assert estimate([TAUGHT]).runs == 1
    run(TAUGHT, Store())
    assert estimate([TAUGHT, TEACHER]) == estimates.Estimate(0, 0, 0) and len(rate) == 2  # by the first estimate


def test_a_head_is_measured_on_whole_batches_of_its_features():
    head = ALONE.with_(model=ModelSpec(name="resnet18", options={"stem": "resized"}), trainable="head", batch_size=32)
    few = estimates._few(head)
    assert few.batch_size == few.data.train_size == FILL_BATCH and few.has_frozen_backbone


def test_a_rate_is_measured_once_for_networks_that_cost_the_same():
    estimates._rate.cache_clear()
    found = estimate([ALONE, ALONE.with_(seed=1), ALONE.with_(epochs=9)])
    assert found.runs == 3 and np.isfinite(found.seconds) and estimates._rate.cache_info().misses == 1
