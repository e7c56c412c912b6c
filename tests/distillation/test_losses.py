"""The distillation loss against closed forms written in float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from kdutils.distillation.losses import kd, teacher_log_probabilities
from kdutils.distillation.methods import KD, method_loss
from kdutils.errors import InputError

RANDOM = np.random.RandomState(3)
STUDENT, TEACHERS = RANDOM.randn(6, 5) * 2, RANDOM.randn(3, 6, 5) * 3
LABELS = np.array([0, 1, 2, 3, 4, 0])


def kd_loss(student_logits, teacher_logits, labels, temperature, kd_weight, average="logits", ce_weight=None):
    method = KD(temperature=temperature, kd_weight=kd_weight, ce_weight=ce_weight, average=average)
    return method_loss(method, student_logits, teacher_logits, labels)[0]


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array, dtype=torch.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    return -np.log(softmax(logits)[np.arange(len(labels)), labels]).mean()


def divergence(teacher: np.ndarray, student: np.ndarray) -> float:
    return (teacher * (np.log(teacher) - np.log(student))).sum(1).mean()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("kd_weight", [0.0, 0.3, 1.0])
def test_the_loss_is_its_formula(temperature, kd_weight):
    kl = divergence(softmax(TEACHERS[0] / temperature), softmax(STUDENT / temperature))
    expected = (1 - kd_weight) * cross_entropy(STUDENT, LABELS) + kd_weight * temperature**2 * kl
    ours = kd_loss(tensor(STUDENT), tensor(TEACHERS[0]), torch.tensor(LABELS), temperature, kd_weight)
    assert ours.shape == () and ours.dtype == torch.float32
    assert ours.item() == pytest.approx(expected, rel=1e-5)


def test_a_value_by_hand():
    # student (0, 0) is uniform; teacher (ln 3, 0) is (3/4, 1/4): KL = 3/4 ln 3 - ln 2 ... at T = 1
    ours = kd_loss(torch.zeros(1, 2), torch.tensor([[np.log(3.0), 0.0]]), torch.tensor([1]), 1.0, 0.5)
    assert ours.item() == pytest.approx(0.5 * np.log(2) + 0.5 * (0.75 * np.log(1.5) + 0.25 * np.log(0.5)), rel=1e-6)


@pytest.mark.parametrize("kd_weight", [0.0, 1.0])
def test_the_weights_at_the_ends_leave_one_term(kd_weight):
    labels = torch.tensor(LABELS)
    other_teacher = kd_loss(tensor(STUDENT), tensor(TEACHERS[1]), labels, 4.0, kd_weight)
    other_labels = kd_loss(tensor(STUDENT), tensor(TEACHERS[0]), (labels + 1) % 5, 4.0, kd_weight)
    loss = kd_loss(tensor(STUDENT), tensor(TEACHERS[0]), labels, 4.0, kd_weight)
    assert (loss == other_teacher) == (kd_weight == 0) and (loss == other_labels) == (kd_weight == 1)


def test_the_gradient_is_t_times_the_difference_of_the_softened_distributions():
    temperature, student = 3.0, tensor(STUDENT).requires_grad_()
    kd(student, tensor(TEACHERS[0]), None, temperature)["kd"].backward()
    expected = temperature * (softmax(STUDENT / temperature) - softmax(TEACHERS[0] / temperature)) / len(STUDENT)
    np.testing.assert_allclose(student.grad.numpy(), expected, atol=1e-6)


def test_at_high_temperature_the_gradient_is_the_difference_of_centred_logits():
    """Hinton et al. 2015, eq. 4, with T^2: d/dz = (z_student - z_teacher) / classes, for logits of zero mean."""
    centred, target = (logits - logits.mean(1, keepdims=True) for logits in (STUDENT, TEACHERS[0]))
    student = tensor(centred).requires_grad_()
    kd(student, tensor(target), None, 1000.0)["kd"].backward()
    np.testing.assert_allclose(student.grad.numpy(), (centred - target) / 5 / len(STUDENT), atol=2e-3)


def test_a_student_like_its_teacher_has_no_loss_left():
    assert kd(tensor(STUDENT), tensor(STUDENT), None, 4.0)["kd"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_one_teacher_is_one_teacher_however_it_is_given(average):
    one = teacher_log_probabilities(tensor(TEACHERS[0]), 4.0, average)
    stacked = teacher_log_probabilities(tensor(TEACHERS[:1]), 4.0, average)
    twice = teacher_log_probabilities(tensor(TEACHERS[[0, 0]]), 4.0, average)
    np.testing.assert_allclose(one.exp().numpy(), softmax(TEACHERS[0] / 4), atol=1e-6)
    assert torch.equal(one, stacked) and torch.allclose(one, twice, atol=1e-6)


def test_averages_of_several_teachers():
    soft = softmax(TEACHERS / 4)
    geometric, arithmetic = np.exp(np.log(soft).mean(0)), soft.mean(0)
    ours = {
        name: teacher_log_probabilities(tensor(TEACHERS), 4.0, name).exp().numpy()
        for name in ("logits", "probabilities")
    }
    np.testing.assert_allclose(ours["logits"], geometric / geometric.sum(1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(ours["probabilities"], arithmetic, atol=1e-6)
    assert np.abs(ours["logits"] - ours["probabilities"]).max() > 0.01


def test_the_weights_are_free_and_the_terms_are_named():
    method = KD(temperature=4.0, kd_weight=9.0, ce_weight=0.1)
    loss, terms = method_loss(method, tensor(STUDENT), tensor(TEACHERS[0]), torch.tensor(LABELS))
    kl = divergence(softmax(TEACHERS[0] / 4), softmax(STUDENT / 4))
    assert {name: term.item() for name, term in terms.items()} == {
        "ce": pytest.approx(cross_entropy(STUDENT, LABELS), rel=1e-5),
        "kd": pytest.approx(16 * kl, rel=1e-5),
    }
    assert loss.item() == pytest.approx(0.1 * cross_entropy(STUDENT, LABELS) + 9 * 16 * kl, rel=1e-5)


def test_a_kd_weight_alone_leaves_the_rest_to_the_labels():
    assert KD(temperature=4, kd_weight=0.9) == KD(temperature=4.0, kd_weight=0.9, ce_weight=0.1)
    assert [KD(temperature=4.0, kd_weight=weight).ce_weight for weight in (0, 0.3, 1)] == [1.0, 0.7, 0.0]


def test_teachers_and_averages_reach_the_loss():
    arithmetic = softmax(TEACHERS / 2).mean(0)
    expected = 0.3 * cross_entropy(STUDENT, LABELS) + 0.7 * 4 * divergence(arithmetic, softmax(STUDENT / 2))
    ours = kd_loss(tensor(STUDENT), tensor(TEACHERS), torch.tensor(LABELS), 2.0, 0.7, "probabilities")
    assert ours.item() == pytest.approx(expected, rel=1e-5)


def test_half_precision_inputs_are_computed_in_float32():
    student, teacher = tensor(STUDENT).bfloat16(), tensor(TEACHERS[0]).half()
    ours = kd_loss(student, teacher, torch.tensor(LABELS), 4.0, 0.5)
    exact = kd_loss(student.float(), teacher.float(), torch.tensor(LABELS), 4.0, 0.5)
    assert ours.dtype == torch.float32 and torch.equal(ours, exact)


def test_extreme_logits_stay_finite():
    student = tensor(np.array([[1e4, -1e4, 0.0]])).requires_grad_()
    for average in ("logits", "probabilities"):
        loss = kd_loss(
            student, tensor(np.array([[[-1e4, 1e4, 0.0]], [[0.0, 1e4, -1e4]]])), torch.tensor([1]), 1.0, 0.5, average
        )
        loss.backward()
        assert loss.isfinite() and student.grad.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"temperature": 0.0}, ["temperature", "0"]),
        ({"temperature": float("nan")}, ["temperature", "nan"]),
        ({"kd_weight": 1.5}, ["kd_weight", "1.5", "ce_weight"]),
        ({"kd_weight": -0.1}, ["kd_weight", "-0.1"]),
        ({"ce_weight": -0.1}, ["ce_weight", "-0.1"]),
        ({"average": "logit"}, ["average", "logits", "probabilities"]),
        ({"teacher_logits": torch.zeros(6, 7)}, ["7 classes", "5"]),
    ],
)
def test_what_cannot_be_meant_is_refused(changes, words):
    given = {"student_logits": tensor(STUDENT), "teacher_logits": tensor(TEACHERS), "labels": torch.tensor(LABELS)}
    with pytest.raises((InputError, ValidationError)) as error:
        kd_loss(**given | {"temperature": 4.0, "kd_weight": 0.5} | changes)
    assert all(word in str(error.value) for word in words)
