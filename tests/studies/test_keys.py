"""Keys of runs behind reports/reference: were they to change, every recorded run would be lost."""

from __future__ import annotations

from kdutils.distillation.methods import KD
from kdutils.studies import study


def test_study_a_as_published():
    plan = study("assignment", "paper")
    assert plan.small_cnn(0).key == "small_cnn-2aa0dbe13f44f87d"
    assert plan.resnet("resnet50").key == "resnet50-1801ddc61b5a771d"


def test_study_b_overnight():
    keys = [specs[0].key for specs in study("binary", "overnight").phase_one().values()]
    assert keys == ["wrn_22-d9040b7b1e407bf8", "wrn_22-f62f3cddcb792663", "wrn_22-d4884a27c5571bbd"]


def test_studies_c_and_d_overnight():
    alone = [specs[0].key for specs in study("teacher-init", "overnight").arms().values() if not specs[0].teachers]
    assert alone == ["resnet18-ce912a8d865e10e0", "resnet18-e51503c7ad64b806", "sparse_cnn-ec343d6caf2da778"]
    arms = study("cifar100", "overnight").arms(KD(temperature=4.0, kd_weight=0.75))
    assert arms["student alone"][0].key == "cnn4-5f2060b08e331cba"
