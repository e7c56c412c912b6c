"""The methods of distillation: each a frozen value with its parameters, and a pure function that is its formula."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator

from kdutils.distillation.losses import soft_loss, teacher_log_probabilities
from kdutils.errors import InputError
from kdutils.values import Value

Terms = dict[str, torch.Tensor]
Weight = Annotated[float, Field(ge=0)]


class KD(Value):
    """Knowledge distillation with soft targets (`method_loss`): Hinton, Vinyals, Dean (2015), section 2.

    A `ce_weight` that is not given is 1 - kd_weight. `average` says how several teachers count as one
    (`kdutils.distillation.losses.teacher_log_probabilities`).
    """

    name: Literal["kd"] = "kd"
    temperature: Annotated[float, Field(gt=0)]
    kd_weight: Weight
    ce_weight: Weight
    average: Literal["logits", "probabilities"] = "logits"

    @model_validator(mode="before")
    @classmethod
    def _complement(cls, fields: dict[str, Any]) -> dict[str, Any]:
        weight = fields.get("kd_weight")
        if fields.get("ce_weight") is not None or not isinstance(weight, (int, float)):
            return fields
        if weight > 1:
            raise ValueError(f"a kd_weight above 1 needs a ce_weight of its own (got kd_weight {weight})")
        return fields | {"ce_weight": round(1.0 - weight, 12)}


def method_loss(
    method: KD, student_logits: torch.Tensor, teacher_logits: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, Terms]:
    """The loss of a batch, ce_weight CE(student, labels) + kd_weight T^2 KL(teacher_T || student_T), and both terms.

    student_logits: [B, classes]; teacher_logits: [B, classes] or [teachers, B, classes]; labels: int64 [B]. The loss
    and its terms, `ce` and `kd`, are scalars, float32 (nats). Raises `InputError` where teacher and student know
    different numbers of classes.
    """
    ours, theirs = student_logits.shape[-1], teacher_logits.shape[-1]
    if ours != theirs:
        raise InputError(f"the teacher has {theirs} classes, its student {ours}: they must agree")
    ce = F.cross_entropy(student_logits.float(), labels)
    targets = teacher_log_probabilities(teacher_logits, method.temperature, method.average)
    kd = soft_loss(student_logits, targets, method.temperature)
    return method.ce_weight * ce + method.kd_weight * kd, {"ce": ce, "kd": kd}
