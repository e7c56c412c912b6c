"""Keys of the studies' runs: were they to change, every recorded run would be lost."""

from __future__ import annotations

from kdutils.distillation.methods import KD
from kdutils.studies import study


def test_study_a_as_published():
    plan = study("assignment", "paper")
    assert plan.small_cnn(0).key == "small_cnn-2aa0dbe13f44f87d"
    assert plan.resnet("resnet50").key == "resnet50-125f1ba5b3145119"
    both = plan.student(("resnet18", "resnet50"), KD(temperature=4.0, kd_weight=0.9))
    assert both.key == "small_cnn-7a7d4519d4db0836"


def test_study_b_as_published():
    """But for BONN's lambda, which is ours."""
    keys = [specs[0].key for specs in study("binary", "paper").phase_one().values()]
    assert keys == [
        "wrn_16_7-5a9db14430821290",
        "wrn_16_7-7cf981b981237056",
        "wrn_16_7-198c8070b55cce0c",
        "wrn_16_7-7d9e14fec0f525fd",
    ]


def test_study_c_as_published():
    assert [specs[0].key for specs in study("teacher-init", "paper").arms().values()] == [
        "resnet101-9385dae6049a6345",
        "resnet101-ad75b05a310a057b",
        "sparse_cnn-6ea463db4049e8c5",
        "sparse_cnn-9e4835e6b6f051ea",
        "sparse_cnn-3b191a0697ea42dd",
    ]


def test_study_d_as_published():
    arms = study("cifar100", "paper").arms(KD(temperature=4.0, kd_weight=0.75))
    assert [specs[0].key for specs in arms.values()] == [
        "resnet32x4-3d07a5dd93f28e12",
        "cnn4-da0f67d4075178f1",
        "cnn4-314c3a68810babd0",
    ]
