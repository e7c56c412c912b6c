"""A chapter opens its study on the data and weights that can be had here, says so, and complains before it runs."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from kdutils.data import datasets
from kdutils.errors import InputError, Unavailable
from kdutils.networks import weights
from kdutils.networks.registry import build_model
from kdutils.report import chapter
from kdutils.report.chapter import open_chapter, open_study
from kdutils.report.page import Page
from kdutils.specs import ModelSpec
from kdutils.studies import PROFILES, STUDIES, study


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """What can be had on this test's machine: nothing but the synthetic sets, unless a test adds to the list."""
    found = {"synthetic", "synthetic-other"}

    def load(name):
        if name not in found:
            raise Unavailable(f"no {name}")
        return real(name if name.startswith("synthetic") else "synthetic")

    real = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "available", found.__contains__)
    monkeypatch.setattr(weights, "available", found.__contains__)
    return found


@pytest.mark.parametrize("name", STUDIES)
def test_auto_takes_the_studys_own_data_where_they_can_be_had_and_says_what_stands_in(name, here, capsys):
    own = study(name).data.name
    assert open_study(name, "smoke").data.name == "synthetic"
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and datasets.TITLES[own] in printed and "synthetic" in printed
    here.add(own)
    assert {open_study(name, "smoke", dataset).data.name for dataset in ("auto", "cifar", own)} == {own}
    assert open_study(name, "smoke", "synthetic").data.name == "synthetic"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("dataset", ["cifar", "cifar100"])
def test_data_that_were_asked_for_are_not_replaced(dataset):
    with pytest.raises(Unavailable, match="cifar100"):
        open_study("cifar100", "smoke", dataset)


def test_another_studys_data_are_refused(here):
    here |= {"cifar10", "cifar100"}
    with pytest.raises(InputError, match="study cifar100: allowed are auto, cifar, cifar100 and synthetic.*'cifar10'"):
        open_study("cifar100", "smoke", "cifar10")


@pytest.mark.parametrize(
    ("name", "present", "init", "expected"),
    [
        ("assignment", ("resnet18", "resnet50"), "auto", "imagenet"),
        ("assignment", ("resnet18", "resnet50"), "random", "random"),
        ("assignment", ("resnet18",), "auto", "random"),
        ("binary", ("resnet18",), "auto", "imagenet"),
        ("binary", (), "auto", "random"),
        ("cifar100", (), "auto", "random"),
        ("cifar100", (), "imagenet", "random"),  # of ResNet32x4, at the full protocol, there are none anywhere
        ("teacher-init", ("resnet18",), "random", "pretrain:cifar100"),
    ],
)
def test_networks_start_from_imagenet_where_all_weights_can_be_had(name, present, init, expected, here, capsys):
    here.update(present)
    profile = "paper" if (name, init) == ("cifar100", "imagenet") else "smoke"
    assert open_study(name, profile, "synthetic", init=init).init == expected
    printed = capsys.readouterr().out
    replaced = init != expected == "random"
    assert printed.count("\n") == (replaced or init != expected != "imagenet")
    assert ("random weights stand in" in printed) == replaced
    assert ("a pretrained teacher in any case" in printed) == (expected == "pretrain:cifar100")


@pytest.mark.parametrize("name", ["assignment", "binary", "teacher-init"])
def test_weights_that_were_asked_for_are_not_replaced(name):
    with pytest.raises(Unavailable, match="resnet18.*imagenet.resnet18.safetensors"):
        open_study(name, "smoke", "synthetic", init="imagenet")


