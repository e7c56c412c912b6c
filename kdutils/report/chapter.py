"""Opens a chapter: its study, fitted to the data and weights that are available here, and the page of its results."""

from pathlib import Path

import pandas as pd

from kdutils.data import datasets
from kdutils.data.views import VIEWS, split_indices
from kdutils.errors import InputError, Unavailable
from kdutils.networks import weights
from kdutils.networks.registry import build_model
from kdutils.report.page import Page
from kdutils.report.statistics import Arms
from kdutils.settings import absolute, settings
from kdutils.studies import STUDIES, Assignment, Binary, Cifar100, Study, TeacherInit, study
from kdutils.studies.base import Training

_TITLES = {"wrn_10_1": "WRN-10-1", "wrn_16_1": "WRN-16-1", "wrn_16_7": "WRN-16-7"}


def open_study(name: str, profile: str = "quick", dataset: str = "auto", init: str | None = None, **given) -> Study:
    """The study `name` (`kdutils.studies.study`) on available data and weights; prints what stands in for missing ones.

    dataset: the study's ("cifar" or its name), "synthetic", one's own, or "auto": the study's if available. init:
    "imagenet", "random", "pretrain:cifar100", "auto" (the first available), or None (weights are not looked for).
    Raises `InputError` before anything is run: for missing data or weights, too few images, a file that does not fit.
    """
    if given.get("teacher_file"):
        given["teacher_file"] = str(absolute(given["teacher_file"]))
    plan = study(name, profile, **given)
    usual = plan.data.name
    if not isinstance(dataset, str):
        raise InputError(f"dataset: a name is needed, such as auto or cifar, got {dataset!r}")
    if dataset == "auto" and not datasets.available(usual):
        print(f"{datasets.TITLES[usual]} is not here and cannot be downloaded: the synthetic data set stands in.")
        dataset = "synthetic"
    given["dataset"] = usual if dataset in ("auto", "cifar") else dataset
    if given["dataset"] not in datasets.DATASETS:
        given["own"] = _fitted(plan, datasets.load_dataset(dataset))
    plan = study(name, profile, **given | ({} if init is None else _start(plan, init)))
    on_others = isinstance(plan, TeacherInit) and plan.init != "imagenet"
    for data in [plan.data, *([plan.teacher(pretrained=True).init.data] if on_others else [])]:
        split_indices(datasets.load_dataset(data.name).train_labels, *data.split)
    if isinstance(plan, Cifar100) and plan.teacher_file:
        weights.load_weights_file(build_model("resnet32x4", plan.data.num_classes), Path(plan.teacher_file))
    return plan


def open_chapter(name: str, profile: str = "quick", dataset: str = "auto", **given) -> tuple[Study, Page]:
    """A chapter's study (`open_study`) and its page, which begins with places for its answer and run time, and with the
    setting that its numbers hold for. Captions end in that setting's short form.
    """
    opened = open_study(name, profile, dataset, **given)
    page = Page(_short(opened))
    page.open_top()
    page.table(setting_table(opened), "setting", "What the numbers of this chapter hold for, beside the full protocol.")
    return opened, page


