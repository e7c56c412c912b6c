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


def test_study_b_overnight():
    keys = [specs[0].key for specs in study("binary", "overnight").phase_one().values()]
    assert keys == ["wrn_22-96579cc537f9d0aa", "wrn_22-e1d98a9487aceea5", "wrn_22-52fbf0566efb8fef"]


def test_study_c_overnight():
    assert [specs[0].key for specs in study("teacher-init", "overnight").arms().values()] == [
        "resnet18-44c8df738b40a3ea",
        "resnet18-efb32e94c201387d",
        "sparse_cnn-5a6ba842ef827ba2",
        "sparse_cnn-cf7e2c504cc79501",
        "sparse_cnn-f2974bc4b94ac26b",
    ]


def test_study_d_overnight():
    assert [spec.key for spec in study("cifar100", "overnight").grid()] == [
        "cnn4-5f2060b08e331cba",
        "cnn4-3b1aacecaf7d072b",
        "cnn4-36cd2fb0d4b1c703",
        "cnn4-8443c9bd59017da6",
        "cnn4-201261f944a8c0bb",
    ]
