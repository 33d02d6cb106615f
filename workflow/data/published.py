"""Published data sets, with the addresses, checksums and formats of torchvision."""

import gzip
import hashlib
import struct
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workflow.data.arrays import Array, Arrays
from workflow.data.download import obtain, refuse_misplaced
from workflow.data.splits import write_raw
from workflow.errors import BakeoffError
from workflow.files import unchanged

# The binary version of the same images; torchvision reads Python pickles, which can run code.
CIFAR10 = "cifar-10-binary.tar.gz"
CIFAR10_ADDRESSES = (f"https://www.cs.toronto.edu/~kriz/{CIFAR10}", f"https://cave.cs.toronto.edu/kriz/{CIFAR10}")
CIFAR10_CHECKSUM = "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
CIFAR10_FILES = (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin")
SIDE = 28  # of the images of MNIST and its successors, in pixels
UNPACKED = {  # MD5 of unpacked files; torchvision knows those of the packed ones
    "MNIST": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}
UBYTE = 0x0800  # in an idx file's magic number, beside the number of dimensions


@dataclass(frozen=True)
class Images:
    """Training and test images. own: the folder of their files, if these are not the published ones but the user's."""

    train: Arrays
    test: Arrays
    own: Path | None = None


@dataclass(frozen=True)
class Source:
    """A published data set.

    source, licence, classes: for the card. read: from the folder of the user's own files to images; downloads missing
    files.
    """

    source: str
    licence: str
    read: Callable[[Path], Images]
    classes: tuple[str, ...]


def download(name: str, root: Path, raw: Path) -> None:
    """Write a data set into the folder `raw`; its files are taken from the folder `root` or downloaded.

    Raises BakeoffError if a file is not available or not the right one.
    """
    source = SOURCES[name]
    images = source.read(root)
    train, test = images.train, images.test
    both = Arrays(np.concatenate([train.images, test.images]), np.concatenate([train.labels, test.labels]))
    about = {"source": source.source, "licence": source.licence, "levels": 256, "classes": list(source.classes)}
    if images.own:
        both, classes = _renumbered(both, source, name, images.own)
        own = {"source": f"own files in {source.source.partition(' (')[0]}'s format", "licence": "that of the files"}
        about |= {**own, "classes": classes}
    write_raw(raw, both, **about, given={"train": len(train), "test": len(test)})


def _renumbered(images: Arrays, source: Source, name: str, folder: Path) -> tuple[Arrays, list[str]]:
    """The user's images with labels 0..K-1, and the names of the K classes.

    Labels that the published set has, too, mean what they mean there. Others name classes of their own, as in EMNIST.
    """
    values, numbers = np.unique(images.labels, return_inverse=True)
    if values[-1] < len(source.classes):
        return images, list(source.classes)
    if name == "stacked_mnist":
        raise BakeoffError(
            f"{folder}: labels up to {values[-1]}: only digits, 0 to 9, can be stacked; set data.name: mnist"
        )
    return Arrays(images.images, numbers.astype(np.int64)), [str(value) for value in values]


def _idx(name: str) -> Callable[[Path], Images]:
    """A reader of MNIST and of data sets with the same format and file names."""

    def read(root: Path) -> Images:
        from torchvision import datasets  # takes seconds

        family = getattr(datasets, name)
        folder = root / name / "raw"
        plain = {Path(file).stem: folder / Path(file).stem for file, _ in family.resources}
        own = [path for path in plain.values() if path.exists() and not _is_published(path, name)]
        files = {}
        with unchanged(*plain.values()):
            for file, md5 in family.resources:
                stem = Path(file).stem
                if plain[stem].exists():
                    files[stem] = plain[stem]
                    continue
                if own:
                    raise BakeoffError(
                        f"{plain[stem]}: missing; {own[0].name} beside it is not the published file, so add it"
                    )
                refuse_misplaced(f"{name}/raw/{stem}", root)
                addresses = [mirror + file for mirror in family.mirrors]
                remedy = "; if it is your own, unpack it"
                files[stem] = obtain(f"{name}/raw/{file}", addresses, f"md5:{md5}", root, remedy)
            train, test = (
                _pair(files[f"{split}-images-idx3-ubyte"], files[f"{split}-labels-idx1-ubyte"])
                for split in ("train", "t10k")
            )
        return Images(train, test, folder if own else None)

    return read


def _is_published(path: Path, name: str) -> bool:
    """Whether an unpacked file is the published one; no checksums of KMNIST's unpacked files are known."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == UNPACKED.get(name, {}).get(path.name)


def _pair(images: Path, labels: Path) -> Arrays:
    """The content of a file of images and of that with their labels; raises BakeoffError if they do not fit."""
    x, y = _content(images), _content(labels)
    if x.shape[1:] != (SIDE, SIDE) or not len(x):
        raise BakeoffError(
            f"{images}: shape {x.shape}: should be (N, {SIDE}, {SIDE}); for other images, store them in an .npz "
            "and set data.name: arrays"
        )
    if y.shape != (len(x),):
        raise BakeoffError(
            f"{labels}: shape {y.shape}: should be ({len(x)},), a label for each image in {images.name}; take both "
            "from the same set"
        )
    return Arrays(x[:, None], y.astype(np.int64))


def _content(path: Path) -> Array:
    """The content of an idx file, compressed or not, uint8."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        magic, dimensions = struct.unpack_from(">I", content)[0], content[3]
        shape = struct.unpack_from(f">{dimensions}I", content, 4)
        if magic != UBYTE + dimensions:
            raise ValueError("not an idx file of bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, zlib.error, struct.error, IndexError, ValueError) as error:
        raise BakeoffError(f"{path}: damaged ({error}); remove it and run again") from None


def _cifar10(root: Path) -> Images:
    batches: list[Arrays] = []
    with tarfile.open(obtain(CIFAR10, CIFAR10_ADDRESSES, CIFAR10_CHECKSUM, root)) as archive:
        for file in CIFAR10_FILES:
            member = archive.extractfile(f"cifar-10-batches-bin/{file}")
            assert member  # the archive has the right checksum
            records = np.frombuffer(member.read(), np.uint8).reshape(-1, 1 + 3 * 32 * 32)
            batches.append(Arrays(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)))
    *train, test = batches
    return Images(Arrays(np.concatenate([b.images for b in train]), np.concatenate([b.labels for b in train])), test)


def _svhn(root: Path) -> Images:
    from torchvision.datasets import SVHN

    def read(split: str) -> Arrays:
        from scipy.io import loadmat

        address, file, md5 = SVHN.split_list[split]
        content: dict[str, Any] = loadmat(
            obtain(file, [address], f"md5:{md5}", root)
        )  # (32, 32, 3, N), and labels in which 10 means zero
        return Arrays(content["X"].transpose(3, 2, 0, 1), content["y"].astype(np.int64).squeeze(1) % 10)

    return Images(read("train"), read("test"))


TEN_DIGITS = tuple(str(digit) for digit in range(10))
MNIST = Source("MNIST (LeCun, Cortes & Burges 1998)", "CC BY-SA 3.0", _idx("MNIST"), TEN_DIGITS)
SOURCES = {
    "mnist": MNIST,
    "stacked_mnist": MNIST,
    "fashion_mnist": Source(
        "Fashion-MNIST (Xiao, Rasul & Vollgraf 2017)",
        "MIT",
        _idx("FashionMNIST"),
        ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "kmnist": Source(
        "Kuzushiji-MNIST (Clanuwat et al. 2018)",
        "CC BY-SA 4.0",
        _idx("KMNIST"),
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    ),
    "cifar10": Source(
        "CIFAR-10 (Krizhevsky 2009), its binary version",
        "none stated by the authors",
        _cifar10,
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
    "svhn": Source("SVHN, cropped digits (Netzer et al. 2011)", "non-commercial use", _svhn, TEN_DIGITS),
}
