"""Weights from files: every form that public codes save, and nothing but weights."""

from __future__ import annotations

import argparse
import copy
import hashlib
import os
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from kdutils.errors import InputError, Unavailable
from kdutils.networks.registry import IMAGENET_NETWORKS, build_model
from kdutils.networks.weights import available, file_digest, imagenet_digest, load_imagenet, load_weights_file


@cache
def random_resnet18() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    model = torchvision.models.resnet18(num_classes=1000)
    for buffer in model.buffers():
        buffer.copy_(torch.rand(buffer.shape) + 1 if buffer.is_floating_point() else torch.tensor(7))
    return model.state_dict()


def imagenet(folder, monkeypatch, change=lambda state: state) -> dict[str, torch.Tensor]:
    """Random weights written as this machine's own `resnet18.safetensors`."""
    monkeypatch.setenv("KD_DATA_DIR", str(folder))
    (folder / "imagenet").mkdir()
    save_file(change(dict(random_resnet18())), folder / "imagenet" / "resnet18.safetensors")
    return random_resnet18()


@pytest.mark.parametrize("stem", ["imagenet", "cifar_pool"])
def test_imagenet_weights_fill_all_but_the_head(tmp_path, monkeypatch, stem):
    state = imagenet(tmp_path, monkeypatch)
    model = build_model("resnet18", 10, stem=stem)
    head = model.fc.weight.clone(), model.fc.bias.clone()
    source = load_imagenet(model, "resnet18")
    assert "resnet18.safetensors" in source and "SHA-256" in source
    assert torch.equal(model.fc.weight, head[0]) and torch.equal(model.fc.bias, head[1])
    for name, tensor in model.state_dict().items():
        if not name.startswith("fc."):
            expected = state[name][:, :, 2:-2, 2:-2] if (name, stem) == ("conv1.weight", "cifar_pool") else state[name]
            assert torch.equal(tensor, expected), name


@pytest.mark.parametrize("stem", ["imagenet", "cifar_pool"])
def test_a_file_without_a_stem_does_not_fit(tmp_path, monkeypatch, stem):
    imagenet(
        tmp_path, monkeypatch, lambda state: {name: tensor for name, tensor in state.items() if name != "conv1.weight"}
    )
    with pytest.raises(InputError, match="does not fit resnet18.*conv1.weight"):
        load_imagenet(build_model("resnet18", 10, stem=stem), "resnet18")


def test_a_stem_of_other_kernels_does_not_fit(tmp_path, monkeypatch):
    imagenet(tmp_path, monkeypatch, lambda state: state | {"conv1.weight": torch.zeros(64, 3, 5, 5)})
    with pytest.raises(InputError, match="does not fit resnet18"):
        load_imagenet(build_model("resnet18", 10), "resnet18")


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {name: tensor for name, tensor in state.items() if name != "layer2.0.bn1.running_mean"},
        lambda state: state | {"layer9.weight": torch.zeros(1)},
        lambda state: state | {"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)},
    ],
)
def test_weights_of_another_network_do_not_fit(tmp_path, monkeypatch, change):
    imagenet(tmp_path, monkeypatch, change)
    model = build_model("resnet18", 10)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match="does not fit resnet18"):
        load_imagenet(model, "resnet18")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"not safetensors", None])
def test_a_damaged_weights_file_is_named(tmp_path, monkeypatch, content):
    imagenet(tmp_path, monkeypatch)
    path = tmp_path / "imagenet" / "resnet18.safetensors"
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(InputError, match="resnet18.safetensors is damaged or no state dict"):
        load_imagenet(build_model("resnet18", 10), "resnet18")


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_imagenet_weights_are_available_where_they_lie_and_no_network_is_built(tmp_path, monkeypatch, name):
    imagenet(tmp_path, monkeypatch)
    monkeypatch.setattr("kdutils.networks.registry.build_model", None)
    file = tmp_path / "imagenet" / "resnet18.safetensors"
    assert available(name) == (name == "resnet18") and not available("small_cnn")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    assert imagenet_digest(name) == (digest if name == "resnet18" else None)


