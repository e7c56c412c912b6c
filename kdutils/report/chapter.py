"""How a chapter begins: its study, fitted to the data and weights that can be had here, and the page of its results."""

from pathlib import Path

from kdutils.data import datasets
from kdutils.data.views import VIEWS, split_indices
from kdutils.errors import Unavailable
from kdutils.networks import weights
from kdutils.networks.registry import build_model
from kdutils.report.page import Page
from kdutils.settings import settings
from kdutils.studies import Binary, Cifar100, Study, TeacherInit, study

_TITLES = {"wrn_16_1": "WRN-16-1", "wrn_16_7": "WRN-16-7", "wrn_22": "WRN-22 (16-16-32-64)"}


def open_study(name: str, profile: str = "quick", dataset: str = "auto", init: str | None = None, **given) -> Study:
    """The study `name` (`kdutils.studies.study`) on what can be had here; prints what stands in for what cannot.

    dataset: "cifar" or its name for the study's own set, "synthetic", or "auto": its own where it can be had. init:
    "imagenet", "random", "pretrain:cifar100", or "auto": the first that can be had; None: the study's, not looked for.
    Raises `InputError` before anything is run: for what cannot be had, too few images, a file that does not fit.
    """
    if given.get("teacher_file"):
        given["teacher_file"] = str(Path(given["teacher_file"]).expanduser().absolute())
    plan = study(name, profile, **given)
    own = plan.data.name
    if dataset == "auto" and not datasets.available(own):
        print(f"{datasets.TITLES[own]} is not here and cannot be downloaded: the synthetic data set stands in.")
        dataset = "synthetic"
    given["dataset"] = own if dataset in ("auto", "cifar") else dataset
    plan = study(name, profile, **given | ({} if init is None else _start(plan, init)))
    on_others = isinstance(plan, TeacherInit) and plan.init != "imagenet"
    for data in [plan.data, *([plan.teacher(pretrained=True).init.data] if on_others else [])]:
        split_indices(datasets.load_dataset(data.name).train_labels, *data.split)
    if isinstance(plan, Cifar100) and plan.teacher_file:
        weights.load_weights_file(build_model("resnet32x4", plan.data.num_classes), Path(plan.teacher_file))
    return plan


def open_chapter(name: str, profile: str = "quick", dataset: str = "auto", **given) -> tuple[Study, Page]:
    """The study (`open_study`) and the page of a chapter, whose captions end in what the study's numbers hold for."""
    opened = open_study(name, profile, dataset, **given)
    return opened, Page(_setting(opened))


def _start(plan: Study, init: str) -> dict[str, str]:
    """The fields of `plan` that say where its networks start."""
    pretrains = isinstance(plan, TeacherInit)
    networks, other = ((plan.network,), "pretrain:cifar100") if pretrains else (plan.IMAGENET, "random")
    if init not in ("auto", "imagenet") or not networks:
        return {"init": other if init in ("auto", "random") else init}
    if not (missing := [network for network in networks if not weights.available(network)]):
        return {"init": "imagenet"}
    sentence = f"ImageNet's weights of {missing[0]} are not here and cannot be downloaded"
    if missing == ["resnet101"] and weights.available("resnet50"):
        print(f"{sentence}: resnet50 stands in.")
        return {"init": "imagenet", "network": "resnet50"}
    if init == "imagenet":
        place = settings().data_dir / "imagenet" / f"{missing[0]}.safetensors"
        raise Unavailable(f"{sentence}: put them into {place}, or give init=auto")
    print(f"{sentence}: {'weights from another data set' if pretrains else 'random weights'} stand in.")
    return {"init": other}


def _setting(plan: Study) -> str:
    """For captions: what a study's numbers hold for."""
    images, data = datasets.load_dataset(plan.data.name), plan.data
    train = data.train_size or len(images.train_labels) - data.val_size
    test = min(data.test_size or len(images.test_labels), len(images.test_labels))
    sizes = f"{train:,} training{f', {data.val_size:,} validation' if data.val_size else ''} and {test:,} test images"
    seeds = f"{data.views} of {VIEWS} views, {len(plan.seeds)} seed{'s' * (len(plan.seeds) > 1)}"
    return f"{images.title[0].upper()}{images.title[1:]}: {sizes}, {seeds}; profile {plan.profile}.{_remark(plan)}"


def _remark(plan: Study) -> str:
    """What a study does otherwise than its document, here and in this profile."""
    if isinstance(plan, TeacherInit):
        stand_in = "" if plan.network == "resnet101" else ", which stand in for ResNet101"
        others = "other synthetic images" if plan.data.name == "synthetic" else "CIFAR-100"
        start = "ImageNet's weights" if plan.init == "imagenet" else f"weights trained on {others}"
        teachers = f"{plan.network.replace('resnet', 'ResNet')}s{stand_in}, trained in all {VIEWS} views"
        return f" Teachers are {teachers}; the pretrained one starts from {start}."
    if isinstance(plan, Cifar100):
        if plan.teacher_file:
            return f" The teacher is {Path(plan.teacher_file).name}; nothing is known here of the images it has seen."
        stand_in = "" if plan.network == "resnet32x4" else ", which stands in for ResNet32x4"
        epochs = f"{plan.teacher_epochs} epoch{'s' * (plan.teacher_epochs > 1)}"
        students = (
            f"; students train {plan.epochs} epochs with batches of {plan.batch_size}, 100 with 128 in the document"
        )
        return (
            f" The teacher is {plan.network}{stand_in}, {epochs} in all {VIEWS} views{students * (plan.epochs != 100)}."
        )
    remark = " The ResNets start from random weights." * (plan.init == "random")
    if isinstance(plan, Binary):
        wide, rate = _TITLES[plan.network.name], f"{plan.learning_rate:g}"
        remark += f" {wide} stands in for WRN-16-7." * (wide != "WRN-16-7")
        remark += f" Learning rate {rate} for the short schedule, 0.01 in the document." * (rate != "0.01")
    return remark
