"""Specs refuse what cannot be meant, and are named by their content alone."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

import pytest
from pydantic import ValidationError

from kdutils.distillation.methods import KD
from kdutils.errors import InputError
from kdutils.specs import Bayesian, DataSpec, Distillation, ModelSpec, OptimiserSpec, RunSpec
from kdutils.values import explain


def cnn(**changes) -> RunSpec:
    return RunSpec(**{"data": DataSpec(name="synthetic"), "model": ModelSpec(name="small_cnn"), "epochs": 2} | changes)


def resnet(**changes) -> RunSpec:
    return cnn(**{"model": ModelSpec(name="resnet18")} | changes)


def taught(*teachers: RunSpec, **changes) -> RunSpec:
    given = {name: changes.pop(name) for name in list(changes) if name in KD.model_fields}
    method = KD(**{"temperature": 4.0, "kd_weight": 0.5} | given)
    return cnn(distillation=Distillation(teachers=teachers, method=method), **changes)


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
        lambda: OptimiserSpec(name="sgd", momentum=1.0),
        lambda: OptimiserSpec(momentum=0.9),
        lambda: OptimiserSpec(weight_decay=-1e-4),
        lambda: OptimiserSpec(name="lbfgs"),
        lambda: OptimiserSpec(schedule="cosine"),
        lambda: OptimiserSpec(schedule="step", milestones=(1.5,)),
        lambda: OptimiserSpec(schedule="step", milestones=(-1,)),
        lambda: OptimiserSpec(milestones=(1,)),
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
        (lambda: cnn(init=resnet()), ["small_cnn", "resnet18", "same network"]),
        (lambda: wrn("bonn", init=wrn("xnor")), ["'bonn'", "'xnor'", "same network"]),
        (lambda: cnn(init=cnn(data=DataSpec(name="cifar10"))), ["synthetic", "cifar10", "same data set"]),
        (lambda: cnn(bayesian=Bayesian()), ["small_cnn", "bonn", "none"]),
        (lambda: wrn("xnor", bayesian=Bayesian()), ["wrn_22", "bonn", "xnor"]),
    ],
)
def test_errors_name_what_was_given_and_what_is_allowed(make, words):
    with pytest.raises(ValidationError) as error:
        make()
    assert all(word in str(error.value) for word in words)


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
    assert [spec.weights_file for spec in (files[0], files[3])] == [Path.cwd() / "a.pth", Path.cwd() / "b.pth"]
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


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "mnist"},
        {"name": "mnist", "classes": 10},
        {"name": "mnist", "digest": "f1"},
        {"name": "cifar10", "classes": 10, "digest": "f1"},
    ],
)
def test_a_data_set_is_known_by_its_name_or_is_ones_own_with_classes_and_digest(fields):
    with pytest.raises(ValidationError, match="name: allowed are cifar10, cifar100,.* or one's own with its classes"):
        DataSpec(**fields)


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
OWN = DataSpec(name="flowers", classes=3, digest="f1")
OPTIMISER_CHANGES = {"name": "sgd", "learning_rate": 2e-3, "weight_decay": 1e-4}
OPTIMISER_CHANGES |= {"schedule": "step", "factor": 0.2}
BAYESIAN_CHANGES = {"kernel_weight": 0.0, "nu": 1e-3, "feature_weight": 1e-2}
KD_CHANGES = {"temperature": 3.0, "kd_weight": 0.4, "ce_weight": 0.6, "average": "probabilities", "warmup": 5}


def test_ones_own_data_that_were_replaced_are_another_data_set():
    old, new = (cnn(data=OWN.with_(digest=digest)) for digest in ("f1", "f2"))
    with pytest.raises(
        ValidationError, match="knows flowers .3 classes, digest f1.*learns flowers .3 classes, digest f2"
    ):
        new.with_(distillation=Distillation(teachers=(old,), method=KD()))
    with pytest.raises(ValidationError, match="on the same data set.*digest f1"):
        new.with_(init=old)
    assert old.with_(init=old, seed=1) and old.with_(distillation=Distillation(teachers=(old,), method=KD()))


def test_a_home_that_is_nobodys_is_one_sentence():
    with pytest.raises(InputError, match="no such home folder"):
        cnn(init="file:~nobody-here/x.pt").weights_file  # noqa: B018


def test_every_field_changes_the_key():
    changed = [resnet(**{name: value}) for name, value in CHANGES.items()]
    changed += [resnet(data=DataSpec(**{"name": "synthetic"} | {name: value})) for name, value in DATA_CHANGES.items()]
    changed += [resnet(data=OWN.with_(**change)) for change in ({}, {"classes": 4}, {"digest": "f2"}, {"name": "pets"})]
    changed += [resnet(optimiser=OptimiserSpec(**{name: value})) for name, value in OPTIMISER_CHANGES.items()]
    changed += [resnet(optimiser=OptimiserSpec(name="sgd", momentum=0.9))]
    changed += [resnet(optimiser=OptimiserSpec(schedule="step", milestones=(3,)))]
    changed += [resnet(model=ModelSpec(name="resnet18", options={"stem": stem})) for stem in ("cifar", "imagenet")]
    changed += [taught(resnet(), **{name: value}) for name, value in KD_CHANGES.items()]
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
    assert set(CHANGES) | {"bayesian"} == set(RunSpec.model_fields)
    assert set(BAYESIAN_CHANGES) == set(Bayesian.model_fields)
    assert set(DATA_CHANGES) | {"classes", "digest"} == set(DataSpec.model_fields)  # the two of `OWN`
    assert set(OPTIMISER_CHANGES) | {"momentum", "milestones"} == set(OptimiserSpec.model_fields)  # not of each
    assert set(KD_CHANGES) | {"name"} == set(KD.model_fields)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (wrn(), cnn(model=ModelSpec(name="wrn_22", options={"width": 16, "dropout": 0.0, "precision": "bonn"}))),
        (resnet(), resnet(model=ModelSpec(name="resnet18", options={"stem": "cifar_pool"}))),
        (
            cnn(model=ModelSpec(name="wrn_22", options={"width": 16})),
            cnn(model=ModelSpec(name="wrn_22", options={"width": 16.0, "dropout": 0})),
        ),
        (taught(resnet(), kd_weight=0), taught(resnet(), kd_weight=-0.0, ce_weight=1)),
        (taught(resnet(), temperature=4), taught(resnet(), temperature=4.0, ce_weight=0.5, average="logits")),
        (cnn(optimiser=OptimiserSpec(weight_decay=0)), cnn(optimiser=OptimiserSpec(weight_decay=-0.0))),
        tuple(cnn(model=ModelSpec(name="reduced_cnn", options={"dropout": zero})) for zero in (0.0, -0.0)),
    ],
)
def test_equal_specs_have_equal_keys_and_hashes(one, other):
    assert one == other and one.key == other.key and hash(one) == hash(other) and len({one, other}) == 1


def test_every_spec_hashes_and_other_specs_are_other_members_of_a_set():
    specs = [cnn(), wrn(), taught(resnet()), resnet(init=resnet()), wrn(bayesian=Bayesian()), cnn(seed=1)]
    assert len({*specs, *(RunSpec.model_validate_json(spec.model_dump_json()) for spec in specs)}) == len(specs)


def test_with_changes_one_field_and_checks_it():
    assert cnn().with_(seed=3) == cnn(seed=3) and cnn().with_() == cnn()
    with pytest.raises(ValidationError):
        cnn().with_(epochs=0)


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


def named(network: str, content: str) -> str:
    return f"{network}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


DATA = '"data": {"name": "cifar10", "train_size": 9000, "val_size": 1000}'


def test_keys_of_recorded_runs_are_pinned():
    """By hand-written JSON and SHA-256: were they to change, every recorded run would be lost."""
    data = DataSpec(name="cifar10", train_size=9000, val_size=1000)
    alone = RunSpec(data=data, model=ModelSpec(name="small_cnn"), epochs=30)
    teacher = RunSpec(
        data=data,
        model=ModelSpec(name="resnet50", options={"stem": "imagenet"}),
        init="imagenet",
        optimiser=OptimiserSpec(learning_rate=1e-4),
        epochs=20,
    )
    student = alone.with_(distillation=Distillation(teachers=(teacher,), method=KD(temperature=4.0, kd_weight=0.9)))
    assert alone.key == named("small_cnn", f'{{{DATA}, "epochs": 30, "model": {{"name": "small_cnn"}}}}')
    theirs = f'{{{DATA}, "epochs": 20, "init": "imagenet", "model": {{"name": "resnet50", "options": {{"stem": '
    theirs += '"imagenet"}}, "optimiser": {"learning_rate": 0.0001, "name": "adam"}}'
    assert teacher.key == named("resnet50", theirs)
    method = '{"ce_weight": 0.1, "kd_weight": 0.9, "name": "kd", "temperature": 4.0}'
    distilled = f'"distillation": {{"method": {method}, "teachers": [{theirs}]}}'
    assert student.key == named("small_cnn", f'{{{DATA}, {distilled}, "epochs": 30, "model": {{"name": "small_cnn"}}}}')


def test_keys_of_binary_runs_are_pinned():
    data, optimiser = DataSpec(name="cifar10", normalisation="half"), OptimiserSpec(weight_decay=1e-5)
    network = ModelSpec(name="wrn_22", options={"precision": "bonn", "dropout": 0.3})
    common = {"data": data, "model": network, "optimiser": optimiser, "epochs": 60, "batch_size": 128}
    spec = RunSpec(**common, bayesian=Bayesian(), test_curve=True)
    model = '"model": {"name": "wrn_22", "options": {"dropout": 0.3, "precision": "bonn"}}'
    where = '"data": {"name": "cifar10", "normalisation": "half"}'
    content = f'{{"batch_size": 128, "bayesian": {{}}, {where}, "epochs": 60, {model}, '
    content += '"optimiser": {"name": "adam", "weight_decay": 1e-05}, "test_curve": true}'
    assert spec.key == named("wrn_22", content)
    finer = RunSpec(data=data, model=network, init=spec, epochs=5, bayesian=Bayesian(feature_weight=1e-2))
    later = f'{{"bayesian": {{"feature_weight": 0.01}}, {where}, "epochs": 5, "init": {content}, {model}}}'
    assert finer.key == named("wrn_22", later)


def test_json_round_trip_keeps_value_and_key():
    spec = taught(
        resnet(optimiser=OptimiserSpec(schedule="step", milestones=(1, 2), learning_rate=1 / 3)),
        resnet(seed=1),
        average="probabilities",
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


def test_only_resized_images_have_a_size():
    assert ModelSpec(name="resnet18", options={"stem": "resized", "size": 64}).option("size") == 64
    with pytest.raises(ValidationError, match="size 64 is an option of the stem 'resized'"):
        ModelSpec(name="resnet18", options={"stem": "imagenet", "size": 64})


def test_a_frozen_teachers_start_is_needed_too():
    """Its answers are computed from the features of what it started from."""
    data, model = DataSpec(name="synthetic"), ModelSpec(name="resnet18", options={"stem": "resized"})
    start = RunSpec(data=data, model=model, epochs=1)
    head = start.with_(init=start, trainable="head")
    method = KD(temperature=2.0, kd_weight=0.5)
    for teacher, needed in ((head, (head, start)), (head.with_(trainable="all"), (head.with_(trainable="all"),))):
        taught = RunSpec(
            data=data,
            model=ModelSpec(name="small_cnn"),
            epochs=1,
            distillation=Distillation(teachers=(teacher,), method=method),
        )
        assert taught.needs == needed