def test_available_weights_that_are_damaged_are_told(tmp_path, monkeypatch):
    imagenet(tmp_path, monkeypatch)
    (tmp_path / "imagenet" / "resnet18.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="resnet18.safetensors is damaged"):
        available("resnet18")


def test_weights_that_torchvision_has_downloaded_are_read_and_named_by_digest(tmp_path, monkeypatch):
    state = imagenet(tmp_path, monkeypatch)
    (tmp_path / "imagenet" / "resnet18.safetensors").unlink()
    cached = Path(os.environ["TORCH_HOME"], "hub", "checkpoints", "resnet18-f37072fd.pth")
    cached.parent.mkdir(parents=True)
    torch.save(state, cached)
    assert available("resnet18") and imagenet_digest("resnet18") == file_digest(cached)
    model = build_model("resnet18", 10, stem="imagenet")
    assert load_imagenet(model, "resnet18") == f"torchvision's {cached.name} (SHA-256 {file_digest(cached)})"
    assert torch.equal(model.conv1.weight, state["conv1.weight"])
    cached.write_bytes(cached.read_bytes()[:-50])
    with pytest.raises(InputError, match="resnet18-f37072fd.pth is damaged"):  # not: cannot be downloaded
        available("resnet18")


@pytest.mark.parametrize("name", IMAGENET_NETWORKS)
def test_what_is_downloaded_is_torchvisions(name, monkeypatch):
    asked, weights = [], torchvision.models.get_model_weights(name).IMAGENET1K_V1
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda address, **how: asked.append((address, how)))
    with pytest.raises(InputError):  # nothing has come
        available(name)
    assert asked == [(weights.url, {"check_hash": True, "weights_only": True})]


def test_a_full_disk_while_downloading_is_not_taken_for_a_missing_network(monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", full)
    with pytest.raises(InputError, match="No space left on device.*TORCH_HOME") as error:
        available("resnet18")
    assert not isinstance(error.value, Unavailable)


def test_without_file_and_network_the_place_for_the_file_is_named():
    with pytest.raises(Unavailable, match="imagenet/resnet18.safetensors"):
        load_imagenet(build_model("resnet18", 10), "resnet18")


# State dicts from files


@cache
def trained(name: str = "resnet8x4", classes: int = 100) -> dict[str, torch.Tensor]:
    """A state dict with statistics other than a new network's."""
    torch.manual_seed(11)
    model = build_model(name, classes).train()
    with torch.no_grad():
        model(torch.randn(4, 3, 32, 32))
    return {key: value.clone() for key, value in model.state_dict().items()}


def kuangliu(key: str) -> str:
    return key.replace(".downsample.", ".shortcut.").replace("fc.", "linear.")


def optimised(state: dict[str, torch.Tensor]) -> dict[str, object]:
    """What is saved beside the weights: the states of an optimiser, its schedule and the arguments of the command."""
    model = build_model("resnet8x4", 100)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    optimiser = torch.optim.Adam(model.parameters())
    optimiser.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [150, 180])
    arguments = argparse.Namespace(lr=0.05, milestones=[150, 180], more=argparse.Namespace(name=None))
    beside = {"optimizer": optimiser.state_dict(), "scheduler": schedule.state_dict(), "opt": arguments}
    return {"net": state, **beside}


def prefixed(*prefixes: str):
    return lambda state: {"".join(prefixes) + key: value for key, value in state.items()}


