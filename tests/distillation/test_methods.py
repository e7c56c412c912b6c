"""Every method's loss against its formula spelled out, image by image, in float64 NumPy."""

from __future__ import annotations

import re
import runpy
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from kdutils.distillation.losses import agreement_weights, dist, dkd, kd, lskd, mt_average, rld, ttm, wttm
from kdutils.distillation.methods import METHODS, AnyMethod, build_method, method_class, method_loss
from kdutils.errors import InputError

SEVERAL = [name for name in METHODS if name.startswith("mt_")]
ONE = [name for name in METHODS if name not in SEVERAL]


def softmax(z, temperature=1.0):
    powers = np.exp((z - z.max()) / temperature)
    return powers / powers.sum()


def kl(p, q):
    return sum(a * np.log(a / b) for a, b in zip(p, q) if a > 0)


def standardised(z):
    return (z - z.mean()) / (1e-7 + z.std(ddof=1))


def pearson(a, b):
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / (np.sqrt((a**2).sum()) * np.sqrt((b**2).sum()) + 1e-8)


def mean(per_image, *arrays):
    return np.mean([per_image(*rows) for rows in zip(*arrays)])


def soft(temperature):
    return lambda s, t: temperature**2 * kl(softmax(t, temperature), softmax(s, temperature))


def spelled_dkd(s, t, y, temperature=4.0, alpha=1.0, beta=8.0):
    def image(s, t, y):
        p, q = softmax(t, temperature), softmax(s, temperature)
        others = np.arange(len(s)) != y
        tckd = kl([p[y], p[others].sum()], [q[y], q[others].sum()])
        nckd = kl(p[others] / p[others].sum(), q[others] / q[others].sum())
        return temperature**2 * (alpha * tckd + beta * nckd)

    return mean(image, s, t, y)


def spelled_dist(s, t, y):
    p, q = (np.stack([softmax(z, 4.0) for z in logits]) for logits in (t, s))
    inter = 1 - np.mean([pearson(q[i], p[i]) for i in range(len(p))])
    intra = 1 - np.mean([pearson(q[:, k], p[:, k]) for k in range(p.shape[1])])
    return 16 * (inter + intra)


def spelled_wttm(s, t, y, power=0.1):
    return mean(lambda s, t: (softmax(t) ** power).sum() * kl(softmax(power * t), softmax(s)), s, t)


def spelled_rld(s, t, y):
    def image(s, t, y):
        p, q = softmax(t), softmax(s)
        scd = kl([p.max(), np.delete(p, p.argmax()).sum()], [q[y], np.delete(q, y).sum()])
        below = t < t[y]
        mcd = 16 * kl(softmax(t[below], 4.0), softmax(s[below], 4.0)) if below.any() else 0.0
        return scd + 8 * mcd

    return mean(image, s, t, y)


def spelled_nkd(s, t, y):
    def image(s, t, y):
        p, q, others = softmax(t), softmax(s), np.arange(len(s)) != y
        rest = (p[others] / p[others].sum() * np.log(q[others] / q[others].sum())).sum()
        return -p[y] * np.log(q[y]) - 1.5 * rest

    return mean(image, s, t, y)


def spelled_mlkd(s, t, y):
    count, classes = s.shape
    sure = np.stack([softmax(z) for z in t])
    top, mass, total = sure.max(1), sure.sum(0), 0.0
    images, across = (values <= np.percentile(values, 50) for values in (top, mass))
    for temperature in (2.0, 3.0, 4.0, 5.0, 6.0):
        p, q = (np.stack([softmax(z, temperature) for z in logits]) for logits in (t, s))
        total += images.mean() * mean(soft(temperature), s, t)
        total += images.mean() * ((p @ p.T - q @ q.T) ** 2).sum() / count
        total += across.mean() * ((p.T @ p - q.T @ q) ** 2).sum() / classes
    return total


