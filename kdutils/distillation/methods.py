"""The methods of distillation by name: each is a frozen value with its parameters; and the function of their loss."""

import inspect
import math
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, get_args, get_type_hints

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, TypeAdapter, ValidationError, create_model, model_validator

from kdutils.distillation import losses
from kdutils.distillation.losses import Terms, Weight
from kdutils.errors import InputError
from kdutils.values import Temperature, Value, explain

_WEIGHT = TypeAdapter(Weight, config=Value.model_config)
SEVERAL = (2, math.inf)  # the fewest and the most teachers


class Method(Value):
    """What every method has: the loss ce_weight CE + kd_weight min(epoch / warmup, 1) kd, with epochs counted from 1.

    `formula` computes `kd` from the logits and the parameters that a method adds to those below. A method also says
    how many teachers it takes, and the fewest classes and images of a batch that its loss can learn from.
    """

    formula: ClassVar[Callable[..., Terms]]
    teachers: ClassVar[tuple[int, float]] = (1, 1)
    classes: ClassVar[int] = 2
    images: ClassVar[int] = 1

    name: str
    ce_weight: Weight = 1.0
    kd_weight: Weight = 1.0
    warmup: PositiveInt = 1  # epochs; 1: no warm-up

    def check(self, teachers: int, classes: int, images: int) -> None:
        """Raise `InputError` if the method cannot learn from so many teachers, classes, or images of a batch."""
        fewest, most = self.teachers
        if not fewest <= teachers <= most:
            takes = "one teacher" if most == 1 else f"at least {fewest} teachers"
            suited = [name for name, of in METHODS.items() if of.teachers[0] <= teachers <= of.teachers[1]]
            raise InputError(f"{self.name} takes {takes}, got {teachers}: {', '.join(suited)} take that many")
        if classes < self.classes:
            raise InputError(
                f"{self.name} needs at least {self.classes} classes, got {classes}: its part for the classes other "
                "than the label vanishes, take kd"
            )
        if images < self.images:
            raise InputError(f"{self.name} compares the images of a batch and needs at least {self.images} of them")


class KD(Method):
    """Knowledge distillation with soft targets (`losses.kd`); a `ce_weight` that is not given is 1 - kd_weight."""

    formula = losses.kd
    teachers = (1, math.inf)
    name: Literal["kd"] = "kd"
    temperature: Temperature
    kd_weight: Weight
    ce_weight: Weight
    average: Literal["logits", "probabilities"] = "logits"

    @model_validator(mode="before")
    @classmethod
    def _complement(cls, fields: dict[str, Any]) -> dict[str, Any]:
        fields = {"temperature": 4.0, "kd_weight": 0.9} | fields  # not field defaults, which run keys leave out
        if fields.get("ce_weight") is not None:
            return fields
        try:
            weight = _WEIGHT.validate_python(fields["kd_weight"])
        except ValidationError:
            return fields | {"ce_weight": 0.0}  # validation then refuses the kd_weight
        if weight > 1:
            raise ValueError(f"a kd_weight above 1 needs a ce_weight of its own (got kd_weight {weight})")
        return fields | {"ce_weight": round(1.0 - weight, 12)}


def method_class(
    name: str,
    formula: Callable[..., Terms],
    teachers: tuple[int, float] = (1, 1),
    classes: int = 2,
    images: int = 1,
    **defaults: float,
) -> type[Method]:
    """The `Method` class `name`; the method has its formula's name, and the parameters and defaults of its signature.

    teachers, classes, images: as in `Method`; defaults: of `Method`'s parameters, where they differ from its own.
    Raises `InputError` unless the formula takes two logits and `labels`, and then what has a type and a default.
    """
    given = list(inspect.signature(formula).parameters.values())
    if [each.name for each in given[2:3]] != ["labels"]:
        needed = "the student's and the teacher's logits, and labels"
        raise InputError(f"{formula.__name__}: its first parameters are {needed}")
    own = given[3:]
    values = defaults | {parameter.name: parameter.default for parameter in own}
    types = get_type_hints(Method, include_extras=True) | get_type_hints(formula, include_extras=True)
    if bare := [each.name for each in own if each.name not in types or each.default is each.empty]:
        raise InputError(f"{formula.__name__}: its parameter {bare[0]!r} needs a type and a default")
    fields = {field: (types[field], value) for field, value in values.items()}
    fields["name"] = Literal[formula.__name__], formula.__name__
    made = create_model(name, __base__=Method, __module__=__name__, __doc__=formula.__doc__, **fields)
    made.formula, made.teachers, made.classes, made.images = formula, teachers, classes, images
    return made


