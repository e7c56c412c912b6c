"""Tables of cost: what is counted against hand-made counts, what is measured by its relations; no speed is tested."""

from __future__ import annotations

import pytest
import torch
from fake_records import record_of, runs, spec_of

from kdutils.errors import InputError
from kdutils.networks.counting import forward_macs
from kdutils.networks.registry import build_model
from kdutils.report import costs
from kdutils.runs.records import Record

MACHINE = {"hardware": "an abacus, 2 cores", "threads": "1"}


# Counted


def test_the_cost_of_an_arm_is_counted_and_measured(tmp_path):
    measured = [{"seconds": 10.0, "peak_memory_mb": 400.0}, {"seconds": 20.0, "peak_memory_mb": 401.0}]
    records = [record_of(tmp_path, spec_of(seed), **facts) for seed, facts in enumerate(measured)]
    records.append(record_of(tmp_path, spec_of(2), diverged=True, seconds=1.0, peak_memory_mb=999.0))
    row = costs.cost_table({"small CNN": records}).iloc[0]
    macs = 16 * 27 * 32**2 + 32 * 144 * 16**2 + 2048 * 128 + 128 * 10
    assert (row["n"], row["parameters"], row["MACs per image"]) == ("2, 1 diverged", "268,650", f"{macs:,}")
    assert (row["training time (s)"], row["images/s"], row["peak memory of worker (MB)"]) == (
        "15 ± 7",
        "2,000 ± 0",
        "401",
    )
    unknown = record_of(tmp_path, spec_of(3), peak_memory_mb=None)
    assert costs.cost_table({"small CNN": [unknown, *records]}).iloc[0]["peak memory of worker (MB)"] == "401"
    assert costs.cost_table({"small CNN": [unknown]}).iloc[0]["peak memory of worker (MB)"] == "–"
    lost = costs.cost_table({"small CNN": records[2:]}).iloc[0]
    assert (
        lost["n"] == "0, 1 diverged" and lost["training time (s)"] == lost["peak memory of worker (MB)"] == "diverged"
    )


class Untrained(Record):
    """A record whose network was never trained."""

    def load_model(self):
        return build_model(self.spec.model.name, 10, **self.spec.model.options)


def test_policies_count_the_parameters_that_train(tmp_path):
    last_block, stem, head = 8_393_728, 64 * 3 * 9 + 2 * 64, 512 * 10 + 10  # of a ResNet18 with a 3x3 stem
    counts = {("imagenet", "head"): head, ("cifar_pool", "last_block"): last_block + stem + head}
    counts[("cifar_pool", "all")] = 11_173_962
    made = [
        record_of(
            tmp_path, spec_of(name="resnet18", stem=stem, trainable=policy), seconds=31.4, diverged=policy == "all"
        )
        for stem, policy in counts
    ]
    names = ["head", "last block", "all layers"]
    records = [Untrained(record.path, record.spec, record.summary) for record in made]
    table = costs.policies_table(dict(zip(names, records)))
    assert table["what trains"].tolist() == names
    assert table["trained parameters"].tolist() == [f"{count:,}" for count in counts.values()]
    shown = ["train (%)", "val (%)", "test (%)", "time (s)"]
    assert table.loc[0, shown].tolist() == ["45.00", "50.00", "60.00", "31"]
    assert table.loc[2, shown].tolist() == ["diverged", "diverged", "diverged", "31"]


