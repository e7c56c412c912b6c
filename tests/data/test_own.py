"""One's own images: files come back pixel by pixel, and a fault is named before anything is kept."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image, ImageOps
from torchvision.transforms import v2

from kdutils.__main__ import main
from kdutils.data import own
from kdutils.data.datasets import load_dataset, own_datasets
from kdutils.errors import InputError
from kdutils.settings import settings


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """A `KD_DATA_DIR` of this test alone."""
    monkeypatch.setenv("KD_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def painted(number: int) -> Image.Image:
    """An image of 32 x 32 pixels that no other number gives."""
    return Image.fromarray(np.random.RandomState(number).randint(0, 256, (32, 32, 3)).astype(np.uint8))


def write(folder: Path, classes: dict[str, int], suffix: str = "png") -> Path:
    """A folder of so many images of every class."""
    for label, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            painted(1000 * label + number).save(folder / name / f"{number}.{suffix}")
    return folder


def pixels_of(image: Image.Image, path: Path, **options) -> np.ndarray:
    image.save(path, **options)
    return own._pixels(path)


# What is read


def test_cifar_written_as_files_comes_back_with_its_digest(cifar, tmp_path):
    images = load_dataset("cifar10")
    for split in ("train", "test"):
        labels = getattr(images, f"{split}_labels")
        for number in torch.randperm(len(labels)).tolist():
            folder = tmp_path / "files" / split / images.classes[labels[number]]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(getattr(images, f"{split}_images")[number].numpy()).save(folder / f"{number}.PNG")
    own.add("mine", tmp_path / "files")
    ours = load_dataset("mine")
    assert (ours.digest, ours.classes) == (images.digest, images.classes) and ours.title == "the data set mine"
    assert torch.equal(ours.train_images, images.train_images) and torch.equal(ours.test_labels, images.test_labels)


def test_without_a_split_a_fifth_of_every_class_tests_whatever_the_files_are_called(tmp_path):
    first = write(tmp_path / "first", {"b": 10, "a": 23, "c": 2})
    own.add("first", first)
    ours = load_dataset("first")
    assert ours.classes == ("a", "b", "c")
    assert np.bincount(ours.train_labels).tolist() == [19, 8, 1] and np.bincount(ours.test_labels).tolist() == [4, 2, 1]
    every = torch.cat([ours.train_images, ours.test_images]).numpy()
    assert len({image.tobytes() for image in every}) == 35
    for path in sorted(first.rglob("*.png")):
        path.rename(path.with_name(f"{99 - int(path.stem)}.png"))
    own.add("second", first)
    assert load_dataset("second").digest == ours.digest


def test_a_thousand_classes(tmp_path):
    own.add("many", write(tmp_path / "files", {f"class {number:03d}": 2 for number in range(1000)}))
    ours = load_dataset("many")
    assert len(ours.classes) == 1000 and ours.classes[999] == "class 999"
    assert sorted(ours.train_labels.tolist()) == sorted(ours.test_labels.tolist()) == list(range(1000))
    place = ours.train_labels.tolist().index(777)
    assert ours.train_images[place].numpy().tobytes() in {np.asarray(painted(777_000 + k)).tobytes() for k in (0, 1)}


def test_what_is_no_image_is_skipped_and_counted(tmp_path):
    folder = write(tmp_path / "files", {"a": 2, "b": 2}, "webp")
    for name in ("readme.txt", "a/notes.txt", "a/film.gif", "b/Thumbs.db", "b/.DS_Store", "b/._0.png", ".git/HEAD"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no image")
    assert own.add("mine", folder) == {".txt": 2, ".gif": 1, ".db": 1}


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**31 - 1))
def test_an_image_is_resized_as_pillow_resizes_its_central_square(tmp_path_factory, width, height, seed):
    noise = np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)
    image, side = Image.fromarray(noise), min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    square = image.resize((32, 32), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    assert np.array_equal(pixels_of(image, tmp_path_factory.mktemp("x") / "x.png"), np.asarray(square))


def test_a_photograph_is_what_resizing_and_cropping_by_torchvision_makes_of_it(tmp_path):
    ramp = np.add.outer(np.linspace(0, 160, 120), np.linspace(0, 90, 200))
    image = Image.fromarray(np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=2).astype(np.uint8))
    theirs = v2.Compose([v2.Resize(32, v2.InterpolationMode.BICUBIC), v2.CenterCrop(32)])(image)
    difference = pixels_of(image, tmp_path / "x.png").astype(int) - np.asarray(theirs)
    assert abs(difference).max() <= 3


RED, GREY = (200, 30, 40), (128, 128, 128)


@pytest.mark.parametrize(
    ("image", "suffix", "expected"),
    [
        (Image.new("RGB", (40, 40), RED), "png", RED),
        (Image.new("RGB", (40, 40), RED).convert("P", palette=Image.Palette.ADAPTIVE), "png", RED),
        (Image.new("RGB", (40, 40), RED).convert("CMYK"), "jpg", RED),
        (Image.new("L", (40, 40), 128), "jpeg", GREY),
        (Image.new("1", (40, 40), 1), "png", (255, 255, 255)),
        (Image.new("LA", (40, 40), (128, 255)), "png", GREY),
        (Image.fromarray(np.full((40, 40), 128 * 256 + 7, np.uint16)), "png", GREY),
        (Image.new("RGBA", (40, 40), (*RED, 255)), "webp", RED),
        (Image.new("RGBA", (40, 40), (*RED, 0)), "png", (255, 255, 255)),
        (Image.new("RGBA", (40, 40), (0, 0, 0, 127)), "png", GREY),
    ],
)
def test_every_mode_becomes_rgb(image, suffix, expected, tmp_path):
    shown = pixels_of(image, tmp_path / f"x.{suffix}", **({"quality": 95} if suffix != "png" else {}))
    assert shown.shape == (32, 32, 3) and shown.dtype == np.uint8
    assert abs(shown.reshape(-1, 3).astype(int) - expected).max() <= 3


def test_an_image_stands_as_its_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    shown = pixels_of(painted(3), tmp_path / "x.png", exif=exif)
    assert np.array_equal(shown, np.rot90(np.asarray(painted(3)), -1))


@pytest.mark.parametrize("turn", range(10))
def test_every_turn_of_exif_is_that_of_pillow(turn, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = turn
    painted(3).save(tmp_path / "x.png", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "x.png"))
    assert np.array_equal(own._pixels(tmp_path / "x.png"), np.asarray(expected))


@pytest.mark.parametrize("tag", [0x011A, 0x0213, 0x0128])
def test_other_facts_that_a_camera_wrote_wrongly_do_no_harm(tag, tmp_path, recwarn):
    entries = sorted([(0x0112, 3, 1, struct.pack("<HH", 6, 0)), (tag, 2, 3, b"72\0\0")])  # a number as text
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + b"".join(struct.pack("<HHI4s", *each) for each in entries)
    shown = pixels_of(painted(3), tmp_path / "x.jpg", exif=exif + bytes(4), quality=95)
    plain = pixels_of(painted(3), tmp_path / "y.jpg", quality=95)
    assert np.array_equal(shown, np.rot90(plain, -1)) and not recwarn.list


# What is refused


def refusal(folder: Path, name: str = "mine", **options) -> str:
    """The sentence that refuses it, after it was checked that nothing was written."""
    data = settings().data_dir
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    with pytest.raises(InputError) as error:
        own.add(name, folder, **options)
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "name",
    ["", "cifar10", "cifar-mine", "synthetic", "synthetic-other", "imagenet", "auto", "add"]
    + ["a/b", "a\\b", "..", "../up", "a.b", "Upper", "1st", "with space", "a" * 41],
)
def test_a_name_that_is_not_allowed(name, tmp_path):
    said = refusal(write(tmp_path / "files", {"a": 2, "b": 2}), name)
    assert repr(name) in said and "allowed are" in said


def test_a_name_that_is_taken(tmp_path, data):
    own.add("mine", write(tmp_path / "old", {"a": 5, "b": 5}))
    old = load_dataset("mine").digest
    new = write(tmp_path / "new", {"a": 5, "c": 5, "d": 5})
    assert "already" in refusal(new) and "--rebuild" in refusal(new)
    assert refusal(tmp_path / "nowhere", replace=True) and load_dataset("mine").digest == old
    own.add("mine", new, replace=True)
    assert load_dataset("mine").digest != old and load_dataset("mine").classes == ("a", "c", "d")
    (data / "photos").mkdir()
    (data / "photos" / "letter.txt").write_text("dear")
    assert "is there and is no data set" in refusal(new, "photos", replace=True) and own_datasets() == ["mine"]


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", "half"])
def test_images_that_cannot_be_read_are_counted(content, tmp_path):
    folder = write(tmp_path / "files", {"a": 3, "b": 3})
    whole = (folder / "a" / "0.png").read_bytes()
    for name in ("a/1.png", "b/2.png"):
        (folder / name).write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    assert re.match(r"images that cannot be read: 2, such as \S+1\.png", refusal(folder))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_pipe_among_the_images_is_not_waited_for(tmp_path):
    folder = write(tmp_path / "files", {"a": 3, "b": 3})
    os.mkfifo(folder / "a" / "pipe.png")
    assert re.match(r"images that cannot be read: 1, such as \S+pipe\.png \(no file\)", refusal(folder))


def test_folders_of_another_layout(tmp_path):
    assert "is no folder" in refusal(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "2 to 1,000 classes, here are 0" in refusal(tmp_path / "empty")
    assert "another depth: 4" in refusal(write(tmp_path / "deep" / "inner", {"a": 2, "b": 2}).parent)
    assert "another depth: 4" in refusal(write(tmp_path / "deeper" / "x" / "y", {"a": 2, "b": 2}).parents[1])
    loose = write(tmp_path / "loose", {"a": 2, "b": 2})
    painted(0).save(loose / "x.png")
    assert "another depth: 1, such as" in refusal(loose)
    write(tmp_path / "three" / "train", {"a": 2, "b": 2})
    write(tmp_path / "three" / "val", {"a": 2, "b": 2})
    assert "another depth: 8" in refusal(tmp_path / "three")


@pytest.mark.parametrize("count", [1, 1001])
def test_numbers_of_classes_that_are_not_allowed(count, tmp_path):
    said = refusal(write(tmp_path / "files", {f"c{number}": 2 for number in range(count)}))
    assert f"2 to 1,000 classes, here are {count:,}" in said


def test_classes_of_too_few_images(tmp_path):
    said = refusal(write(tmp_path / "files", {"a": 2, "b": 1, "c": 0, "d": 5}))
    assert "too few images: 2, such as b with 1" in said and "at least 2" in said
    write(tmp_path / "split" / "train", {"a": 2, "b": 2})
    write(tmp_path / "split" / "test", {"a": 2, "b": 0})
    assert "too few images in test/: 1, such as b with 0" in refusal(tmp_path / "split")


@pytest.mark.parametrize("other", ["Cat", " cat", "cat  ", "ｃａｔ"])
def test_classes_of_one_name(other, tmp_path):
    assert "such as" in refusal(write(tmp_path / "files", {"cat": 2, other: 2, "dog": 2})).replace(": 2,", "")
    assert "differ in nothing but case" in refusal(tmp_path / "files")


def test_spellings_of_one_letter_are_one_name(tmp_path):
    write(tmp_path / "files" / "train", {"caf\u00e9": 2, "b": 2})
    write(tmp_path / "files" / "test", {"cafe\u0301": 2, "b": 2})
    own.add("mine", tmp_path / "files")
    assert load_dataset("mine").classes == ("b", "caf\u00e9")


def test_train_and_test_must_have_the_same_classes(tmp_path):
    write(tmp_path / "files" / "train", {"a": 2, "b": 2})
    write(tmp_path / "files" / "test", {"a": 2, "B": 2, "c": 2})
    assert "only one of train/ and test/: 3, such as B" in refusal(tmp_path / "files")


@pytest.mark.parametrize("name", ["a$b$", "<b>", "*a*", "a|b", "[x]", "a\nb\tc\x7f", " ", "\u3000"])
def test_names_of_classes_that_would_be_taken_for_signs(name, tmp_path):
    assert "classes named with one of" in refusal(write(tmp_path / "files", {name: 2, "b": 2}))


# The command


def test_the_command_shows_what_it_read_and_lists_it(tmp_path, capsys):
    folder = write(tmp_path / "files", {"cat": 10, "dog": 5})
    (folder / "readme.txt").write_text("no image")
    assert main(["data", "add", "pets", str(folder)]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [["class", "training", "test"], ["cat", "8", "2"], ["dog", "4", "1"], ["all", "12", "3"]] == shown[:4]
    assert shown[4][-2:] == ["(.txt:", "1)"] and load_dataset("pets").digest in " ".join(shown[5])
    assert main(["data"]) == 0
    assert re.search(r"pets +12 training and +3 test images, 2 classes", capsys.readouterr().out)


@pytest.mark.parametrize(
    "arguments",
    [
        ["add"],
        ["add", "pets"],
        ["add", "pets", "a", "b"],
        ["pets"],
        ["pets", "--rebuild"],
        ["add", "--rebuild", "pets"],
    ],
)
def test_a_command_that_says_too_little_or_too_much(arguments, capsys):
    assert main(["data", *arguments]) == 2
    assert "add" in capsys.readouterr().err
