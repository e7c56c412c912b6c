"""The losses of distillation: pure functions of tensors, computed in float32, or in float64 for float64 tensors.

A method's formula takes student logits z_s [B, classes], teacher logits z_t [B, classes] ([teachers, B, classes] for a
method of several) and labels y, int64 [B]. It returns scalars by name (nats, means over the batch): `kd`, the whole
term of distillation, and its parts. Throughout, p_T = softmax(z_t / T), q_T = softmax(z_s / T), p = p_1 and q = q_1.
Parameters have the authors' values as defaults, those for ResNet32x4 and ResNet8x4 where they differ by pair.
`kdutils.distillation.methods` makes methods of the formulas, and adds the cross-entropy.
"""

from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat as Weight, PositiveFloat as Positive

from kdutils.values import Temperature, Temperatures

Terms = dict[str, torch.Tensor]
_HIDDEN = -1e9  # as a logit: softmax makes it 0, and unlike -inf it makes no NaN


def teacher_log_probabilities(
    teacher_logits: torch.Tensor, temperature: float, average: str = "logits"
) -> torch.Tensor:
    """The soft targets of one or several teachers as log-probabilities, float [B, classes].

    teacher_logits: [B, classes], or [teachers, B, classes] for several, averaged with equal weights:

    - "logits": log softmax(mean_m z_m / T), the geometric mean of the softened distributions;
    - "probabilities": log mean_m softmax(z_m / T), their arithmetic mean.

    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (2015), section 1, names both means; You et
    al., "Learning from Multiple Teacher Networks" (KDD 2017), eq. 6, takes the arithmetic one.
    """
    stacked = teacher_logits if teacher_logits.dim() == 3 else teacher_logits[None]
    stacked = stacked if stacked.dtype == torch.float64 else stacked.float()
    shares = stacked.new_full((len(stacked), 1, 1), 1 / len(stacked))
    if average == "logits":
        return F.log_softmax((shares * stacked).sum(0) / temperature, dim=1)
    return torch.logsumexp(F.log_softmax(stacked / temperature, dim=2) + shares.log(), dim=0)


def kd(student, teacher, labels, temperature: float, average: str = "logits") -> Terms:
    """T^2 KL(p_T || q_T), of one teacher or of an average of several (`teacher_log_probabilities`).

    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (2015), section 2; the factor T^2 keeps the
    gradient's size independent of the temperature (section 2.1).
    """
    log_p = teacher_log_probabilities(teacher, temperature, average)
    log_q = F.log_softmax(student / temperature, dim=1)
    return {"kd": temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)}


def standardise(logits: torch.Tensor) -> torch.Tensor:
    """(z - mean z) / (1e-7 + SD z) of every image, [B, classes]; the SD is unbiased, as in the authors' code.

    Sun et al., "Logit Standardization in Knowledge Distillation" (CVPR 2024), whose text has the biased SD.
    """
    return (logits - logits.mean(1, keepdim=True)) / (1e-7 + logits.std(1, keepdim=True))


def lskd(student, teacher, labels, temperature: Temperature = 2.0) -> Terms:
    """KD of standardised logits (`kd` after `standardise`): the student need not match its teacher's scale."""
    return kd(standardise(student), standardise(teacher), labels, temperature)


def dkd(student, teacher, labels, temperature: Temperature = 4.0, alpha: Weight = 1.0, beta: Weight = 8.0) -> Terms:
    """T^2 (alpha TCKD + beta NCKD): separate weights for label or not, and for which class if it is not the label.

    TCKD = KL((p_T[y], 1 - p_T[y]) || (q_T[y], 1 - q_T[y])); NCKD = KL(p^ || q^), where p^ and q^ are the softmax at T
    over the classes other than y. KD is T^2 (TCKD + (1 - p_T[y]) NCKD), where a sure teacher makes NCKD vanish.

    Zhao et al., "Decoupled Knowledge Distillation" (CVPR 2022), eq. 7; computed here in log space, so that a sure
    network causes no infinity.
    """
    z_s, z_t = student / temperature, teacher / temperature
    tckd = _kl(_one_or_other(z_t, labels), _one_or_other(z_s, labels)).mean()
    nckd = _kl(_others(z_t, labels), _others(z_s, labels)).mean()
    return {"kd": temperature**2 * (alpha * tckd + beta * nckd), "tckd": tckd, "nckd": nckd}