LSKD = method_class("LSKD", losses.lskd, classes=3, ce_weight=0.1, kd_weight=9.0)
DKD = method_class("DKD", losses.dkd, classes=3, warmup=20)
DKDLSKD = method_class("DKDLSKD", losses.dkd_lskd, classes=3, kd_weight=9.0, warmup=20)
DIST = method_class("DIST", losses.dist, images=2, kd_weight=2.0)
TTM = method_class("TTM", losses.ttm, kd_weight=100.0)
WTTM = method_class("WTTM", losses.wttm, kd_weight=3.0)
RLD = method_class("RLD", losses.rld, classes=3, warmup=20)
NKD = method_class("NKD", losses.nkd, classes=3)
MLKDWeak = method_class("MLKDWeak", losses.mlkd_weak, ce_weight=0.1, kd_weight=0.9)
MTAverage = method_class("MTAverage", losses.mt_average, SEVERAL)
MTEBKD = method_class("MTEBKD", losses.mt_ebkd, SEVERAL)
MTCAMKD = method_class("MTCAMKD", losses.mt_camkd, SEVERAL)


class MTAEKD(method_class("MTAEKD", losses.mt_aekd, SEVERAL, kd_weight=0.9)):
    """Several teachers weighed by what their gradients agree on (`losses.mt_aekd`)."""

    def check(self, teachers: int, classes: int, images: int) -> None:
        """The same as for every method; C must also be large enough for the weights of all teachers to sum to 1."""
        super().check(teachers, classes, images)
        if self.C * teachers < 1:
            raise InputError(f"C must be at least {1 / teachers:.3g} for {teachers} teachers, got {self.C}")


_Any = KD | LSKD | DKD | DKDLSKD | DIST | TTM | WTTM | RLD | NKD | MLKDWeak | MTAverage | MTEBKD | MTCAMKD | MTAEKD
AnyMethod = Annotated[_Any, Field(discriminator="name")]

METHODS: dict[str, type[Method]] = {method.model_fields["name"].default: method for method in get_args(_Any)}
"""The methods by name."""


def build_method(name: str, **parameters: Any) -> Method:
    """The method `name` with `parameters`; those not given have the authors' values.

    Raises `InputError`, which names what is allowed, for an unknown name or parameter or a value that is not allowed.
    """
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}: allowed are {', '.join(METHODS)}")
    allowed = METHODS[name].model_fields.keys() - {"name"}
    for unknown in parameters.keys() - allowed:
        raise InputError(f"{name} has no parameter {unknown!r}: allowed are {', '.join(sorted(allowed))}")
    try:
        return METHODS[name](**parameters)
    except ValidationError as error:
        raise InputError(f"{name}, {explain(error)}") from None


def method_loss(
    method: str | Method,
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    epoch: int = 1,
    **parameters: Any,
) -> tuple[torch.Tensor, Terms]:
    """The loss of a batch in epoch `epoch`, counted from 1, and its terms without weights: `ce`, `kd` and kd's parts.

    method: a `Method`, or a name with `parameters` (`build_method`); student_logits: [B, classes]; teacher_logits: the
    same or [teachers, B, classes], no gradient flows into them; labels: integers [B]. Returns scalars (nats), float64
    if any logits are, else float32, under autocast too. Raises `InputError` if the method is not allowed or cannot
    learn from these shapes.
    """
    if isinstance(method, str):
        method = build_method(method, **parameters)
    elif parameters:
        raise InputError(
            f"parameters ({', '.join(parameters)}) go with a method's name; this {method.name} has its own"
        )
    teachers = teacher_logits if teacher_logits.dim() == 3 else teacher_logits[None]
    if (student_logits.dim(), teachers.dim()) != (2, 3):
        got = f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        raise InputError(f"logits are [images, classes], of several teachers [teachers, images, classes], got {got}")
    if teachers.shape[1:] != student_logits.shape:
        theirs, ours = (
            f"{shape[-1]} classes for {shape[-2]} images" for shape in (teachers.shape, student_logits.shape)
        )
        raise InputError(f"the teacher has {theirs}, its student {ours}: they must agree")
    method.check(len(teachers), student_logits.shape[1], len(student_logits))
    if epoch < 1:
        raise InputError(f"epochs count from 1, got {epoch}")
    if labels.is_floating_point() or labels.shape != student_logits.shape[:1]:
        got = f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise InputError(f"labels are a whole number for each of the {len(student_logits)} images, got {got}")
    dtype = torch.float64 if torch.float64 in (student_logits.dtype, teachers.dtype) else torch.float32
    student, teachers, labels = student_logits.to(dtype), teachers.detach().to(dtype), labels.long()
    taught = teachers if method.teachers[1] > 1 else teachers[0]
    own = {name: value for name, value in method if name not in Method.model_fields}
    with torch.autocast(student.device.type, enabled=False):  # else matrix products would have half precision
        terms = {"ce": F.cross_entropy(student, labels)} | type(method).formula(student, taught, labels, **own)
    return method.ce_weight * terms["ce"] + method.kd_weight * min(epoch / method.warmup, 1.0) * terms["kd"], terms
