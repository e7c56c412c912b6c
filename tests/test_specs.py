"""Specs refuse what cannot be meant, and are named by their content alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings

import pytest
from pydantic import ValidationError

import kdutils as kd
from kdutils import studies
from kdutils.errors import InputError, Unavailable
from kdutils.specs import Bayesian, DataSpec, Distillation, ModelSpec, OptimiserSpec, RunSpec, unique
from kdutils.training.optimisers import learning_rate
from kdutils.values import explain


def cnn(**changes) -> RunSpec:
    return RunSpec(**{"data": DataSpec(name="synthetic"), "model": ModelSpec(name="small_cnn"), "epochs": 2} | changes)


def resnet(**changes) -> RunSpec:
    return cnn(**{"model": ModelSpec(name="resnet18")} | changes)


def taught(*teachers: RunSpec, **changes) -> RunSpec:
    fields = {"teachers": teachers, "temperature": 4.0, "kd_weight": 0.5}
    return cnn(
        distillation=Distillation(
            **fields | {k: changes.pop(k) for k in list(changes) if k in Distillation.model_fields}
        ),
        **changes,
    )


def wrn(precision: str = "bonn", **changes) -> RunSpec:
    return cnn(**{"model": ModelSpec(name="wrn_22", options={"precision": precision})} | changes)


@pytest.mark.parametrize(
    "make",
    [
        lambda: cnn(learning_rate=0.1),
        lambda: DataSpec(name="synthetic", size=3),
        lambda: OptimiserSpec(lr=0.1),
        lambda: cnn(epochs=True),
        lambda: cnn(epochs=2.0),
        lambda: cnn(epochs="2"),
        lambda: cnn(epochs=0),
        lambda: cnn(seed=-1),
        lambda: cnn(seed=False),
        lambda: cnn(batch_size=1),
        lambda: cnn(data={"name": "mnist"}),
        lambda: DataSpec(name="cifar10", train_size=0),
        lambda: DataSpec(name="cifar10", val_size=-1),
        lambda: DataSpec(name="cifar10", views=0),
        lambda: DataSpec(name="cifar10", views=163),
        lambda: DataSpec(name="cifar10", normalisation="mnist"),
        lambda: OptimiserSpec(learning_rate=float("nan")),
        lambda: OptimiserSpec(learning_rate=float("inf")),
        lambda: OptimiserSpec(learning_rate=0.0),
        lambda: OptimiserSpec(learning_rate=True),
        lambda: OptimiserSpec(momentum=1.0),
        lambda: OptimiserSpec(weight_decay=-1e-4),
        lambda: OptimiserSpec(name="lbfgs"),
        lambda: OptimiserSpec(schedule="cosine"),
        lambda: OptimiserSpec(milestones=(1.5,)),
        lambda: taught(resnet(), temperature=0.0),
        lambda: taught(resnet(), temperature=-2.0),
        lambda: taught(resnet(), temperature=float("nan")),
        lambda: taught(resnet(), temperature=float("inf")),
        lambda: taught(resnet(), kd_weight=-0.01),
        lambda: taught(resnet(), kd_weight=1.01),
        lambda: taught(resnet(), kd_weight=float("nan")),
        lambda: taught(resnet(), average="median"),
        lambda: taught(),
        lambda: cnn(init=None),
        lambda: cnn(test_curve=1),
        lambda: wrn(bayesian=True),
        lambda: Bayesian(kernel_weight=-1e-4),
        lambda: Bayesian(nu=0.0),
        lambda: Bayesian(feature_weight=float("inf")),
        lambda: Bayesian(theta=1e-2),
    ],
)
def test_impossible_values_are_refused(make):
    with pytest.raises(ValidationError):
        make()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ModelSpec(name="resnet34"), ["resnet34", "small_cnn", "resnet18", "resnet50", "resnet101"]),
        (lambda: ModelSpec(name="small_cnn", options={"stem": "cifar"}), ["small_cnn", "stem", "none"]),
        (lambda: ModelSpec(name="resnet18", options={"width": 2}), ["resnet18", "width", "stem"]),
        (lambda: ModelSpec(name="resnet18", options={"stem": "mnist"}), ["mnist", "imagenet", "cifar_pool", "cifar"]),
        (lambda: cnn(init="imagenet"), ["small_cnn", "random"]),
        (lambda: cnn(trainable="head"), ["small_cnn", "all"]),
        (lambda: taught(resnet(data=DataSpec(name="cifar100"))), ["cifar100", "synthetic", "resnet18", "small_cnn"]),
        (lambda: ModelSpec(name="wrn_22", options={"dropout": 1.5}), ["wrn_22", "dropout", "1.5", "less than 1"]),
        (lambda: cnn(init="imagenett"), ["random", "imagenet", "imagenett"]),
        (lambda: cnn(epochs=0), ["epochs", "at least 1", "file:PATH"]),
        (lambda: taught(resnet(), init="file:a.pth", epochs=0), ["epochs", "at least 1"]),
        (lambda: cnn(init="file:"), ["init", "file:"]),
        (lambda: cnn(model=ModelSpec(name="resnet8x4"), init="imagenet"), ["resnet8x4", "no ImageNet weights"]),
        (lambda: cnn(model=ModelSpec(name="resnet32x4"), trainable="head"), ["resnet32x4", "no frozen parts"]),
        (lambda: studies.teacher_init("papers"), ["papers", "smoke", "quick", "overnight", "paper"]),
        (lambda: studies.cifar100("papers"), ["papers", "smoke", "quick", "overnight", "paper"]),
        (lambda: studies.cifar100("smoke", "synthetic", kd_weight=0), ["kd_weight", "the student alone", "above 0"]),
        (
            lambda: studies.teacher_init("smoke", "synthetic", init="pretrain:mnist"),
            ["pretrain:mnist", "imagenet", "random", "pretrain:cifar100"],
        ),
        (
            lambda: studies.assignment("smoke", "synthetic", init="pretrain:cifar100"),
            ["pretrain:cifar100", "auto, imagenet, random"],
        ),
        (lambda: cnn(init=resnet()), ["small_cnn", "resnet18", "same network"]),
        (lambda: wrn("bonn", init=wrn("xnor")), ["'bonn'", "'xnor'", "same network"]),
        (lambda: cnn(init=cnn(data=DataSpec(name="cifar10"))), ["synthetic", "cifar10", "same data set"]),
        (lambda: cnn(bayesian=Bayesian()), ["small_cnn", "bonn", "none"]),
        (lambda: wrn("xnor", bayesian=Bayesian()), ["wrn_22", "bonn", "xnor"]),
        (lambda: studies.assignment("papers"), ["papers", "smoke", "quick", "overnight", "paper"]),
        (lambda: studies.binarised("papers"), ["papers", "smoke", "quick", "overnight", "paper"]),
        (lambda: studies.assignment("smoke", "synthetic", seeds=(1, 2, 1), init="random"), ["1, 2, 1"]),
    ],
)
def test_errors_name_what_was_given_and_what_is_allowed(make, words):
    with pytest.raises((ValidationError, InputError)) as error:
        make()
    assert all(word in str(error.value) for word in words)


def test_a_study_refuses_another_studys_data(cifar):
    with pytest.raises(
        InputError, match="about CIFAR-100: dataset must be auto, cifar .*, cifar100 or synthetic, got 'cifar10'"
    ):
        studies.cifar100("smoke", "cifar10")


def test_only_a_residual_network_may_go_on_from_another_data_set():
    other = DataSpec(name="cifar100")
    assert resnet(init=resnet(data=other)).needs == (resnet(data=other),)
    assert (
        cnn(model=ModelSpec(name="resnet8x4"), init=cnn(model=ModelSpec(name="resnet8x4"), data=other)).init.data.name
        == "cifar100"
    )


def test_weights_from_a_file_are_part_of_the_key_and_need_no_training():
    files = [resnet(init=f"file:{name}", epochs=epochs) for name in ("a.pth", "b.pth") for epochs in (0, 2)]
    assert len({spec.key for spec in [*files, resnet()]}) == 5 and all(spec.needs == () for spec in files)
    assert [str(spec.weights_file) for spec in (files[0], files[3])] == ["a.pth", "b.pth"]
    assert resnet().weights_file is resnet(init="imagenet").weights_file is resnet(init=resnet()).weights_file is None
    assert RunSpec.model_validate_json(files[0].model_dump_json()) == files[0]


def test_explain_is_one_sentence_with_the_field_and_the_value():
    with pytest.raises(ValidationError) as error:
        cnn(epochs=-3)
    assert (
        explain(error.value).startswith("epochs:") and "-3" in explain(error.value) and "\n" not in explain(error.value)
    )


@pytest.mark.parametrize("init", ["imagenett", 3, {"epochs": 2}])
def test_a_wrong_init_is_explained_by_its_field_alone(init):
    with pytest.raises(ValidationError) as error:
        cnn(init=init)
    assert explain(error.value).startswith("init: ") and "[" not in explain(error.value)


def test_specs_cannot_be_changed():
    with pytest.raises(ValidationError):
        cnn().epochs = 3


CHANGES = {
    "data": DataSpec(name="synthetic", train_size=10),
    "model": ModelSpec(name="resnet50"),
    "init": "imagenet",
    "trainable": "head",
    "optimiser": OptimiserSpec(name="sgd"),
    "epochs": 3,
    "batch_size": 33,
    "seed": 1,
    "distillation": taught(cnn()).distillation,
    "test_curve": True,
}
DATA_CHANGES = {
    "name": "cifar10",
    "train_size": 9,
    "val_size": 1,
    "test_size": 5,
    "split_seed": 1,
    "normalisation": "half",
    "views": 161,
}
OPTIMISER_CHANGES = {
    "name": "sgd", "learning_rate": 2e-3, "momentum": 0.9, "weight_decay": 1e-4, "schedule": "step", "milestones": (3,), "factor": 0.2,
}  # fmt: skip
BAYESIAN_CHANGES = {"kernel_weight": 0.0, "nu": 1e-3, "feature_weight": 1e-2}
KD_CHANGES = {"teachers": (resnet(seed=1),), "temperature": 3.0, "kd_weight": 0.4, "average": "probabilities"}


def test_every_field_changes_the_key():
    changed = [resnet(**{name: value}) for name, value in CHANGES.items()]
    changed += [resnet(data=DataSpec(**{"name": "synthetic"} | {name: value})) for name, value in DATA_CHANGES.items()]
    changed += [resnet(optimiser=OptimiserSpec(**{name: value})) for name, value in OPTIMISER_CHANGES.items()]
    changed += [resnet(model=ModelSpec(name="resnet18", options={"stem": stem})) for stem in ("cifar", "imagenet")]
    kd = {"teachers": (resnet(),), "temperature": 4.0, "kd_weight": 0.5}
    changed += [cnn(distillation=Distillation(**kd | {name: value})) for name, value in KD_CHANGES.items()]
    changed += [
        wrn(),
        wrn(bayesian=Bayesian()),
        *(wrn(bayesian=Bayesian(**{name: value})) for name, value in BAYESIAN_CHANGES.items()),
    ]
    changed += [
        resnet(init=resnet()),
        resnet(init=resnet(seed=1)),
        resnet(init=resnet(init=resnet())),
        resnet(init=resnet(init="imagenet")),
    ]
    changed += [cnn(), taught(resnet()), taught(resnet(), resnet(seed=1)), taught(resnet(seed=1), resnet()), resnet()]
    different = {spec.model_dump_json() for spec in changed}
    assert len({spec.key for spec in changed}) == len(different) == len(changed) - 1  # another optimiser occurs twice


def test_the_list_of_changes_is_complete():
    assert set(CHANGES) | {"bayesian"} == set(RunSpec.model_fields) and set(BAYESIAN_CHANGES) == set(
        Bayesian.model_fields
    )
    assert set(DATA_CHANGES) == set(DataSpec.model_fields)
    assert set(OPTIMISER_CHANGES) == set(OptimiserSpec.model_fields) and set(KD_CHANGES) == set(
        Distillation.model_fields
    )


def test_fields_at_their_default_do_not_enter_the_key():
    spelled_out = RunSpec(
        data=DataSpec(
            name="synthetic",
            train_size=None,
            val_size=0,
            test_size=None,
            split_seed=0,
            normalisation="imagenet",
            views=162,
        ),
        model=ModelSpec(name="small_cnn", options={}),
        init="random",
        trainable="all",
        optimiser=OptimiserSpec(
            name="adam",
            learning_rate=1e-3,
            momentum=0.0,
            weight_decay=0.0,
            schedule="constant",
            milestones=(),
            factor=0.1,
        ),
        epochs=2,
        batch_size=32,
        seed=0,
        distillation=None,
        bayesian=None,
        test_curve=False,
    )
    assert spelled_out == cnn() and spelled_out.key == cnn().key


def test_an_integer_learning_rate_is_the_same_number():
    assert cnn(optimiser=OptimiserSpec(learning_rate=1)).key == cnn(optimiser=OptimiserSpec(learning_rate=1.0)).key


def paper(dataset_folder) -> studies.Assignment:
    """The study as published, on whatever data and weights a machine has."""
    assert dataset_folder.is_dir()
    return dataclasses.replace(studies.assignment("paper", "cifar10", init="random"), init="imagenet")


def test_keys_of_recorded_runs_are_pinned():
    """Computed once by hand-written JSON and SHA-256: were they to change, every recorded run would be lost."""
    data = DataSpec(name="cifar10", train_size=9000, val_size=1000)
    alone = RunSpec(data=data, model=ModelSpec(name="small_cnn"), epochs=30)
    teachers = tuple(
        RunSpec(
            data=data,
            model=ModelSpec(name=name, options={"stem": "cifar_pool"}),
            init="imagenet",
            optimiser=OptimiserSpec(learning_rate=1e-4),
            epochs=20,
        )
        for name in ("resnet18", "resnet50")
    )
    student = RunSpec(**dict(alone) | {"distillation": Distillation(teachers=teachers, temperature=4.0, kd_weight=0.9)})
    content = '{"data": {"name": "cifar10", "train_size": 9000, "val_size": 1000}, "epochs": 30, "model": {"name": "small_cnn"}}'
    assert alone.key == "small_cnn-2aa0dbe13f44f87d" == f"small_cnn-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    assert teachers[1].key == "resnet50-1801ddc61b5a771d"
    assert student.key == "small_cnn-992d0c1061b02eb9"


def test_keys_of_binary_runs_are_pinned():
    data, optimiser = (
        DataSpec(name="cifar10", normalisation="half"),
        OptimiserSpec(learning_rate=1e-3, weight_decay=1e-5),
    )
    network = ModelSpec(name="wrn_22", options={"precision": "bonn", "dropout": 0.3})
    spec = RunSpec(
        data=data, model=network, optimiser=optimiser, epochs=60, batch_size=128, bayesian=Bayesian(), test_curve=True
    )
    content = (
        '{"batch_size": 128, "bayesian": {}, "data": {"name": "cifar10", "normalisation": "half"}, "epochs": 60, '
        '"model": {"name": "wrn_22", "options": {"dropout": 0.3, "precision": "bonn"}}, "optimiser": {"weight_decay": 1e-05}, "test_curve": true}'
    )
    assert spec.key == "wrn_22-45a61d5b39a33ae7" == f"wrn_22-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    later = (
        '{"bayesian": {"feature_weight": 0.01}, "data": {"name": "cifar10", "normalisation": "half"}, "epochs": 5, "init": '
        + content
    )
    later += ', "model": {"name": "wrn_22", "options": {"dropout": 0.3, "precision": "bonn"}}}'
    finer = RunSpec(data=data, model=network, init=spec, epochs=5, bayesian=Bayesian(feature_weight=1e-2))
    assert finer.key == "wrn_22-7d2eadb32e7d8e99" == f"wrn_22-{hashlib.sha256(later.encode()).hexdigest()[:16]}"


def test_study_a_as_published_has_the_pinned_keys(cifar):
    study = paper(cifar)
    assert study.small_cnn(0).key == "small_cnn-2aa0dbe13f44f87d"
    assert study.resnet("resnet50").key == "resnet50-1801ddc61b5a771d"
    assert study.student(("resnet18", "resnet50"), 4, 0.9).key == "small_cnn-992d0c1061b02eb9"


def test_json_round_trip_keeps_value_and_key():
    spec = taught(
        resnet(optimiser=OptimiserSpec(milestones=(1, 2), learning_rate=1 / 3)), resnet(seed=1), average="probabilities"
    )
    again = RunSpec.model_validate_json(spec.model_dump_json())
    assert again == spec and again.key == spec.key
    assert json.loads(spec.model_dump_json())["distillation"]["teachers"][1]["seed"] == 1


def test_a_run_that_goes_on_from_another_survives_json():
    first = wrn(
        model=ModelSpec(name="wrn_22", options={"precision": "bonn", "width": 64, "dropout": 0.0}),
        bayesian=Bayesian(),
        test_curve=True,
    )
    then = wrn(model=first.model, init=first, bayesian=Bayesian(feature_weight=1e-2))
    for spec in (then, wrn(model=first.model, init=then), taught(resnet(init=resnet(seed=3)))):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again = RunSpec.model_validate_json(spec.model_dump_json())
        assert again == spec and again.key == spec.key
    with pytest.raises(ValidationError):
        RunSpec.model_validate_json(then.model_dump_json().replace('"seed":0', '"seed":"0"', 1))  # strict inside, too
    assert (wrn().needs, cnn(init="random").needs, then.needs) == ((), (), (first,))


def test_a_run_needs_its_teachers_and_the_run_it_goes_on_from():
    start, teacher = cnn(seed=1), resnet(init=resnet(seed=2))
    spec = taught(teacher, init=start)
    assert spec.needs == (teacher, start) and spec.teachers == (teacher,)
    assert [found.key for found in unique([spec, start])] == [
        found.key for found in (resnet(seed=2), teacher, start, spec)
    ]


def test_unique_puts_teachers_before_students_and_drops_duplicates():
    grandteacher, teacher = resnet(seed=1), resnet(seed=2)
    middle = taught(grandteacher, seed=5)
    student = cnn(distillation=Distillation(teachers=(middle, teacher), temperature=2.0, kd_weight=0.5), seed=6)
    found = unique([student, teacher, middle, student, cnn(seed=6)])
    assert len(found) == len({spec.key for spec in found}) == 5
    position = {spec.key: number for number, spec in enumerate(found)}
    assert all(position[teacher.key] < position[spec.key] for spec in found for teacher in spec.teachers)


def test_study_a_searches_every_temperature_with_every_weight_and_trains_every_policy(cifar):
    study = paper(cifar)
    grid = study.grid(("resnet50",))
    assert {(spec.distillation.temperature, spec.distillation.kd_weight) for spec in grid} == {
        (t, w) for t in (2, 4, 8) for w in (0.3, 0.5, 0.7, 0.9)
    }
    assert len({spec.key for spec in grid}) == 12 and all(spec.teachers == (study.resnet("resnet50"),) for spec in grid)
    assert {spec.trainable for spec in study.policies()} == {"head", "last_block", "layer3_up", "all"}
    assert (study.data.train_size, study.data.val_size, study.epochs, study.resnet_epochs, len(study.seeds)) == (
        9000,
        1000,
        30,
        20,
        5,
    )


def binarised(profile: str = "paper") -> studies.Binarised:
    return dataclasses.replace(studies.binarised(profile, "cifar10", init="random"), init="imagenet")


def test_study_b_as_published(cifar):
    study = binarised()
    runs = [spec for specs in (study.phase_one() | study.phase_two()).values() for spec in specs]
    assert {
        (spec.optimiser.name, spec.optimiser.learning_rate, spec.optimiser.weight_decay, spec.batch_size, spec.epochs)
        for spec in runs
    } == {("sgd", 0.01, 5e-4, 64, 50)}
    assert {(spec.distillation.temperature, spec.distillation.kd_weight) for spec in runs if spec.teachers} == {
        (2.0, 0.5)
    }
    assert {spec.model.options.get("dropout") for spec in runs if spec.model.name == "wrn_16_7"} == {0.5}
    assert (study.data.train_size, study.data.val_size, study.data.test_size, len(study.seeds)) == (None, 0, None, 5)
    assert (
        len({spec.key for spec in runs}) == len(unique(runs)) == 4 * 5 + 5 + 2 * 5 + 2 * 5
    )  # precisions, teachers, reduced CNNs, taught binaries


def test_study_b_differs_in_the_loss_alone_where_it_compares(cifar):
    study = binarised()
    arms = study.phase_two()
    for name in ("reduced CNN", "WideResNet, XNOR", "WideResNet, BONN"):
        for alone, taught in zip(arms[name], arms[f"{name}, distilled"]):
            assert taught.teachers == (study.teacher(0),) and RunSpec(**dict(taught) | {"distillation": None}) == alone
    tuned = study.fine_tuning()
    for without, with_it in zip(tuned["BONN, fine-tuned without it"], tuned["BONN, fine-tuned with it"]):
        assert (without.bayesian.feature_weight, with_it.bayesian.feature_weight) == (0.0, 1e-2)
        assert without.init == with_it.init == study.wide_resnet("bonn", without.seed)
        assert RunSpec(**dict(with_it) | {"bayesian": without.bayesian}) == without


def test_study_b_overnight_has_the_pinned_keys(cifar):
    """Of the runs behind reports/reference."""
    study = binarised("overnight")
    keys = [specs[0].key for specs in study.phase_one().values()]
    assert keys == ["wrn_22-d9040b7b1e407bf8", "wrn_22-f62f3cddcb792663", "wrn_22-d4884a27c5571bbd"]
    assert [specs[0].key for specs in study.beyond().values()] == keys  # what coincides is run once


@pytest.mark.parametrize("profile", studies.PROFILES)
def test_every_profile_of_study_b_says_what_it_changed(cifar, profile):
    setting = binarised(profile).setting
    assert f"profile {profile}" in setting
    assert ("stands in for WRN-16-7" in setting) == ("0.01 in the document" in setting) == (profile != "paper")


def teacher_init(profile: str = "paper", **changes) -> studies.teacher_init:
    """Study C without looking for weights."""
    study = studies.teacher_init(profile, "synthetic", init="random")
    return dataclasses.replace(
        study, data=DataSpec(**dict(study.data) | {"name": "cifar10"}), init="imagenet", **changes
    )


def test_study_c_as_published():
    study = teacher_init()
    arms = study.arms()
    teachers = arms["teacher from scratch"] + arms["teacher pretrained"]
    students = [spec for name, specs in arms.items() if name.startswith("student") for spec in specs]
    assert {(spec.model.name, spec.epochs) for spec in teachers} == {("resnet101", 10)} and {
        spec.model.name for spec in students
    } == {"sparse_cnn"}
    assert {(spec.distillation.temperature, spec.distillation.kd_weight) for spec in students if spec.teachers} == {
        (2.0, 0.5)
    }
    assert (
        study.data.train_size,
        study.data.val_size,
        study.data.test_size,
        study.data.normalisation,
        study.data.views,
    ) == (None, 0, None, "half", 162)
    assert set(arms) == set(kd.published("teacher-init")["arm"])


@pytest.mark.parametrize("source", ["imagenet", "pretrain:cifar100"])
@pytest.mark.parametrize("profile", studies.PROFILES)
def test_study_c_differs_in_the_teachers_start_alone(profile, source):
    arms = dataclasses.replace(teacher_init(profile), init=source).arms()
    for scratch, pretrained in zip(arms["teacher from scratch"], arms["teacher pretrained"]):
        assert (
            scratch.init == "random" != pretrained.init and RunSpec(**dict(pretrained) | {"init": "random"}) == scratch
        )
        assert source == "imagenet" or (pretrained.init.data.name, pretrained.init.init) == ("cifar100", "random")
    for alone, *taught in zip(
        arms["student alone"], arms["student of the teacher from scratch"], arms["student of the pretrained teacher"]
    ):
        assert [RunSpec(**dict(spec) | {"distillation": None}) for spec in taught] == [alone, alone]
        assert [spec.teachers for spec in taught] == [
            (arms["teacher from scratch"][0],),
            (arms["teacher pretrained"][0],),
        ]


def test_on_synthetic_images_the_teacher_of_study_c_is_pretrained_on_others():
    study = studies.teacher_init("smoke", "synthetic", init="random")
    start = study.teacher(True).init
    assert (
        start.data.name == "synthetic"
        and start.data.split_seed != study.data.split_seed
        and "other synthetic images" in study.setting
    )


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (("resnet101", "resnet50"), ("resnet101", "imagenet")),
        (("resnet50",), ("resnet50", "imagenet")),
        ((), ("resnet101", "pretrain:cifar100")),
    ],
)
def test_what_cannot_be_had_for_study_c_is_replaced_and_named(monkeypatch, present, expected):
    def load(model, name):
        if name not in present:
            raise Unavailable(f"no {name}")

    monkeypatch.setitem(studies.teacher_init.__globals__, "load_imagenet", load)  # the module has the function's name
    study = studies.teacher_init("paper", "synthetic", init="auto")
    assert (study.network, study.init) == expected
    assert ("stand in for ResNet101" in study.setting) == (expected[0] != "resnet101")
    if present:
        assert studies.teacher_init("paper", "synthetic", init="imagenet").network == expected[0]
    else:
        with pytest.raises(Unavailable):
            studies.teacher_init("paper", "synthetic", init="imagenet")


def grid_study(profile: str = "paper", **changes) -> studies.cifar100:
    study = studies.cifar100(profile, "synthetic", **changes)
    return dataclasses.replace(study, data=DataSpec(**dict(study.data) | {"name": "cifar100"}))


def test_study_d_as_published():
    study = grid_study()
    student, teacher = study.student(), study.teacher()
    assert (student.epochs, student.batch_size, student.optimiser) == (
        100, 128, OptimiserSpec(name="sgd", learning_rate=0.1, weight_decay=5e-4, schedule="step", milestones=(30, 60, 90), factor=0.2))  # fmt: skip
    assert (teacher.model.name, teacher.epochs, teacher.batch_size) == ("resnet32x4", 240, 64)
    rates = [learning_rate(teacher.optimiser, epoch, 240) for epoch in (0, 149, 150, 180, 210, 239)]
    assert rates == pytest.approx([0.05, 0.05, 0.005, 0.0005, 0.00005, 0.00005]) and teacher.optimiser.momentum == 0.9
    assert (study.data.val_size, study.data.test_size, study.data.normalisation, len(study.seeds)) == (
        5000,
        None,
        "cifar100",
        5,
    )


@pytest.mark.parametrize("profile", studies.PROFILES)
def test_coinciding_cells_of_the_grid_are_one_run(profile):
    study = grid_study(profile)
    grid = study.grid()
    cells = {(s.distillation.temperature, s.distillation.kd_weight) for s in grid if s.distillation}
    assert cells == {(t, w) for t in study.temperatures for w in study.kd_weights if w}
    assert len(grid) == len({spec.key for spec in grid}) == len(cells) + 1 and study.student(study.seeds[0]) in grid
    assert len(grid) == 13 or profile != "paper"
    assert all(RunSpec(**dict(spec) | {"distillation": None}) == study.student(study.seeds[0]) for spec in grid)
    assert (
        all(spec.teachers in ((), (study.teacher(study.teacher_seeds[0]),)) for spec in grid)
        and study.teacher().data.views == 162
    )


def test_a_given_cell_takes_the_place_of_the_grid_and_the_student_alone_stays():
    grid = grid_study("quick", temperature=3, kd_weight=0.9).grid()
    assert (
        sorted((s.distillation.temperature, s.distillation.kd_weight) for s in grid if s.distillation) == [(3.0, 0.9)]
        and len(grid) == 2
    )


def test_study_d_tells_what_a_profile_changed():
    for profile in studies.PROFILES:
        setting = studies.cifar100(profile, "synthetic").setting
        assert ("stands in for ResNet32x4" in setting) == ("100 in the document" in setting) == (profile != "paper")


def test_beyond_the_document_the_students_differ_in_the_teacher_alone():
    arms = grid_study().beyond()
    for alone, taught in zip(arms["ResNet8x4 alone"], arms["ResNet8x4, KD"]):
        assert RunSpec(**dict(taught) | {"distillation": None}) == alone and taught.teachers == (
            grid_study().teacher(),
        )
    assert grid_study("quick").beyond() == {}


def test_studies_c_and_d_overnight_have_the_pinned_keys():
    """Of the runs behind reports/reference."""
    arms = teacher_init("overnight").arms()
    assert [specs[0].key for specs in arms.values()] == [
        "resnet18-ce912a8d865e10e0", "resnet18-e51503c7ad64b806", "sparse_cnn-ec343d6caf2da778", "sparse_cnn-dc74a93946cbddf7", "sparse_cnn-6dd463fc213e107f"]  # fmt: skip
    assert [spec.key for spec in grid_study("overnight").grid()] == [
        "cnn4-5f2060b08e331cba", "cnn4-77eb0d87343bc297", "cnn4-36a086b53ae9ef59", "cnn4-033b2b03b45e53bc", "cnn4-beaa1257e397aede"]  # fmt: skip
