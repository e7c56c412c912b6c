"""What distillation minimises: pure functions of tensors, computed in float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from kdutils.errors import InputError


def teacher_log_probabilities(
    teacher_logits: torch.Tensor, temperature: float, average: str = "logits", weights: Sequence[float] | None = None
) -> torch.Tensor:
    """The soft targets of one or several teachers as log-probabilities [B, classes].

    teacher_logits: [B, classes], or [teachers, B, classes] for several, averaged with `weights` (equal by default):

    - "logits": log softmax(sum_m w_m z_m / T), the geometric mean of the softened distributions;
    - "probabilities": log sum_m w_m softmax(z_m / T), their arithmetic mean.

    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (2015), section 1, names both means; You et
    al., "Learning from Multiple Teacher Networks" (KDD 2017), eq. 6, takes the arithmetic one.
    """
    stacked = teacher_logits.float() if teacher_logits.dim() == 3 else teacher_logits.float()[None]
    shares = torch.full((len(stacked),), 1 / len(stacked)) if weights is None else torch.tensor(weights) / sum(weights)
    if len(shares) != len(stacked):
        raise InputError(f"{len(stacked)} teachers need {len(stacked)} weights, got {len(shares)}")
    shares = shares.to(stacked)[:, None, None]
    if average not in ("logits", "probabilities"):
        raise InputError(f"unknown average {average!r}: allowed are logits, probabilities")
    if average == "logits":
        return F.log_softmax((shares * stacked).sum(0) / temperature, dim=1)
    return torch.logsumexp(F.log_softmax(stacked / temperature, dim=2) + shares.log(), dim=0)


def soft_loss(student_logits: torch.Tensor, teacher_log_probs: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 KL(teacher_T || student_T), summed over classes and averaged over the batch; a scalar.

    The factor T^2 keeps the gradient's size independent of the temperature (Hinton et al. 2015, section 2.1).
    """
    student_log_probs = F.log_softmax(student_logits.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(student_log_probs, teacher_log_probs, reduction="batchmean", log_target=True)


def kd_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
    kd_weight: float,
    average: str = "logits",
    weights: Sequence[float] | None = None,
) -> torch.Tensor:
    """(1 - kd_weight) CE(student, labels) + kd_weight T^2 KL(teacher_T || student_T); a scalar.

    student_logits: [B, classes]; teacher_logits: [B, classes] or [teachers, B, classes]; labels: int64 [B]. Raises
    `InputError` for a temperature that is not positive, a weight outside [0, 1], or classes that differ.
    """
    if not temperature > 0:
        raise InputError(f"temperature must be greater than 0, got {temperature}")
    if not 0 <= kd_weight <= 1:
        raise InputError(f"kd_weight must lie between 0 and 1, got {kd_weight}")
    if student_logits.shape[-1] != teacher_logits.shape[-1]:
        raise InputError(
            f"the teacher has {teacher_logits.shape[-1]} classes, its student {student_logits.shape[-1]}: they must agree"
        )
    targets = teacher_log_probabilities(teacher_logits, temperature, average, weights)
    hard = F.cross_entropy(student_logits.float(), labels)
    return (1 - kd_weight) * hard + kd_weight * soft_loss(student_logits, targets, temperature)