def dkd_lskd(
    student, teacher, labels, temperature: Temperature = 2.0, alpha: Weight = 1.0, beta: Weight = 8.0
) -> Terms:
    """`dkd` after `standardise` (Sun et al., CVPR 2024)."""
    return dkd(standardise(student), standardise(teacher), labels, temperature, alpha, beta)


def dist(student, teacher, labels, temperature: Temperature = 4.0, beta: Weight = 1.0, gamma: Weight = 1.0) -> Terms:
    """T^2 (beta inter + gamma intra): probabilities need only be correlated with the teacher's, not equal to them.

    inter = 1 - mean_i r(q_T[i, :], p_T[i, :]) over images and intra = 1 - mean_k r(q_T[:, k], p_T[:, k]) over classes,
    with Pearson's r. Huang et al., "Knowledge Distillation from A Stronger Teacher" (NeurIPS 2022), section 3.
    """
    q, p = ((logits / temperature).softmax(1) for logits in (student, teacher))
    inter, intra = 1 - _correlation(q, p).mean(), 1 - _correlation(q.T, p.T).mean()
    return {"kd": temperature**2 * (beta * inter + gamma * intra), "inter": inter, "intra": intra}


def ttm(student, teacher, labels, power: Positive = 0.1) -> Terms:
    """KL(P || q) with P = softmax(power z_t): the teacher is softened by a power, 1 / T, the student is not; no T^2.

    Zheng, Yang, "Knowledge Distillation Based on Transformed Teacher Matching" (ICLR 2024), section 3.
    """
    return {"kd": _kl(F.log_softmax(power * teacher, 1), F.log_softmax(student, 1)).mean()}


def wttm(student, teacher, labels, power: Positive = 0.1) -> Terms:
    """`ttm` with every image weighted by sum_k p[k]^power: 1 for a sure teacher, classes^(1 - power) at most.

    Zheng, Yang (ICLR 2024), section 4.
    """
    divergences = _kl(F.log_softmax(power * teacher, 1), F.log_softmax(student, 1))
    return {"kd": ((power * F.log_softmax(teacher, 1)).exp().sum(1) * divergences).mean()}


def rld(
    student,
    teacher,
    labels,
    temperature: Temperature = 4.0,
    confidence_temperature: Temperature = 1.0,
    alpha: Weight = 1.0,
    beta: Weight = 8.0,
) -> Terms:
    """alpha SCD + beta MCD: the confidence in the label, and the order of the classes that the teacher puts below it.

    SCD = T_c^2 KL((max p, rest) || (q[y], rest)) at the confidence temperature T_c: the student's confidence in the
    label is to equal the teacher's in its top class. MCD = T^2 KL at T over only the classes with z_t[k] < z_t[y],
    without those that a wrong teacher prefers. Sun et al., "Knowledge Distillation with Refined Logits" (ICCV 2025).
    """
    top = _one_or_other(teacher / confidence_temperature, teacher.argmax(1))
    scd = confidence_temperature**2 * _kl(top, _one_or_other(student / confidence_temperature, labels)).mean()
    hidden = teacher >= teacher.gather(1, labels[:, None])
    log_p, log_q = (F.log_softmax((z / temperature).masked_fill(hidden, _HIDDEN), 1) for z in (teacher, student))
    mcd = temperature**2 * _kl(log_p, log_q).mean()
    return {"kd": alpha * scd + beta * mcd, "scd": scd, "mcd": mcd}