def test_without_init_no_weights_are_looked_for(monkeypatch):
    monkeypatch.setattr(weights, "available", lambda name: pytest.fail(f"{name} was looked for"))
    assert open_study("assignment", "smoke", "synthetic").init == "imagenet"
    assert open_study("assignment", "smoke", "synthetic", init="random").init == "random"


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (("resnet101", "resnet50"), ("resnet101", "imagenet")),
        (("resnet50",), ("resnet50", "imagenet")),
        ((), ("resnet101", "pretrain:cifar100")),
    ],
)
def test_what_cannot_be_had_for_study_c_is_replaced_and_named(present, expected, here, capsys):
    here.update(present)
    plan = open_study("teacher-init", "quick", "synthetic", init="auto", network="resnet101")
    assert (plan.network, plan.init) == expected
    assert ("stand" in capsys.readouterr().out) == (expected != ("resnet101", "imagenet"))
    setting = " ".join(chapter.setting_table(plan).iloc[:, 1])
    assert ("ResNet50 for ResNet101" in chapter._short(plan)) == (expected[0] == "resnet50")
    assert ("other synthetic images" in setting) == (expected[1] != "imagenet")
    if present:
        assert (
            open_study("teacher-init", "paper", "synthetic", init="imagenet", network="resnet101").network
            == (expected[0])
        )


def test_what_was_resolved_resolves_to_itself(here):
    here.add("resnet50")
    for name, dataset, init in (("assignment", "auto", "auto"), ("teacher-init", "auto", "auto")):
        opened = open_study(name, "smoke", dataset, init=init)
        assert open_study(name, "smoke", opened.data.name, init=opened.init) == opened


def test_a_study_that_pretrains_needs_the_other_images_too(here):
    here.add("cifar10")
    with pytest.raises(Unavailable, match="cifar100"):
        open_study("teacher-init", "smoke", "cifar10", init="pretrain:cifar100")


def test_a_part_of_a_data_set_that_is_too_small_is_refused(here):
    too_many = study("assignment", dataset="synthetic").data.with_(train_size=10**6)
    with pytest.raises(InputError, match="1,000,000 training .* but there are"):
        open_study("assignment", "paper", "synthetic", data=too_many)


def test_a_teachers_file_must_fit_the_network_and_the_classes(here, tmp_path, monkeypatch):
    here.add("cifar100")
    monkeypatch.chdir(tmp_path)
    model = build_model("resnet32x4", 100)
    torch.save(model.state_dict(), "teacher.pth")
    save_file(build_model("resnet8x4", 100).state_dict(), "small.safetensors")
    plan = open_study("cifar100", "quick", "cifar100", teacher_file="teacher.pth")
    assert plan.teacher_file == str(tmp_path / "teacher.pth") and plan.teacher().init == f"file:{plan.teacher_file}"
    for file, dataset in (("small.safetensors", "cifar100"), ("teacher.pth", "synthetic"), ("no.pth", "cifar100")):
        with pytest.raises(InputError, match=file):
            open_study("cifar100", "quick", dataset, teacher_file=file)


def test_a_chapter_has_its_study_and_a_page_that_says_what_its_numbers_hold_for():
    opened, page = open_chapter("assignment", "smoke", "synthetic", seeds=[3])
    assert opened == open_study("assignment", "smoke", "synthetic", seeds=[3]) and isinstance(page, Page)
    assert page.setting == (
        "Synthetic data: 64 training, 32 validation and 60 test images, 1 seed; profile smoke "
        "(small CNNs: Adam, 0.001, 2 epochs, batch 32)."
    )
    table = chapter.setting_table(opened).set_index("what")
    here, full = table["here (profile smoke)"], table["full protocol (profile paper)"]
    assert (here["data"], full["data"]) == ("Synthetic data", "CIFAR-10")
    assert (here["training images"], full["training images"], full["test images"]) == ("64", "9,000", "all")
    assert (here["views of an image"], full["views of an image"]) == ("2 of 162", "162 of 162")
    assert (here["seeds of students"], full["seeds of students"]) == ("1", "5")
    assert full["training of ResNets"] == "Adam, 0.0001, 20 epochs, batch 32"
    assert "frozen" in here["teachers"] and "all layers" in full["teachers"]