def averaged(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    model = build_model("resnet8x4", 100)
    model.load_state_dict(state)
    return torch.optim.swa_utils.AveragedModel(model).state_dict()


FORMS = {
    "bare.pth": lambda state: state,
    "crd.pth": lambda state: {"epoch": 240, "model": state, "best_acc": torch.tensor(79.42)},
    "wrapped.pt": lambda state: {"state_dict": prefixed("module.")(state), "epoch": 3},
    "other_names.pth": lambda state: {kuangliu(key): value for key, value in state.items()},
    "no_counters.pth": lambda state: {key: value for key, value in state.items() if "num_batches" not in key},
    "net.pth": lambda state: {"net": state, "acc": np.float64(79.42), "epoch": np.int64(3), "best": np.bool_(True)},
    "float32.pth": lambda state: {"net": state, "acc": np.float32(79.42), "curve": np.arange(3.0)},
    "nested.pth": lambda state: {"model": {"state_dict": {"net": {"model": state}}, "epoch": 3}},
    "tutorial.pth": lambda state: {"epoch": 3, "model_state_dict": state, "loss": 0.4},
    "deepspeed.pth": lambda state: {"module": state, "optimizer": None, "global_steps": 7},
    "lightning.ckpt": lambda state: {"state_dict": prefixed("model.")(state), "callbacks": {}, "global_step": 7},
    "lightning_net.ckpt": lambda state: {"state_dict": prefixed("net.", "backbone.")(state)},
    "compiled.pth": prefixed("_orig_mod."),
    "several.pth": prefixed("module.", "_orig_mod.", "module."),
    "several_more.pth": prefixed("_orig_mod.", "module.", "student.", "module."),
    "distiller.pth": lambda state: {
        "model": prefixed("module.student.")(state) | prefixed("module.teacher.")(state) | {"module.embed.weight": 0}
    },
    "averaged.pth": averaged,
    "profiled.pth": lambda state: {**state, "total_ops": torch.zeros(1), "layer1.0.total_params": torch.zeros(1)},
    "optimised.pth": optimised,
}


@pytest.mark.parametrize("name", [*FORMS, "plain.safetensors", "safetensors_by_its_bytes.pth"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_public_state_dict_loads_whatever_it_is_wrapped_in(tmp_path, name, zipped):
    state, path = trained(), tmp_path / name
    if "safetensors" in name:
        save_file(state, path)
    else:
        torch.save(FORMS[name](state), path, _use_new_zipfile_serialization=zipped)
    model = build_model("resnet8x4", 100)
    source = load_weights_file(model, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    assert source == f"{name} (SHA-256 {digest})" and file_digest(path) == digest
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]) or "num_batches" in key


class Trap:
    """What a pickle may do: call anything."""

    def __reduce__(self):
        return os.mkdir, (os.environ["TRAP"],)


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 half an archive"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_unreadable_state_dict_is_named(tmp_path, content, suffix):
    path = tmp_path / f"teacher{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"teacher{suffix} is damaged or no state dict .*: give") as error:
        load_weights_file(build_model("resnet8x4", 100), path)
    assert "\n" not in str(error.value)


def test_a_missing_state_dict_is_named(tmp_path):
    with pytest.raises(InputError, match="nothing.pth cannot be read .No such file"):
        load_weights_file(build_model("resnet8x4", 100), tmp_path / "nothing.pth")


def test_code_in_a_state_dict_is_never_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    torch.save({"model": trained(), "extra": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(InputError, match=rf"trap.pth holds {os.name}.mkdir, which could run anything"):
        load_weights_file(build_model("resnet8x4", 100), tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        (lambda: torch.optim.SGD([torch.zeros(1)], lr=0.1), "torch.optim.sgd.SGD"),
        (lambda: nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (lambda: argparse.Namespace(path=PurePosixPath("x")), "pathlib.*PurePosixPath"),
        (lambda: nn.functional.relu, "torch.nn.functional.relu"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_objects_of_other_classes_are_refused_by_name(tmp_path, beside, named, zipped):
    torch.save({"model": trained(), "beside": beside()}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=f"x.pth holds {named}, which could run anything and is not read: give"):
        load_weights_file(build_model("resnet8x4", 100), tmp_path / "x.pth")


def test_a_numpy_scalar_of_an_older_numpy_is_read(tmp_path):
    path, state = tmp_path / "old.pth", trained()
    torch.save({"model": state, "acc": np.float64(1.5)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert content.count(b"cnumpy._core.multiarray\n") == 1
    path.write_bytes(content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    load_weights_file(build_model("resnet8x4", 100), path)


def test_a_network_whose_own_names_have_shortcut_keeps_them(tmp_path):
    state = trained("wrn_16_1", 10)
    torch.save({"net": state}, tmp_path / "wrn.pth")
    model = build_model("wrn_16_1", 10)
    load_weights_file(model, tmp_path / "wrn.pth")
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def small(folder: Path, form: str) -> Path:
    """A small state dict in one of the three forms of files."""
    path = folder / form
    state = {"conv.weight": torch.arange(6.0).view(2, 3), "conv.bias": torch.ones(2), "steps": torch.tensor(3)}
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state}, path, _use_new_zipfile_serialization=form == "zip")
    return path


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_a_file_that_ends_anywhere_too_early_is_one_sentence(tmp_path, form):
    path = small(tmp_path, form)
    whole, model = path.read_bytes(), nn.Linear(1, 1)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=f"{form} is damaged or no state dict .*: give|{form} holds") as error:
            load_weights_file(model, path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_flipped_bits_are_one_sentence(tmp_path, form):
    """Or other names, which do not fit; of the bits that are left, some are tensors' and no reader could tell."""
    path, model = small(tmp_path, form), nn.Linear(1, 1)
    whole, bits = path.read_bytes(), np.random.RandomState(0)
    for place in bits.permutation(8 * len(whole))[:1_000]:
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            load_weights_file(model, path)
        assert "\n" not in str(error.value) and path.name in str(error.value)


def test_a_folder_is_no_file_of_weights(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_weights_file(nn.Linear(1, 1), tmp_path)


def test_a_dict_that_holds_itself_ends(tmp_path):
    endless: dict[str, object] = {}
    endless["model"] = endless
    torch.save(endless, tmp_path / "endless.pth")
    with pytest.raises(InputError, match="endless.pth does not fit"):
        load_weights_file(nn.Linear(1, 1), tmp_path / "endless.pth")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda state: {**state, "fc.bias": torch.zeros(10)},
            ["1 of its keys differ", "fc.bias (expected [100], the file has [10])"],
        ),
        (
            lambda state: {key: value for key, value in state.items() if not key.startswith("fc.")},
            ["2 of its keys differ", "fc.bias (expected [100], the file has nothing)"],
        ),
        (lambda state: {**state, "head.weight": torch.zeros(3)}, ["head.weight (expected nothing, the file has [3])"]),
        (lambda state: trained("resnet32x4"), ["layer1.1.bn1.bias (expected nothing, the file has [64])"]),
        (lambda state: {"model": "resnet8x4"}, ["keys differ", "bn1.bias (expected [32], the file has nothing)"]),
        (lambda state: [1, 2], ["keys differ"]),
        (lambda state: {**state, "fc.weight": state["fc.weight"].to_sparse()}, ["fc.weight is sparse, quantised or"]),
        (
            lambda state: {**state, "fc.weight": (100 * state["fc.weight"]).to(torch.int8)},
            ["or torch.int8, give plain"],
        ),
        (lambda state: {**state, "fc.weight": state["fc.weight"].to("meta")}, ["give plain weights"]),
    ],
)
def test_a_state_dict_that_does_not_fit_names_the_keys_and_changes_nothing(tmp_path, change, words):
    path, model = tmp_path / "teacher.pth", build_model("resnet8x4", 100)
    torch.save(change(trained()), path)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError) as error:
        load_weights_file(model, path)
    assert all(word in str(error.value) for word in ["teacher.pth", *words]) and "\n" not in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
