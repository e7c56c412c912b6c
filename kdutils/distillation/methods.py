"""The methods of distillation: what of the teachers enters a student's loss, and with which weight."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kdutils.values import Value


class KD(Value):
    """Hinton's distillation: ce_weight CE + kd_weight T^2 KL(teachers || student); ce_weight None: 1 - kd_weight."""

    temperature: Annotated[float, Field(gt=0)] = 4.0
    kd_weight: Annotated[float, Field(ge=0)] = 0.9
    ce_weight: Annotated[float, Field(ge=0)] | None = None
    average: Literal["logits", "probabilities"] = "logits"