def spelled_ebkd(s, t, y):
    hesitation = [[-(p * np.log(p)).sum() for p in (softmax(z) for z in teacher)] for teacher in t]
    weights = 1 - np.array(hesitation) / np.sum(hesitation, 0)
    return np.mean([[w * soft(4.0)(*rows) for w, *rows in zip(ws, s, teacher)] for ws, teacher in zip(weights, t)])


def spelled_camkd(s, t, y):
    errors = np.array([[-np.log(softmax(z)[label]) for z, label in zip(teacher, y)] for teacher in t])
    weights = (1 - np.exp(errors) / np.exp(errors).sum(0)) / (len(t) - 1)
    return np.mean([[w * soft(4.0)(*rows) for w, *rows in zip(ws, s, teacher)] for ws, teacher in zip(weights, t)])


# name: ce_weight, kd_weight, epochs of warm-up, and the term, as their authors have them
SPELLED = {
    "kd": (0.1, 0.9, 1, lambda s, t, y: mean(soft(4.0), s, t)),
    "lskd": (0.1, 9, 1, lambda s, t, y: mean(lambda s, t: soft(2.0)(standardised(s), standardised(t)), s, t)),
    "dkd": (1, 1, 20, spelled_dkd),
    "dkd_lskd": (
        1,
        9,
        20,
        lambda s, t, y: spelled_dkd([standardised(z) for z in s], [standardised(z) for z in t], y, 2.0),
    ),
    "dist": (1, 2, 1, spelled_dist),
    "ttm": (1, 100, 1, lambda s, t, y: mean(lambda s, t: kl(softmax(0.1 * t), softmax(s)), s, t)),
    "wttm": (1, 3, 1, spelled_wttm),
    "rld": (1, 1, 20, spelled_rld),
    "nkd": (1, 1, 1, spelled_nkd),
    "mlkd_weak": (0.1, 0.9, 1, spelled_mlkd),
    "mt_average": (1, 1, 1, lambda s, t, y: np.mean([mean(soft(4.0), s, teacher) for teacher in t])),
    "mt_ebkd": (1, 1, 1, spelled_ebkd),
    "mt_camkd": (1, 1, 1, spelled_camkd),
}


def spelled(name: str, s: np.ndarray, t: np.ndarray, y: np.ndarray, epoch: int) -> float:
    ce_weight, kd_weight, warmup, term = SPELLED[name]
    ce = mean(lambda s, y: -np.log(softmax(s)[y]), s, y)
    return ce_weight * ce + kd_weight * min(epoch / warmup, 1) * term(s, t, y)


def logits(name: str, kind: str, classes: int, images: int = 7, seed: int = 0):
    """float64 student [B, K], teacher [B, K] or three of them, and labels, of which every image has another kind."""
    random = np.random.RandomState(seed)
    labels = random.randint(classes, size=images)
    student, teachers = random.randn(images, classes), 2 * random.randn(3, images, classes)
    teachers[:, np.arange(images), labels] += -4 if kind == "wrong" else 3
    if kind == "confident":
        student, teachers = 4 * student, 4 * teachers
    if kind == "ties":
        teachers = teachers.round()
    if kind == "float16":
        teachers = teachers.astype(np.float16).astype(np.float64)
    return student, teachers if name in SEVERAL else teachers[0], labels


KINDS = ["plain", "wrong", "confident", "ties", "float16"]


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SPELLED)
def test_value_and_gradient_are_the_formulas(name, kind, classes):
    student, teacher, labels = logits(name, kind, classes)
    random = np.random.RandomState(1)
    for epoch in (1, 5, 30):
        ours = torch.tensor(student, requires_grad=True)
        loss, terms = method_loss(name, ours, torch.tensor(teacher), torch.tensor(labels), epoch)
        loss.backward()
        assert loss.item() == pytest.approx(spelled(name, student, teacher, labels, epoch), rel=1e-9)
        assert {"ce", "kd"} <= terms.keys() and all(term.dtype == torch.float64 for term in terms.values())
        single, _ = method_loss(name, ours.float(), torch.tensor(teacher).half(), torch.tensor(labels), epoch)
        assert single.dtype == torch.float32
        if kind in ("ties", "float16"):  # exact in float16
            assert single.item() == pytest.approx(loss.item(), rel=1e-5)
    for _ in range(2):  # the slope of the spelled formula in some direction, by central differences
        direction, step = random.randn(*student.shape), 1e-5
        ahead, behind = (spelled(name, student + sign * step * direction, teacher, labels, 30) for sign in (1, -1))
        slope = (ours.grad.numpy() * direction).sum()
        assert slope == pytest.approx((ahead - behind) / (2 * step), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"mt_aekd"}))  # its weights are constants to the gradient