def nkd(student, teacher, labels, temperature: Temperature = 1.0, gamma: Weight = 1.5) -> Terms:
    """-p[y] log q[y] - gamma T^2 sum_{k != y} p^[k] log q^[k], p^ and q^ as in `dkd`: cross-entropies, never 0.

    Yang et al., "From Knowledge Distillation to Self-Knowledge Distillation" (ICCV 2023), section 3; for CIFAR-100 they
    take T = 3 and gamma = 3.5.
    """
    log_p, log_q = (F.log_softmax(logits, 1).gather(1, labels[:, None]) for logits in (teacher, student))
    target = -(log_p.exp() * log_q).mean()
    log_p, log_q = (_others(logits / temperature, labels) for logits in (teacher, student))
    others = -(log_p.exp() * log_q).sum(1).mean()
    return {"kd": target + gamma * temperature**2 * others, "target": target, "others": others}


def mlkd_weak(student, teacher, labels, temperatures: Temperatures = (4.0, 3.0, 5.0, 2.0, 6.0)) -> Terms:
    """sum_T f T^2 KL(p_T || q_T) + bc + cc: KD at several temperatures, and the Gram matrices of images and classes.

    bc = sum_T f |P P' - Q Q'|^2 / B and cc = sum_T f' |P' P - Q' Q|^2 / classes, P = p_T and Q = q_T [B, classes]. f is
    the share of images whose greatest p is at most the batch's median, f' that of classes by their sum of p: both about
    half, in the authors' code a factor and not a selection. Jin, Wang, Lin, "Multi-Level Logit Distillation" (CVPR
    2023), without its strongly augmented view: the form that the authors of `rld` compare with.
    """
    softened = torch.stack([student.new_full((1, 1), temperature) for temperature in temperatures])
    log_p, log_q = F.log_softmax(teacher / softened, 2), F.log_softmax(student / softened, 2)
    p, q, confidence = log_p.exp(), log_q.exp(), teacher.softmax(1)
    images, classes = _share_to_median(confidence.amax(1)), _share_to_median(confidence.sum(0))
    instance = images * (softened[:, 0] ** 2 * _kl(log_p, log_q)).mean(1).sum()
    batch = images * (p @ p.mT - q @ q.mT).square().sum() / p.shape[1]
    across = classes * (p.mT @ p - q.mT @ q).square().sum() / p.shape[2]
    return {"kd": instance + batch + across, "bc": batch, "cc": across}


def mt_average(student, teachers, labels, temperature: Temperature = 4.0) -> Terms:
    """mean_m T^2 KL(p_T,m || q_T): the average of the losses, not the loss of an averaged teacher.

    Both have the same gradient if `kd` averages probabilities. You et al. (KDD 2017).
    """
    return {"kd": _divergences(student, teachers, temperature).mean()}


def mt_ebkd(student, teachers, labels, temperature: Temperature = 4.0) -> Terms:
    """mean_m,i w_m,i T^2 KL_m,i with w_m,i = 1 - H_m,i / sum_n H_n,i: unsure teachers (entropy H of p) count less.

    Kwon et al., "Adaptive Knowledge Distillation Based on Entropy" (ICASSP 2020). Weights sum to teachers - 1.
    """
    return {"kd": (entropy_weights(teachers) * _divergences(student, teachers, temperature)).mean()}


def mt_camkd(student, teachers, labels, temperature: Temperature = 4.0) -> Terms:
    """mean_m,i w_m,i T^2 KL_m,i with w_m,i = (1 - softmax_m(CE_m,i)) / (teachers - 1): wrong teachers count less.

    CE_m,i is the teacher's own cross-entropy. Zhang, Chen, Wang, "Confidence-Aware Multi-Teacher Knowledge
    Distillation" (ICASSP 2022), the part on logits. Weights sum to 1, and the mean divides by their number once more.
    """
    return {"kd": (confidence_weights(teachers, labels) * _divergences(student, teachers, temperature)).mean()}


