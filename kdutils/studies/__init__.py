"""The studies as data: methods that return RunSpecs. Reading one tells its protocol without reading the trainer."""

from pydantic import ValidationError

from kdutils.errors import InputError
from kdutils.studies.assignment import Assignment
from kdutils.studies.base import Study
from kdutils.studies.binary import LABELS as LABELS, Binary
from kdutils.studies.cifar100 import Cifar100
from kdutils.studies.methods import Methods
from kdutils.studies.teacher_init import TeacherInit
from kdutils.values import explain

PROFILES = {
    "smoke": "a test that everything runs; its numbers mean nothing",
    "quick": "fewer images and epochs than the documents’ protocols",
    "overnight": "all images that the documents use: a night of two CPU cores for study A, several for another",
    "paper": "the documents’ full protocols",
}
STUDIES = {"assignment": Assignment, "binary": Binary, "teacher-init": TeacherInit, "cifar100": Cifar100}
STUDIES["methods"] = Methods


def study(name: str, profile: str = "quick", own: dict | None = None, **given) -> Study:
    """The study `name` in a profile's sizes (smoke, quick, overnight, paper); nothing is looked up, loaded or run.

    given: the study's fields by name, None for the profile's value; also `dataset` (the study's, or synthetic), and one
    `temperature` or `kd_weight` instead of several. own: fields of the `DataSpec` of the user's own data set.
    Raises `InputError` for values that this study cannot have.
    """
    for what, word, known in (("study", name, STUDIES), ("profile", profile, PROFILES)):
        if word not in known:
            raise InputError(f"unknown {what} {word!r}: allowed are {', '.join(known)}")
    kind, usual = STUDIES[name], STUDIES[name].model_fields["data"].default
    given = {field: tuple(value) if isinstance(value, list) else value for field, value in given.items()}
    given |= {f"{one}s": (given.pop(one),) for one in ("temperature", "kd_weight") if given.get(one) is not None}
    given = {field: value for field, value in given.items() if value is not None}
    dataset = given.pop("dataset", usual.name)
    if dataset not in (usual.name, "synthetic") and not (own and kind.TAKES_OWN_DATA):
        others = f"; one's own data are for {', '.join(each for each in STUDIES if STUDIES[each].TAKES_OWN_DATA)}"
        allowed = f"allowed are auto, cifar, {usual.name} and synthetic"
        raise InputError(f"dataset of study {name}: {allowed}, got {dataset!r}{others * bool(own)}")
    sizes = kind.PROFILES.get(profile, {})  # the field defaults are the paper's
    try:
        data = usual.with_(**{"name": dataset} | sizes.get("data", {}) | (own or {}))
        return kind(**sizes | {"profile": profile, "data": data} | given)
    except ValidationError as error:
        raise InputError(explain(error)) from None