def test_a_chapter_begins_with_its_setting(capsys):
    shown = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Page, "table", lambda page, frame, name, caption: shown.update({name: frame}))
        opened, _ = open_chapter("binary", "smoke", "synthetic", init="random")
    assert shown["setting"].equals(chapter.setting_table(opened))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", STUDIES)
def test_captions_say_in_short_what_a_profile_changed(name, profile):
    plan = study(name, profile, dataset="synthetic")
    short = chapter._short(plan)
    assert f"profile {profile} (" in short and short.startswith("Synthetic data: ")
    assert str(next(iter(plan.trainings.values()))) in short
    stand_in = {"binary": "for WRN-16-7", "cifar100": "for ResNet32x4", "teacher-init": "for ResNet101"}.get(name)
    assert stand_in is None or (stand_in in short) == (profile != "paper")


@pytest.mark.parametrize(
    "network, title",
    [
        (ModelSpec(name="wrn_22", options={"width": 64}), "WRN-22 (64-64-128-256)"),
        (ModelSpec(name="wrn_22"), "WRN-22 (16-16-32-64)"),
        (ModelSpec(name="reduced_cnn"), "reduced_cnn"),
    ],
)
def test_captions_name_the_network_that_was_given(network, title):
    assert f"{title} for WRN-16-7" in chapter._short(study("binary", "quick", dataset="synthetic", network=network))


def test_a_data_set_without_a_name_is_refused():
    with pytest.raises(InputError, match="dataset: a name is needed, such as auto or cifar, got None"):
        open_study("assignment", "smoke", None)


def test_where_the_resnets_are_tested_on_fewer_images_captions_say_so():
    assert "2,000 test (ResNets" not in chapter._short(study("binary", "quick", dataset="synthetic"))
    plan = study("assignment", "quick", dataset="synthetic", resnet_tests=500)
    assert "(ResNets: 500) test images" in chapter._short(plan)


@pytest.mark.parametrize(
    "profile, looked",
    [("overnight", "5,000 images"), ("quick", "the training images"), ("paper", "all but 5,000 training images")],
)
def test_the_setting_says_by_what_runs_lambda_is_looked_at(profile, looked):
    plan = study("binary", profile, dataset="synthetic")
    shown = chapter.setting_table(plan).set_index("what").iloc[:, 0]
    assert shown["lambda looked at with"] == f"{looked}, {plan.lambdas()['XNOR, SGD'][0].epochs} epochs"


def test_the_setting_names_the_teachers_file(tmp_path):
    plan = study("cifar100", "quick", dataset="synthetic", teacher_file=str(tmp_path / "public.pth"))
    assert "public.pth; nothing is known here" in " ".join(chapter.setting_table(plan).iloc[:, 1])


def test_runs_that_are_trained_otherwise_have_a_setting_of_their_own(monkeypatch):
    plan, captions = study("binary", "overnight", dataset="synthetic"), []

    def told(arms):
        runs = {name: [SimpleNamespace(spec=spec) for spec in specs] for name, specs in arms.items()}
        return chapter.setting_of(plan, runs)

    lambdas, beyond, none = map(told, (plan.lambdas(), plan.beyond(), {}))
    assert "5,000 training, 5,000 validation and 2,000 test images, 1 seed;" in lambdas
    assert "these runs: Adam, one cycle to 0.01, 8 epochs, batch 128 or SGD, one cycle to 0.1, 8 epochs" in lambdas
    assert "10,000 training and 2,000 test images, 2 seeds;" in beyond and "these runs: Adam" in beyond
    assert none == chapter._short(plan) and "(WideResNets: Adam" in none
    monkeypatch.setattr(Page, "_show", lambda self, kind, name, caption, *_: captions.append(caption))
    for setting in ("", lambdas):
        Page(none).table(pd.DataFrame({"a": [1]}), "t", "Runs.", setting=setting)
    assert captions == [f"Runs. {none}", f"Runs. {lambdas}"]
