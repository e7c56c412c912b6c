"""One's own images as a data set: FOLDER/<class>/* or FOLDER/{train,test}/<class>/*, as for torchvision's ImageFolder.

Images are PNG, JPEG or WebP files of any size and mode. Each is turned as its EXIF says, 16-bit greys become 8-bit,
transparency is laid on white, and the central square is resized to 32 x 32 pixels (bicubic, antialiased). Classes are
numbered by name. Without train/ and test/, a fifth of every class becomes test images, drawn by a seed from images and
labels. Hidden files and folders (those whose names begin with a dot) are skipped.
"""

import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdutils.data.datasets import OWN_NAME, build_dataset, in_canonical_order, is_cached, on_disk
from kdutils.errors import InputError
from kdutils.settings import settings

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_LAYOUT = "images lie in FOLDER/<class>/, or all in FOLDER/train/<class>/ and FOLDER/test/<class>/"
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF's orientations as Pillow's `Transpose`
_MARKUP = re.compile(r"[\\$<>*`|\[\]{}]")  # these have a meaning in formulas and tables


@on_disk()
def add(name: str, folder: Path, replace: bool = False) -> Counter:
    """Make the data set `name` from the images in `folder`; returns how many other files were skipped, by suffix.

    Raises `InputError`, and changes nothing, for a name that is not allowed or that is taken (unless `replace`), a
    folder of another layout, classes that are too many, too few, too small or too alike, and unreadable images.
    """
    place = settings().data_dir / name
    if not OWN_NAME.fullmatch(name):
        raise InputError(
            f"a data set cannot be called {name!r}: allowed are up to 40 small letters, digits, - and _, a letter "
            "first, but neither auto, add and imagenet nor what begins with cifar or synthetic"
        )
    if is_cached(name) and not replace:
        raise InputError(f"there is a data set {name} already: choose another name, or replace it with --rebuild")
    if place.exists() and not is_cached(name) and any(place.glob("*")):
        raise InputError(f"{place} is there and is no data set: choose another name")
    splits, skipped = _listed(folder)
    classes = _checked(splits)
    read, faults = [], []
    for split in splits.values():
        pixels, labels = [], []
        for label, found in enumerate(classes):
            for path in split[found]:
                try:
                    pixels.append(_pixels(path))
                    labels.append(label)
                except Exception as error:  # decoders of damaged files raise nearly anything
                    faults.append(f"{path} ({error})")
        read.append((pixels, labels))
    _refuse("images that cannot be read", faults, "mend or remove them")
    arrays = []
    for pixels, labels in read:
        labels = np.array(labels, np.uint8 if len(classes) <= 256 else np.int16)
        arrays += in_canonical_order(np.stack(pixels), labels)
    if len(splits) == 1:
        test = _test_images(arrays[1])
        arrays = [array[part] for part in (~test, test) for array in arrays]
    build_dataset(name, (arrays, tuple(classes)))
    return skipped


def _listed(folder: Path) -> tuple[dict[str, dict[str, list[Path]]], Counter]:
    """The image files by split ("" if there is none) and class folder; and counts of the other files by suffix."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: {_LAYOUT}")
    inside = {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
    splits = {"train": {}, "test": {}} if inside == {"train", "test"} else {"": {}}
    depth, astray, skipped = len(splits), [], Counter()
    for root, folders, files in os.walk(folder, onerror=_fail, followlinks=True):
        place = Path(root).relative_to(folder).parts
        folders[:] = [name for name in folders if not name.startswith(".") and len(place) < 5]
        files = [name for name in files if not name.startswith(".")]
        images = {name for name in files if name.lower().endswith(_SUFFIXES)}
        skipped.update(Path(name).suffix.lower() or name for name in files if name not in images)
        paths = [Path(root, name) for name in sorted(images)]
        if len(place) == depth:
            splits["".join(place[:-1])][place[-1]] = paths
        else:
            astray += paths
    _refuse(f"images of {folder} at another depth", astray, _LAYOUT)
    return splits, skipped


def _fail(error: OSError) -> None:
    raise error


def _checked(splits: dict[str, dict[str, list[Path]]]) -> list[str]:
    """The sorted names of the classes, which also replace the names of the folders in `splits`."""
    least = 1 if len(splits) > 1 else 2
    for split, found in splits.items():
        named = {folder: " ".join(unicodedata.normalize("NFC", folder).split()) for folder in found}
        alike = Counter(unicodedata.normalize("NFKC", name).casefold() for name in named.values())
        twice = [name for name in named.values() if alike[unicodedata.normalize("NFKC", name).casefold()] > 1]
        _refuse("classes whose names differ in nothing but case, spaces or spelling of letters", twice, "rename them")
        signs = [name for name in named.values() if _MARKUP.search(name) or not (name and name.isprintable())]
        _refuse("classes named with one of \\ $ < > * ` | [ ] { } or no text", signs, "rename their folders")
        small = [f"{named[folder]} with {len(images)}" for folder, images in found.items() if len(images) < least]
        where, remedy = f" in {split}/" * bool(split), f"every class needs at least {least}{' in each' * (least == 1)}"
        _refuse(f"classes with too few images{where}", small, f"{remedy}, PNG, JPEG or WebP")
        splits[split] = {named[folder]: images for folder, images in found.items()}
    first, *others = map(set, splits.values())
    lone = sorted(set().union(*(first ^ other for other in others)))
    _refuse("classes that are in only one of train/ and test/", lone, "give both the same")
    if not 2 <= len(first) <= 1000:
        raise InputError(f"a data set has 2 to 1,000 classes, here are {len(first):,}: {_LAYOUT}")
    return sorted(first)


def _refuse(what: str, faults: Sequence, remedy: str) -> None:
    if faults:
        raise InputError(f"{what}: {len(faults):,}, such as {faults[0]}; {remedy}")


def _pixels(path: Path) -> np.ndarray:
    """An image file's central square, uint8 [32, 32, 3]."""
    from PIL import Image, ImageOps

    if not path.is_file():  # reading a named pipe would wait for ever
        raise OSError("no file")
    with warnings.catch_warnings(action="ignore"):  # warnings about EXIF say nothing about the pixels
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as file:
            turn = file.getexif().get(0x0112)
            image = file.transpose(_TURNS[turn]) if turn in _TURNS else file.copy()
    if image.mode.startswith("I"):  # 16-bit greys, which `convert` would clip
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(ImageOps.fit(image.convert("RGB"), (32, 32)))


def _test_images(labels: np.ndarray) -> np.ndarray:
    """The test images, bool [N]: a fifth of every class and at least one, drawn from NumPy's frozen legacy stream."""
    random, test = np.random.RandomState(0), np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        test[members[: max(1, len(members) // 5)]] = True
    return test
