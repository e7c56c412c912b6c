"""Packed networks: equal to the float ones bit for bit, as small as counted, and refused where they are not whole."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, safe_open, save_file
from torch import nn

from kdutils.errors import InputError
from kdutils.networks import packed as packing
from kdutils.networks.binary import BinaryConv2d, binary_layers
from kdutils.networks.counting import accounting, accounting_totals, parameter_count
from kdutils.networks.registry import MODELS, build_model

NETWORKS = (("wrn_16_1", {}), ("wrn_22", {}), ("wrn_22", {"width": 64}), ("wrn_16_7", {}))
MODES = ("xnor", "bonn", "stem")


class Trained:
    """A network without its training, all numbers that training would move drawn, and what builds it again."""

    def __init__(self, name: str, **options):
        self.network = {"name": name, "options": options, "num_classes": 10, "normalisation": "imagenet"}
        torch.manual_seed(3)
        self.model = build_model(name, 10, **options).eval()
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
            if isinstance(module, (nn.BatchNorm2d, nn.PReLU)):
                for parameter in module.parameters():
                    nn.init.normal_(parameter)

    def pack(self, path):
        packing.pack(self.model, self.network, path)


@pytest.fixture(scope="module")
def trained():
    return Trained("wrn_16_1", precision="bonn")


@pytest.fixture(scope="module")
def file(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "bonn.safetensors"
    trained.pack(path)
    return path


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def changed(file, path, header=(), **tensors):
    """The packed file with other header entries and tensors."""
    with safe_open(file, "pt") as source:
        metadata = source.metadata()
    save_file(load_file(file) | tensors, path, metadata | dict(header))
    return path


# The same results


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name, options", NETWORKS, ids=str)
def test_every_binary_layer_of_every_network_and_its_logits_are_equal_bit_for_bit(
    tmp_path, images, name, options, mode
):
    record = Trained(name, precision=mode, **options)
    record.pack(tmp_path / "packed")
    packed = packing.load_packed(tmp_path / "packed")
    for layout in (torch.contiguous_format, torch.channels_last):
        table = packing.check_exactness(record.model, packed, images.to(memory_format=layout))
        assert list(table["layer"]) == [layer for layer, _ in binary_layers(record.model)] + ["logits"]
        assert (
            table["differ"].sum() == 0
            and table["largest difference"].max() == 0
            and table["outputs compared"].min() >= 20
        )


def test_the_check_finds_a_single_wrong_bit(trained, file, images):
    packed = packing.load_packed(file)
    name, layer = next(
        (name, layer) for name, layer in packed.named_modules() if isinstance(layer, packing.PackedConv2d)
    )
    layer.words[1, 0, 0] ^= np.uint64(1)
    table = packing.check_exactness(trained.model, packed, images).set_index("layer")
    assert table.loc[name, "differ"] > 0 and table.loc["logits", "differ"] > 0


@pytest.mark.parametrize("channels, outputs", [(1, 3), (5, 7), (64, 4), (65, 66), (130, 2)])
@pytest.mark.parametrize("kernel, stride, padding", [(3, 1, 1), (3, 2, 1), (1, 2, 0), (3, 1, 0), (5, 3, 2)])
def test_popcounts_are_the_convolution_of_signs(channels, outputs, kernel, stride, padding):
    random = torch.Generator().manual_seed(channels)
    layer = BinaryConv2d(channels, outputs, kernel, "xnor", stride, padding)
    inputs = torch.randn(11, channels, 9, 12, generator=random)
    inputs[:, :, ::3], inputs[:, :, 1::3, 2] = 0.0, -0.0  # both are +1
    packed = packing.PackedConv2d((layer.weight >= 0).numpy().astype(np.uint8), torch.ones(outputs), layer)
    signs = [torch.where(tensor >= 0, 1.0, -1.0) for tensor in (inputs, layer.weight)]
    assert torch.equal(packed.sums(inputs), F.conv2d(*signs, stride=stride, padding=padding))


def test_popcounts_are_the_convolution_of_signs_counted_by_hand():
    layer = BinaryConv2d(3, 2, 3, "xnor", stride=2, padding=1)
    inputs = torch.randn(1, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    packed = packing.PackedConv2d((layer.weight >= 0).numpy().astype(np.uint8), torch.ones(2), layer)
    for kernel, row, column in np.ndindex(2, 3, 2):
        seen = [
            (c, i, j) for c, i, j in np.ndindex(3, 3, 3) if 0 <= 2 * row + i - 1 < 5 and 0 <= 2 * column + j - 1 < 4
        ]
        agree = sum(
            (inputs[0, c, 2 * row + i - 1, 2 * column + j - 1] >= 0) == (layer.weight[kernel, c, i, j] >= 0)
            for c, i, j in seen
        )
        assert packed.sums(inputs)[0, kernel, row, column] == 2 * agree - len(seen)


# As small as counted


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name, options", NETWORKS[:2], ids=str)
def test_the_file_is_as_large_as_the_table_says(tmp_path, name, options, mode):
    record = Trained(name, precision=mode, **options)
    record.pack(tmp_path / "packed")
    table = accounting(record.model)
    assert (tmp_path / "packed").stat().st_size == pytest.approx(table["bytes"].sum(), rel=0.01)
    tensors = load_file(tmp_path / "packed")
    assert sum(tensor.nbytes for tensor in tensors.values()) == table["bytes"].sum()


@pytest.mark.parametrize("name", MODELS)
def test_a_float_network_is_counted_whole(name):
    with torch.device("meta"):
        model = build_model(name, 10)
    table = accounting(model)
    assert table["parameters"].sum() == parameter_count(model) and set(table["precision"]) == {"32 bit"}
    floats = sum(tensor.numel() for tensor in model.state_dict().values() if tensor.is_floating_point())
    assert table["bytes"].sum() == table["float bytes"].sum() == 4 * floats


def test_a_binary_network_is_counted_by_hand():
    """WRN-16-1: three stages of two blocks, 16, 32 and 64 wide; BONN stores one scale for each of 12 convolutions."""
    table = accounting(build_model("wrn_16_1", 10, precision="bonn")).set_index("layer")
    blocks = 4 * 16 * 16 + 16 * 32 + 3 * 32 * 32 + 32 * 64 + 3 * 64 * 64
    binary = table[table["precision"] == "1 bit"]
    assert len(binary) == 12 and binary["parameters"].sum() == 9 * blocks + 12
    assert binary["bytes"].sum() == 9 * blocks // 8 + 4 * 12 and binary["float bytes"].sum() == 4 * 9 * blocks
    pixels = 4 * 16 * 16 * 32 * 32 + (16 * 32 + 3 * 32 * 32) * 16 * 16 + (32 * 64 + 3 * 64 * 64) * 8 * 8
    assert binary["MACs"].sum() == 9 * pixels
    assert table.loc["fc", ["parameters", "MACs", "kind"]].tolist() == [650, 640, "Linear"]
    totals = accounting_totals(table.reset_index()).set_index("precision")
    assert (
        totals.loc["all", "bytes"]
        == totals.loc["1 bit", "bytes"] + totals.loc["32 bit", "bytes"]
        == table["bytes"].sum()
    )


def test_counting_changes_neither_the_network_nor_the_random_state(trained):
    before, state = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}, torch.get_rng_state()
    accounting(trained.model.train())
    assert trained.model.training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.model.eval().state_dict().items())


def test_a_float_copy_of_the_file_has_the_same_accuracy_in_every_number(trained, file):
    """All that is no sign comes back as it was."""
    ours, theirs = packing.load_packed(file).state_dict(), trained.model.state_dict()
    kept = [name for name in theirs if name in ours and theirs[name].is_floating_point()]
    assert len(kept) > 50 and all(torch.equal(ours[name], theirs[name]) for name in kept)


def test_wrn_16_7_shrinks_twenty_times():
    """Of 33,609,192 bytes 1,623,832 are left: 1-bit kernels; float32 stem, shortcuts, classifier, slopes and norms."""
    small, large = (
        accounting(build_model("wrn_16_7", 10, precision=precision))["bytes"].sum() for precision in ("bonn", "full")
    )
    assert (large, small) == (33_609_192, 1_623_832) and large / small == pytest.approx(20.7, abs=0.01)


def test_a_loaded_network_holds_its_kernels_as_bits(file):
    layers = [layer for layer in packing.load_packed(file).modules() if isinstance(layer, packing.PackedConv2d)]
    assert len(layers) == 12
    for layer in layers:
        assert (
            layer.words.nbytes * 8 < 1.4 * np.prod(layer.shape)
            and sum(buffer.numel() for buffer in layer.buffers()) == 9 * layer.shape[0] + 1
        )


def test_a_packed_network_is_not_counted_twice(file):
    with pytest.raises(InputError, match="record.load_model"):
        accounting(packing.load_packed(file))


# What is not whole is refused


def test_a_network_without_binary_layers_cannot_be_packed(tmp_path):
    with pytest.raises(InputError, match="small_cnn.*precision stem, xnor or bonn"):
        Trained("small_cnn").pack(tmp_path / "packed")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("offset", [-1, -60_00, 20])
def test_a_changed_byte_is_found(file, tmp_path, offset):
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    (tmp_path / "changed").write_bytes(content)
    with pytest.raises(InputError, match="damaged|cannot be read|expected"):
        packing.load_packed(tmp_path / "changed")


def test_flipped_bits_of_the_header_are_one_sentence(file, tmp_path):
    whole = file.read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    for place in np.random.RandomState(0).permutation(8 * length)[:600]:
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        (tmp_path / "changed").write_bytes(content)
        with contextlib.suppress(InputError):
            packing._read(tmp_path / "changed")


@pytest.mark.parametrize("missing", [1, 2, 8, 100, 5_000])
def test_a_file_that_ends_early_is_refused(file, tmp_path, missing):
    (tmp_path / "short").write_bytes(file.read_bytes()[:-missing])
    with pytest.raises(InputError, match="cannot be read as a packed network"):
        packing.load_packed(tmp_path / "short")


def test_the_same_network_is_the_same_bytes_every_time(trained, file, tmp_path):
    for number in range(8):  # of 24 orders of a header's four entries
        trained.pack(tmp_path / str(number))
        assert (tmp_path / str(number)).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a pickle in a zip", None])
def test_another_file_is_no_packed_network(tmp_path, content):
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as a packed network"):
        packing.load_packed(tmp_path / "file")


@pytest.mark.parametrize(
    "header, words",
    [({"version": "2"}, "version '2', expected"), ({"format": "onnx"}, "'onnx'"), ({"digest": "0" * 64}, "damaged")],
)
def test_another_version_format_or_digest_is_named(file, tmp_path, header, words):
    with pytest.raises(InputError, match=words):
        packing.load_packed(changed(file, tmp_path / "changed", header))


@pytest.mark.parametrize(
    "network, words",
    [
        ({"name": "wrn_99"}, "unknown model 'wrn_99'"),
        ({"options": {"precision": "xnor"}}, r"values are .*needs torch.float32"),
        ({"num_classes": 100}, "needs"),
        ({"num_classes": -3}, "cannot be built"),
        ({"options": []}, "cannot be built"),
    ],
)
def test_a_file_that_does_not_fit_its_network_is_refused_though_its_digest_holds(file, tmp_path, network, words):
    with safe_open(file, "pt") as source:
        header = source.metadata()
    header["network"] = json.dumps(json.loads(header["network"]) | network)
    header["digest"] = packing._digest(load_file(file), header)
    with pytest.raises(InputError, match=words):
        packing.load_packed(changed(file, tmp_path / "changed", header))


@pytest.mark.parametrize(
    "tensors, words",
    [
        ({"bits": torch.zeros(9, dtype=torch.uint8)}, r"bits are torch.uint8 \[9\]"),
        ({"bits": torch.zeros(9, dtype=torch.bfloat16)}, "bits are torch.bfloat16"),
        ({"values": torch.zeros(2, 2)}, r"\[2, 2\]"),
    ],
)
def test_tensors_of_another_length_or_type_are_refused_though_their_digest_holds(file, tmp_path, tensors, words):
    with safe_open(file, "pt") as source:
        header = source.metadata()
    with pytest.raises(InputError, match=words):
        packing.load_packed(
            changed(
                file, tmp_path / "changed", {"digest": packing._digest(load_file(file) | tensors, header)}, **tensors
            )
        )


@pytest.mark.parametrize(
    "images, got",
    [
        ([1], "list"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "uint8"),
        (torch.zeros(2, 3, 28, 28), r"28, 28"),
        (torch.zeros(3, 32, 32), r"\[3, 32, 32\]"),
        (torch.zeros(1, 1, 32, 32, dtype=torch.float64), "float64"),
    ],
)
def test_images_of_another_size_or_type_are_refused_in_a_sentence(file, images, got):
    with pytest.raises(InputError, match=rf"float32 \[B, 3, 32, 32\], got .*{got}"):
        packing.load_packed(file)(images)


def test_speed_is_measured_for_both(trained, file, images):
    table = packing.packed_speed(trained.model, packing.load_packed(file), images, repeats=1)
    assert list(table["network"]) == ["float32", "packed, NumPy"] and table["over float32"].iloc[0] == "1"
    assert table["images/s"].str.replace(",", "").astype(float).min() > 0