def _fitted(plan: Study, images: datasets.Dataset) -> dict:
    """The `DataSpec` fields of one's own data set, with `plan`'s sizes or, which is printed, smaller ones that fit."""
    there, data, classes = len(images.train_labels), plan.data, len(images.classes)
    if there < 2 * classes:
        raise InputError(
            f"{images.title} has {there:,} training images of {classes:,} classes, too few to train and to validate "
            f"with: at least {2 * classes:,} are needed, so add images"
        )
    own = {"name": images.name, "classes": classes, "digest": images.digest}
    if (data.train_size or 1) + data.val_size > there:
        val = min(data.val_size, max(1, there // 5))
        own |= {"train_size": min(data.train_size or there, there - val), "val_size": val}
        if not settings().chapter:  # else the suite has printed it for all chapters
            sizes = f"{own['train_size']:,} train and {val:,} validate"
            print(f"{_title(images.name)} has {there:,} training images: {sizes}.")
    return own


def _start(plan: Study, init: str) -> dict[str, str]:
    """The fields of `plan` that say where its networks start."""
    other = {"init": "pretrain:cifar100" if isinstance(plan, TeacherInit) else "random"}
    if init not in ("auto", "imagenet") or not plan.imagenet_networks:
        if init == "random" and isinstance(plan, TeacherInit):
            print(
                "Study C compares a pretrained teacher in any case: without ImageNet's weights, one from other images."
            )
        if init == "imagenet":
            print("No network here has ImageNet's weights: random weights stand in.")
        return other if init in ("auto", "imagenet", "random") else {"init": init}
    if not (missing := [network for network in plan.imagenet_networks if not weights.available(network)]):
        return {"init": "imagenet"}
    sentence = f"ImageNet's weights of {missing[0]} are not here and cannot be downloaded"
    if missing == ["resnet101"] and weights.available("resnet50"):
        print(f"{sentence}: resnet50 stands in.")
        return {"init": "imagenet", "network": "resnet50"}
    if init == "imagenet":
        place = settings().data_dir / "imagenet" / f"{missing[0]}.safetensors"
        raise Unavailable(f"{sentence}: put them into {place}, or give init=auto")
    stand_in = "in study C, weights from another data set" if isinstance(plan, TeacherInit) else "random weights"
    print(f"{sentence}: {stand_in} stand in.")
    return other


def setting_of(plan: Study, arms: Arms) -> str:
    """The short setting for captions of runs that are trained differently from the study's first ones."""
    if not (specs := [record.spec for records in arms.values() for record in records]):
        return _short(plan)
    trained = [Training(optimiser=each.optimiser, epochs=each.epochs, batch_size=each.batch_size) for each in specs]
    seeds = tuple(sorted({spec.seed for spec in specs}))
    return _short(
        plan.with_(data=specs[0].data, seeds=seeds), ("these runs", " or ".join(dict.fromkeys(map(str, trained))))
    )


def _short(plan: Study, trained: tuple[str, str] | None = None) -> str:
    """The short setting of a study's numbers, for captions; `trained`: which networks were trained, and how."""
    sizes, (who, training) = _sizes(plan), trained or next(iter(plan.trainings.items()))
    later = {"validation": " (later trained on)"} if isinstance(plan, Cifar100) and plan.retrain else {}
    images = [f"{size} {kind}{later.get(kind, '')}" for kind, size in sizes.items()]
    seeds = f"{len(plan.seeds)} seed{'s' * (len(plan.seeds) > 1)}"
    here, there = _stand_in(plan)
    stand_in = f", {here} for {there}" if here != there else ""
    setting = f"{_title(plan.data.name)}: {', '.join(images[:-1])} and {images[-1]} images, {seeds}"
    return f"{setting}; profile {plan.profile} ({who}: {training}{stand_in})."


def setting_table(plan: Study) -> pd.DataFrame:
    """A table of a study's setting beside the full protocol: data, sizes, views, seeds, trainings, teachers."""
    name = next(name for name, kind in STUDIES.items() if type(plan) is kind)
    here, there = _facts(plan), _facts(study(name, "paper"))
    rows = [(what, here.get(what, "–"), there.get(what, "–")) for what in here | there]
    return pd.DataFrame(rows, columns=["what", f"here (profile {plan.profile})", "full protocol (profile paper)"])


def _facts(plan: Study) -> dict[str, str]:
    sizes = _sizes(plan) if plan.profile != "paper" or plan.data.digest else {}
    facts = {"data": _title(plan.data.name) if sizes else datasets.TITLES[plan.data.name]}
    if plan.data.digest:
        images = datasets.load_dataset(plan.data.name)
        there = f"{len(images.train_labels):,} to train and to validate with, {len(images.test_labels):,} to test with"
        error = f"{50 / len(images.test_labels) ** 0.5:.1f} points"  # binomial, at an accuracy of 50 %
        facts |= {"images that there are": f"{there}; a profile takes no more", "classes": str(plan.data.num_classes)}
        facts |= {"standard error of an accuracy": f"up to {error}, for so many test images"}
    given = {"training": plan.data.train_size, "validation": plan.data.val_size, "test": plan.data.test_size}
    for kind, size in given.items():
        facts[f"{kind} images"] = sizes.get(kind, "all" if size is None else f"{size:,}")
    if isinstance(plan, Cifar100) and plan.retrain:
        facts["last training"] = "on the validation images, too, when these have chosen"
    facts |= {"views of an image": f"{plan.data.views} of {VIEWS}", "seeds of students": str(len(plan.seeds))}
    facts |= {"seeds of teachers": str(len(plan.teacher_seeds))}
    facts |= {f"training of {who}": str(training) for who, training in plan.trainings.items()}
    return facts | _networks(plan)


def _title(dataset: str) -> str:
    """A data set's title with a capital letter, to begin a sentence."""
    title = datasets.load_dataset(dataset).title
    return f"{title[0].upper()}{title[1:]}"


def _sizes(plan: Study) -> dict[str, str]:
    """Numbers of images by kind, as texts; for test images also the number that ResNets see, if it is smaller."""
    images, data = datasets.load_dataset(plan.data.name), plan.data
    tests = min(data.test_size or len(images.test_labels), len(images.test_labels))
    sizes = {"training": data.train_size or len(images.train_labels) - data.val_size, "validation": data.val_size}
    shown = {kind: f"{size:,}" for kind, size in (sizes | {"test": tests}).items() if size}
    if plan.resnet_tests and plan.resnet_tests < tests:
        shown["test"] += f" (ResNets: {plan.resnet_tests:,})"
    return shown


def _stand_in(plan: Study) -> tuple[str, str]:
    """The network that a profile may replace: its name here, and in the document."""
    match plan:
        case Binary():
            name, width = plan.network.name, plan.network.option("width")
            wide = f"WRN-22 ({width}-{width}-{2 * width}-{4 * width})" if name == "wrn_22" else name
            return _TITLES.get(name, wide), "WRN-16-7"
        case Cifar100() if not plan.teacher_file:
            return plan.network.replace("resnet", "ResNet"), "ResNet32x4"
        case TeacherInit():
            return plan.network.replace("resnet", "ResNet"), "ResNet101"
    return "", ""


def _networks(plan: Study) -> dict[str, str]:
    """What a study's networks are, and which weights they start from."""
    name, head = _stand_in(plan)[0], "a head on it frozen, which sees images resized to {} pixels".format
    origin = {"imagenet": "ImageNet's weights", "random": "random weights"}
    match plan:
        case Assignment():
            form = head(plan.sizes[-1]) if plan.has_frozen_teacher else "all layers trained, 3x3 stem"
            return {"teachers": f"ResNet18 and ResNet50 from {origin[plan.init]}: {form}"}
        case Binary():
            form = head(96) if plan.has_frozen_teacher else "all layers trained, 3x3 stem"
            rest = "the training" if plan.data.val_size else "all but 5,000 training"
            images = f"{plan.lambda_images:,}" if plan.lambda_images else rest
            return {
                "WideResNet": name,
                "lambda of BONN": f"{plan.kernel_weight:g}",
                "lambda looked at with": f"{images} images, {plan.lambda_epochs or plan.wide.epochs} epochs",
                "teacher": f"ResNet18 from {origin[plan.init]}: {form}",
            }
        case TeacherInit():
            other = "other synthetic images" if plan.data.name == "synthetic" else "CIFAR-100"
            stem = f"images resized to {plan.size} pixels" if plan.resizes else "3x3 stem"
            start = "ImageNet" if plan.init == "imagenet" else other
            return {"teachers": f"{name}, {stem}, in all {VIEWS} views", "the pretrained one starts from": start}
        case Cifar100() if plan.teacher_file:
            return {"teacher": f"{Path(plan.teacher_file).name}; nothing is known here of the images it has seen"}
        case Cifar100():
            form = head(plan.frozen_size) if plan.has_frozen_teacher else f"all layers trained in all {VIEWS} views"
            return {"teacher": f"{name} from {origin[plan.init]}: {form}"}
    return {}