def test_gradients_are_those_of_finite_differences(name):
    student, teacher, labels = (torch.tensor(array) for array in logits(name, "plain", 10, images=3))
    assert torch.autograd.gradcheck(
        lambda z: method_loss(name, z, teacher, labels, 7)[0], (student.requires_grad_(),), eps=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_ever_nan(name, scale):
    """Equal logits, ordinary and enormous ones; a teacher that is sure and right, sure and wrong, or has no opinion."""
    student = torch.tensor([[1.0, -1.0, 0.0, 0.5], [1.0, 1.0, -1.0, 0.0], [0.0] * 4, [-1.0, 0.0, 1.0, 0.0]]) * scale
    teacher = torch.tensor([[1.0, 0.0, 0.0, -1.0], [0.0, 1.0, -1.0, 0.0], [0.0] * 4, [-1.0, 0.0, 1.0, 1.0]]) * scale
    teacher = torch.stack([teacher, teacher.flip(1)]) if name in SEVERAL else teacher
    student.requires_grad_()
    loss, terms = method_loss(name, student, teacher.half(), torch.tensor([0, 2, 1, 0]), 20)
    loss.backward()
    assert student.grad.isfinite().all() and all(term.isfinite() for term in [loss, *terms.values()])


@pytest.mark.parametrize("name", METHODS)
def test_no_gradient_reaches_the_teacher(name):
    student, teacher, labels = (torch.tensor(array) for array in logits(name, "plain", 10))
    teacher.requires_grad_()
    method_loss(name, student.requires_grad_(), teacher, labels)[0].backward()
    assert teacher.grad is None and student.grad.abs().max() > 0


@pytest.mark.parametrize("name", METHODS)
def test_neither_autocast_nor_the_type_of_labels_changes_the_loss(name):
    student, teacher, labels = (torch.tensor(array) for array in logits(name, "float16", 10))
    expected, _ = method_loss(name, student.float(), teacher.float(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert method_loss(name, student.float(), teacher.float(), labels)[0] == expected
    for dtype in (torch.uint8, torch.int16, torch.int32):  # as data sets and records have them
        assert method_loss(name, student.float(), teacher.float(), labels.to(dtype))[0] == expected


def tensors(kind="plain", classes=10, images=7):
    return [torch.tensor(array) for array in logits("kd", kind, classes, images)]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dkd_is_kd_with_the_weight_that_kd_has_for_the_other_classes(temperature):
    student, teacher, labels = tensors("wrong")
    for z_s, z_t, y in zip(student.split(1), teacher.split(1), labels.split(1)):
        miss = 1 - (z_t / temperature).softmax(1)[0, y].item()
        ours = dkd(z_s, z_t, y, temperature, alpha=1.0, beta=miss)["kd"]
        assert ours.item() == pytest.approx(kd(z_s, z_t, y, temperature)["kd"].item(), rel=1e-12)


def test_lskd_sees_neither_scale_nor_shift_of_any_network():
    student, teacher, labels = tensors()
    scale, shift = torch.linspace(0.5, 5, 7)[:, None], torch.linspace(-9, 9, 7)[:, None]
    expected = lskd(student, teacher, labels, 2.0)["kd"].item()
    for changed in ((scale * student + shift, teacher), (student, scale * teacher + shift)):
        assert lskd(*changed, labels, 2.0)["kd"].item() == pytest.approx(expected, rel=1e-6)
        assert kd(*changed, labels, 2.0)["kd"].item() != pytest.approx(expected, rel=0.1)


def test_dist_sees_no_positive_linear_map_of_a_row_or_of_all_columns():
    student, teacher, labels = tensors()
    expected = dist(student, teacher, labels, 4.0, 1.0, 1.0)
    flatter = torch.linspace(0.2, 0.9, 7)[:, None]
    for share, same in ((flatter, ["inter"]), (torch.tensor(0.3), ["inter", "intra"])):
        mixed = share * (student / 4).softmax(1) + (1 - share) / 10  # with the uniform distribution
        mapped = dist(4 * mixed.log(), teacher, labels, 4.0, 1.0, 1.0)
        assert [mapped[name].item() for name in same] == pytest.approx([expected[name].item() for name in same])
        assert (mapped["intra"] - expected["intra"]).abs() < 1e-6 or "intra" not in same


def test_ttm_is_kd_of_a_student_without_temperature_and_without_its_square():
    student, teacher, labels = tensors()
    same = kd(5 * student, teacher, labels, temperature=5.0)["kd"] / 25
    assert ttm(student, teacher, labels, power=0.2)["kd"].item() == pytest.approx(same.item(), rel=1e-12)


def test_wttm_counts_a_sure_teacher_once_and_a_doubtful_one_most():
    student, _, labels = tensors()
    for teacher, weight in ((50.0 * torch.eye(10)[labels], 1.0), (torch.zeros(7, 10), 10**0.8)):
        ratio = wttm(student, teacher, labels, 0.2)["kd"] / ttm(student, teacher, labels, 0.2)["kd"]
        assert ratio.item() == pytest.approx(weight, rel=1e-3)


def test_rld_takes_nothing_from_the_classes_that_a_wrong_teacher_prefers():
    student, labels = torch.randn(1, 6, dtype=torch.float64), torch.tensor([2])
    arguments = {"temperature": 4.0, "confidence_temperature": 1.0, "alpha": 1.0, "beta": 8.0}
    one, other = ([9.0, 5.0, 3.0, 1.0, 0.0, -1.0], [7.0, 3.0, 3.0, 1.0, 0.0, -1.0])  # a tie with the label is hidden
    terms = [rld(student, torch.tensor([teacher]).double(), labels, **arguments) for teacher in (one, other)]
    assert terms[0]["mcd"].item() == pytest.approx(terms[1]["mcd"].item(), rel=1e-12) and terms[0]["mcd"] > 0
    last = rld(student, torch.tensor([[1.0, 2.0, 0.0, 3.0, 4.0, 5.0]]).double(), labels, **arguments)
    assert last["mcd"] == 0


def test_losses_averaged_have_the_gradient_of_probabilities_averaged():
    student, teachers, labels = (torch.tensor(array) for array in logits("mt_average", "plain", 10))
    gradients = []
    for loss in (
        mt_average(student.requires_grad_(), teachers, labels, 4.0),
        kd(student, teachers, labels, 4.0, "probabilities"),
    ):
        gradients.append(torch.autograd.grad(loss["kd"], student)[0])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("name", "share"), [("mt_ebkd", 2 / 3), ("mt_camkd", 1 / 3)])
def test_teachers_that_know_the_same_weigh_the_same(name, share):
    student, teachers, labels = (torch.tensor(array) for array in logits(name, "plain", 10))
    same = teachers[:1].expand(3, -1, -1)
    expected = share * kd(student, teachers[0], labels, 4.0)["kd"]
    assert method_loss(name, student, same, labels)[1]["kd"].item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("classes", [10, 100])
def test_aekd_follows_the_weighted_closed_form_gradients(classes):
    student, teachers, labels = logits("mt_aekd", "wrong", classes)
    q = np.stack([softmax(z, 4.0) for z in student])
    gradients = np.array([[4 * (b - softmax(z, 4.0)) for b, z in zip(q, teacher)] for teacher in teachers]) / len(q)
    grid = [(a, b, 1 - a - b) for a in np.linspace(0, 0.6, 301) for b in np.linspace(0, 0.6, 301) if a + b <= 1]
    sums = gradients.sum(1)
    allowed = np.array([weights for weights in grid if weights[2] <= 0.6])
    best = allowed[((allowed @ sums) ** 2).sum(1).argmin()]
    ours = torch.tensor(student, requires_grad=True)
    terms = method_loss("mt_aekd", ours, torch.tensor(teachers), torch.tensor(labels))[1]
    terms["kd"].backward()
    np.testing.assert_allclose(ours.grad.numpy(), np.tensordot(best, gradients, 1), atol=2e-3 * np.abs(gradients).max())
    expected = sum(w * mean(soft(4.0), student, teacher) for w, teacher in zip(best, teachers))
    assert terms["kd"].item() == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_agreement_of_two_is_where_their_difference_is_at_a_right_angle(scale):
    for seed in range(20):
        one, two = scale * np.random.RandomState(seed).randn(2, 5)
        share = np.clip(two @ (two - one) / ((one - two) ** 2).sum(), 0.4, 0.6)
        weights = agreement_weights(torch.tensor(np.stack([one, two])), 0.6)
        assert weights.tolist() == pytest.approx([share, 1 - share], abs=1e-6)


@pytest.mark.parametrize("teachers", [3, 5])
def test_no_allowed_weights_agree_more(teachers):
    random = np.random.RandomState(teachers)
    for limit in (1.0, 0.6, 1 / teachers):
        gradients = random.randn(teachers, 20) + random.randn(20)
        weights = agreement_weights(torch.tensor(gradients), limit).numpy()
        assert weights.sum() == pytest.approx(1) and weights.min() >= 0 and weights.max() <= limit + 1e-6
        others = random.dirichlet(np.ones(teachers), 20000)
        others = others[others.max(1) <= limit]
        lengths = ((others @ gradients) ** 2).sum(1)
        assert not len(others) or ((weights @ gradients) ** 2).sum() <= lengths.min() * (1 + 1e-6)


def test_a_run_that_diverges_has_a_loss_that_says_so():
    student = torch.full((2, 4), torch.nan)
    assert all(
        method_loss(
            name, student, torch.randn(2, 2, 4) if name in SEVERAL else torch.randn(2, 4), torch.tensor([0, 1])
        )[0].isnan()
        for name in METHODS
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_name_and_a_value_are_one_method(name):
    student, teacher, labels = (torch.tensor(array) for array in logits(name, "plain", 10))
    method = build_method(name, kd_weight=0.5)
    by_name = method_loss(name, student, teacher, labels, 3, kd_weight=0.5)
    assert by_name == method_loss(method, student, teacher, labels, epoch=3) and method == METHODS[name](kd_weight=0.5)
    if name in ONE:
        assert by_name == method_loss(method, student, teacher[None], labels, epoch=3)
    assert TypeAdapter(AnyMethod).validate_json(method.model_dump_json()) == method


@pytest.mark.parametrize("kind", [int, float, np.float32, np.float64, np.array, Decimal, torch.tensor])
def test_a_weight_is_any_number_and_that_of_the_labels_is_what_it_leaves(kind):
    given = (0, 1) if kind is int else (0.25, 1.0)
    methods = [build_method("kd", kd_weight=kind(weight)) for weight in given]
    assert [(method.ce_weight, method.kd_weight) for method in methods] == [(1 - weight, weight) for weight in given]


def given(name="kd", student=(4, 10), teacher=(4, 10), epoch=1, **parameters):
    return method_loss(
        name, torch.zeros(student), torch.zeros(teacher), torch.zeros(student[0]).long(), epoch, **parameters
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "dkt"}, ["'dkt'", "lskd", "mt_aekd"]),
        ({"name": "dkd", "tau": 4}, ["dkd", "'tau'", "temperature", "alpha", "beta"]),
        ({"name": "dkd", "beta": -1}, ["dkd", "beta", "-1"]),
        ({"name": "dist", "temperature": 0}, ["dist", "temperature", "0"]),
        ({"name": "mlkd_weak", "temperatures": (4.0, 0.0)}, ["mlkd_weak", "temperatures", "0"]),
        ({"name": "rld", "warmup": 0}, ["rld", "warmup", "0"]),
        ({"name": "kd", "kd_weight": "0.5"}, ["kd, kd_weight", "number", "'0.5'"]),
        ({"name": "kd", "kd_weight": float("nan")}, ["kd, kd_weight", "finite", "nan"]),
        ({"name": "wttm", "power": float("nan")}, ["wttm", "power", "nan"]),
        ({"name": METHODS["dkd"](), "beta": 2.0}, ["beta", "dkd"]),
        ({"epoch": 0}, ["epochs", "1", "0"]),
        ({"teacher": (3, 10)}, ["3 images", "4"]),
        ({"student": (10,), "teacher": (10,)}, ["[images, classes]", "(10,)"]),
        ({"teacher": (10,)}, ["[teachers, images, classes]", "(4, 10) and (10,)"]),
        *[({"name": name}, [name, "at least 2", "1", "dkd"]) for name in SEVERAL],
        *[({"name": name, "teacher": (2, 4, 10)}, [name, "one teacher", "2", "mt_"]) for name in ONE if name != "kd"],
        *[
            ({"name": name, "student": (4, 2), "teacher": (4, 2)}, [name, "3 classes", "2", "vanishes"])
            for name in ("lskd", "dkd", "dkd_lskd", "rld", "nkd")
        ],
        ({"name": "dist", "student": (1, 10), "teacher": (1, 10)}, ["dist", "batch", "2"]),
        ({"name": "mt_aekd", "teacher": (3, 4, 10), "C": 0.3}, ["C", "0.333", "3 teachers", "0.3"]),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(changes, words):
    with pytest.raises(InputError) as error:
        given(**changes)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


@pytest.mark.parametrize("labels", [torch.zeros(4), torch.zeros(4, 10), torch.zeros(3).long(), torch.tensor(1)])
def test_labels_that_are_no_whole_numbers_are_one_sentence(labels):
    with pytest.raises(InputError, match=r"a whole number for each of the 4 images, got torch\.\w+ of shape \("):
        method_loss("kd", torch.zeros(4, 10), torch.zeros(4, 10), labels)


def test_an_unknown_method_of_a_spec_is_named_with_those_there_are():
    with pytest.raises(ValidationError, match="'dkt'.*'lskd'"):
        TypeAdapter(AnyMethod).validate_python({"name": "dkt"})


@pytest.mark.parametrize("formula", [lambda s, t: {}, lambda s, t, delta=1.0: {}, lambda s, t, power, labels: {}])
def test_a_formula_that_does_not_take_labels_third_is_refused(formula):
    with pytest.raises(InputError, match="its first parameters are the student's and the teacher's logits, and labels"):
        method_class("Other", formula)


@pytest.mark.parametrize("formula", [lambda s, t, labels, delta: {}, lambda s, t, labels, delta=1.0: {}])
def test_a_formulas_parameters_need_types_and_defaults(formula):
    with pytest.raises(InputError, match="its parameter 'delta' needs a type and a default"):
        method_class("Faulty", formula)


def test_the_method_that_the_readme_adds_works(tmp_path, monkeypatch):
    readme = (Path(__file__).parents[2] / "kdutils" / "README.md").read_text(encoding="utf-8")
    example = re.search(r"^## Adding a method\n.*?^```python\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)[1]
    assert len(example.splitlines()) <= 25
    (tmp_path / "example.py").write_text(example)
    names = runpy.run_path(str(tmp_path / "example.py"))
    tests = [thing for name, thing in names.items() if name.startswith("test_")]
    assert len(tests) == 1
    monkeypatch.setitem(METHODS, "huber", names["Huber"])
    tests[0]()
    assert given("huber", delta=2.0)[1]["kd"] == 0