def mt_aekd(
    student, teachers, labels, temperature: Temperature = 4.0, C: Annotated[float, Field(gt=0, le=1)] = 0.6
) -> Terms:
    """sum_m w_m mean_i T^2 KL_m,i with the weights of `agreement_weights`, which follow what the teachers agree on.

    No weight exceeds C. Du et al., "Agree to Disagree: Adaptive Ensemble Knowledge Distillation in Gradient Space"
    (NeurIPS 2020), with the gradients g_m = mean_i T (q_T - p_T,m), the quadratic program solved exactly.
    """
    weights = agreement_weights(teacher_gradients(student.detach(), teachers, temperature), C)
    return {"kd": weights @ _divergences(student, teachers, temperature).mean(1)}


def entropy_weights(teachers: torch.Tensor) -> torch.Tensor:
    """The weights of `mt_ebkd` from logits [teachers, B, classes]: [teachers, B]."""
    log_p = F.log_softmax(teachers, 2)
    entropies = (log_p.exp() * -log_p).sum(2).clamp_min(torch.finfo(log_p.dtype).tiny)  # all 0: equal weights
    return 1 - entropies / entropies.sum(0)


def confidence_weights(teachers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The weights of `mt_camkd` from logits [teachers, B, classes] and labels [B]: [teachers, B]."""
    errors = -F.log_softmax(teachers, 2)[:, torch.arange(len(labels), device=labels.device), labels]
    return (1 - errors.softmax(0)) / (len(teachers) - 1)


def teacher_gradients(student: torch.Tensor, teachers: torch.Tensor, temperature: float) -> torch.Tensor:
    """Gradients of each teacher's T^2 KL by the student's logits [B, classes]: T (q_T - p_T,m), mean over the batch."""
    return temperature * ((student / temperature).softmax(1) - (teachers / temperature).softmax(2)).mean(1)


def agreement_weights(gradients: torch.Tensor, C: float) -> torch.Tensor:
    """The w [teachers] that minimises |sum_m w_m g_m|^2, sum w = 1, 0 <= w_m <= C, for gradients g [teachers, classes].

    C must be at least 1 / teachers. Solved as non-negative least squares in w and the slacks C - w; the constraints
    are equations with such large weights that they hold to 1e-7.
    """
    from scipy.optimize import nnls

    if not gradients.isfinite().all():  # the run has diverged, as its loss will show
        return torch.full_like(gradients[:, 0], 1 / len(gradients))
    many, firm, g = len(gradients), 1e4, gradients.cpu().double().numpy()
    toward = np.linalg.qr(g.T / max(abs(g).max(), 1e-30), mode="r")  # [teachers, teachers]: as long as the gradients
    sums, each = np.full((1, many), firm), firm * np.eye(many)
    equations = np.block([[toward, 0 * toward], [sums, 0 * sums], [each, each]])
    weights = nnls(equations, np.concatenate([np.zeros(len(toward)), [firm], np.full(many, firm * C)]))[0][:many]
    return torch.from_numpy(weights / weights.sum()).to(gradients.dtype).to(gradients.device)


def _kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL(p || q) of log-probabilities, float [..., classes]: [...]."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _divergences(student: torch.Tensor, teachers: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 KL(p_T,m || q_T) of every teacher and image, [teachers, B]."""
    return temperature**2 * _kl(F.log_softmax(teachers / temperature, 2), F.log_softmax(student / temperature, 1))


def _others(logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [B, classes] over the classes other than chosen [B]."""
    return F.log_softmax(logits.scatter(1, chosen[:, None], _HIDDEN), 1)


def _one_or_other(logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """log (p[k], 1 - p[k]) for the classes k = chosen [B]: [B, 2]."""
    rest = logits.scatter(1, chosen[:, None], _HIDDEN).logsumexp(1, keepdim=True)
    return F.log_softmax(torch.cat([logits.gather(1, chosen[:, None]), rest], 1), 1)


def _correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Pearson's correlation of each row of a and b, [rows, columns]: [rows]; 0 where a row is constant."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)


def _share_to_median(values: torch.Tensor) -> torch.Tensor:
    """The share of values [N] that are at most their median; a scalar."""
    return (values <= values.median()).to(values).mean()
