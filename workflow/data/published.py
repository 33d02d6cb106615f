"""Published data sets, with the addresses, checksums and formats of torchvision."""

import gzip
import struct
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workflow.data.arrays import Array, Arrays
from workflow.data.download import obtain
from workflow.data.splits import write_raw
from workflow.errors import BakeoffError

# The binary version of the same images; torchvision reads Python pickles, which can run code.
CIFAR10 = "cifar-10-binary.tar.gz"
CIFAR10_ADDRESSES = (f"https://www.cs.toronto.edu/~kriz/{CIFAR10}", f"https://cave.cs.toronto.edu/kriz/{CIFAR10}")
CIFAR10_CHECKSUM = "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
CIFAR10_FILES = (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin")
UBYTE = 0x0800  # in an idx file's magic number, beside the number of dimensions


@dataclass(frozen=True)
class Source:
    """A published data set.

    source, licence, classes: for the card. read: from the folder of the user's own files to training and test images;
    downloads missing files.
    """

    source: str
    licence: str
    read: Callable[[Path], tuple[Arrays, Arrays]]
    classes: tuple[str, ...]


def download(name: str, root: Path, raw: Path) -> None:
    """Write a data set into the folder `raw`; its files are taken from the folder `root` or downloaded.

    Raises BakeoffError if a file is not available or not the right one.
    """
    source = SOURCES[name]
    train, test = source.read(root)
    both = Arrays(np.concatenate([train.images, test.images]), np.concatenate([train.labels, test.labels]))
    about = {"source": source.source, "licence": source.licence, "levels": 256, "classes": list(source.classes)}
    write_raw(raw, both, **about, given={"train": len(train), "test": len(test)})


def _idx(name: str) -> Callable[[Path], tuple[Arrays, Arrays]]:
    """A reader of MNIST and of data sets with the same format and file names."""

    def read(root: Path) -> tuple[Arrays, Arrays]:
        from torchvision import datasets  # takes seconds

        family = getattr(datasets, name)
        files = {}
        for file, md5 in family.resources:
            plain = root / name / "raw" / Path(file).stem
            path = plain
            if not plain.exists():
                addresses = [mirror + file for mirror in family.mirrors]
                path = obtain(f"{name}/raw/{file}", addresses, f"md5:{md5}", root)
            files[plain.name] = _content(path)
        return tuple(
            Arrays(files[f"{split}-images-idx3-ubyte"][:, None], files[f"{split}-labels-idx1-ubyte"].astype(np.int64))
            for split in ("train", "t10k")
        )  # type: ignore[return-value]

    return read


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


def _cifar10(root: Path) -> tuple[Arrays, Arrays]:
    batches: list[Arrays] = []
    with tarfile.open(obtain(CIFAR10, CIFAR10_ADDRESSES, CIFAR10_CHECKSUM, root)) as archive:
        for file in CIFAR10_FILES:
            member = archive.extractfile(f"cifar-10-batches-bin/{file}")
            assert member  # the archive has the right checksum
            records = np.frombuffer(member.read(), np.uint8).reshape(-1, 1 + 3 * 32 * 32)
            batches.append(Arrays(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)))
    *train, test = batches
    return Arrays(np.concatenate([b.images for b in train]), np.concatenate([b.labels for b in train])), test


def _svhn(root: Path) -> tuple[Arrays, Arrays]:
    from torchvision.datasets import SVHN

    def read(split: str) -> Arrays:
        from scipy.io import loadmat

        address, file, md5 = SVHN.split_list[split]
        content: dict[str, Any] = loadmat(
            obtain(file, [address], f"md5:{md5}", root)
        )  # (32, 32, 3, N), and labels in which 10 means zero
        return Arrays(content["X"].transpose(3, 2, 0, 1), content["y"].astype(np.int64).squeeze(1) % 10)

    return read("train"), read("test")


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
