"""What distillation minimises: pure functions of tensors, computed in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F

AVERAGES = ("logits", "probabilities")


def teacher_log_probabilities(
    teacher_logits: torch.Tensor, temperature: float, average: str = "logits"
) -> torch.Tensor:
    """The soft targets of one or several teachers as log-probabilities, float32 [B, classes].

    teacher_logits: [B, classes], or [teachers, B, classes] for several, which count the same:

    - "logits": log softmax(mean_m z_m / T), the geometric mean of the softened distributions;
    - "probabilities": log mean_m softmax(z_m / T), their arithmetic mean.

    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (2015), section 1, names both means; You et
    al., "Learning from Multiple Teacher Networks" (KDD 2017), eq. 6, takes the arithmetic one.
    """
    stacked = teacher_logits.float() if teacher_logits.dim() == 3 else teacher_logits.float()[None]
    shares = torch.full((len(stacked), 1, 1), 1 / len(stacked)).to(stacked)
    if average == "logits":
        return F.log_softmax((shares * stacked).sum(0) / temperature, dim=1)
    return torch.logsumexp(F.log_softmax(stacked / temperature, dim=2) + shares.log(), dim=0)


def soft_loss(student_logits: torch.Tensor, teacher_log_probs: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 KL(teacher_T || student_T), summed over classes and averaged over the batch; a scalar.

    The factor T^2 keeps the gradient's size independent of the temperature (Hinton et al. 2015, section 2.1).
    """
    student_log_probs = F.log_softmax(student_logits.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(student_log_probs, teacher_log_probs, reduction="batchmean", log_target=True)