def test_binarising_the_document_s_network_saves_what_can_be_counted():
    """8,257,536 of WRN-16-7's 8,395,994 parameters are 3x3 weights of its blocks, 432 are its stem."""
    models = {precision: build_model("wrn_16_7", 10, precision=precision) for precision in ("full", "stem", "bonn")}
    floats = sum(tensor.numel() for tensor in models["full"].state_dict().values() if tensor.dim())
    table = costs.precision_table(models).set_index("network")
    assert table.loc["full", "1-bit parameters (%)"] == "0" and table.loc["full", "stored (bytes)"] == f"{4 * floats:,}"
    assert float(table.loc["bonn", "1-bit parameters (%)"]) == pytest.approx(98.35, abs=0.06)
    stored = int(table.loc["bonn", "stored (bytes)"].replace(",", ""))
    assert float(table.loc["bonn", "bytes saved (%)"]) == pytest.approx(100 * (1 - stored / 4 / floats), abs=0.05)
    assert 4 * floats / stored == pytest.approx(21, abs=0.5)
    assert float(table.loc["stem", "1-bit MACs (%)"]) == pytest.approx(0.04, abs=0.005)
    sentence = costs.stem_sentence(models["stem"], models["bonn"])
    first = "Binarising only the first convolution touches 0.0372 % of the multiplications and saves 0.00497 %"
    assert sentence.startswith(first) and "; binarising the blocks' convolutions touches 98.7 %" in sentence


def test_networks_stand_beside_the_published_sizes(tmp_path):
    resnet = [record_of(tmp_path, spec_of(name="resnet18"), test=76.5)]
    arms = {"ResNet18": resnet, "unpublished": runs(tmp_path, (60.0, 1.0), diverged=(1,))}
    table = costs.networks_table(arms, "binary").set_index("network").astype(str)
    columns = ["n", "test (%)", "published (%)", "parameters", "published parameters"]
    assert table.loc["ResNet18", columns].tolist() == ["1", "76.50", "75.50", "11,173,962", "11.2 million"]
    assert table.loc["unpublished", columns].tolist() == ["1, 1 diverged", "60.00", "–", "268,650", "–"]
    assert table.loc["unpublished", "stored (bytes)"] == f"{4 * 268_650:,}"


# Inference


def test_the_cost_of_teacher_and_student(monkeypatch):
    models = {"teacher": build_model("resnet32x4", 100), "student": build_model("cnn4", 100)}
    speeds = {id(models["teacher"]): 100, id(models["student"]): 8000}
    monkeypatch.setattr(costs, "_forward_seconds", lambda model, batch, seconds: batch / speeds[id(model)])
    table = costs.inference_table(models).set_index("network")
    assert table.index.tolist() == ["teacher", "student", "teacher over student"]
    assert table["parameters"].tolist() == ["7,433,860", "799,652", "9.3"]
    macs = [f"{forward_macs(name, 100):,}" for name in ("resnet32x4", "cnn4")]
    assert table["MACs per image"].tolist()[:2] == macs
    assert table["float32 (bytes)"]["student"] == f"{4 * 799_652:,}"  # it has no batch norm
    assert table["ms at batch 1"].tolist() == ["10.00", "0.12", "80"]
    assert table["images/s at batch 64"].tolist() == ["100", "8,000", "0.0125"]


def test_measuring_a_network_leaves_it_and_the_process_alone():
    models = {name: build_model(name, 10) for name in ("resnet8x4", "cnn4")}
    before = {name: [value.clone() for value in model.state_dict().values()] for name, model in models.items()}
    random, threads = torch.get_rng_state(), torch.get_num_threads()
    table = costs.inference_table(models, batches=(1, 2), seconds=0.01)
    assert (table.iloc[:2, 4:].map(lambda shown: float(shown.replace(",", ""))) > 0).all(axis=None)
    for name, model in models.items():
        assert model.training and all(map(torch.equal, before[name], model.state_dict().values()))
    assert torch.equal(torch.get_rng_state(), random) and torch.get_num_threads() == threads


@pytest.mark.parametrize("wrong", [{"models": {}}, {"batches": (0, 1)}, {"seconds": 0.0}, {"seconds": float("nan")}])
def test_inference_says_what_it_takes(wrong):
    models = {name: build_model("small_cnn", 10) for name in ("teacher", "student")}
    with pytest.raises(InputError, match="two networks or more, batches of at least 1"):
        costs.inference_table(**{"models": models} | wrong)


# Grids
