"""The data sets that have a name, and where their files lie. Nothing here imports torch.

Any other data set goes by the path of an image folder, or by its name on the Hugging Face Hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts its files."""

FASHION_MNIST_FILES = tuple(
    f"{part}-{content}-ubyte" for part in ("train", "t10k") for content in ("images-idx3", "labels-idx1")
)


@dataclass(frozen=True)
class HubCopy:
    """A copy of a named data set on the Hugging Face Hub, and what it calls otherwise than torchvision does.

    Attributes:
        repository: OWNER/NAME.
        test: the part that is the official test.
        spelling: torchvision's names of the classes that are spelt otherwise.
        alphabetical: whether torchvision's labels are in the order of the names, and those here are not.
    """

    repository: str
    test: str = "test"
    spelling: Mapping[str, str] = field(default_factory=dict)
    alphabetical: bool = False


@dataclass(frozen=True)
class DatasetInfo:
    """A data set that has a name.

    Attributes:
        name: what ``--data`` takes.
        classes: how many there are.
        sizes: images to train, validate and test on, where no smaller size is asked for.
        description: one line.
        source: who made it, and where its files are.
        split: where the three parts come from.
        torchvision: its class in ``torchvision.datasets``; empty where there is nothing to download.
        url: a file that the download needs, to see whether the host can be reached.
        unpacked: what lies below the data directory once it is there.
        archives: the downloaded files below the data directory, from which ``unpacked`` can be made.
        copy: what is read where none of these is there, and the Hub's cache has it.
    """

    name: str
    classes: int
    sizes: tuple[int, int, int]
    description: str
    source: str
    split: str
    torchvision: str = ""
    url: str = ""
    unpacked: tuple[str, ...] = ()
    archives: tuple[str, ...] = ()
    copy: HubCopy | None = None


_CARVED = "official test; validation is 10% of the official train, stratified"

DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="digits",
            classes=10,
            sizes=(1078, 359, 360),
            description="handwritten digits, 8x8 grey",
            source="UCI, comes with scikit-learn",
            split="60/20/20, stratified",
        ),
        DatasetInfo(
            name="fashion_mnist",
            classes=10,
            sizes=(54_000, 6_000, 10_000),
            description="Zalando's articles of clothing, 28x28 grey",
            source="github.com/zalandoresearch/fashion-mnist; Debian package dataset-fashion-mnist",
            split=_CARVED,
            torchvision="FashionMNIST",
            url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-labels-idx1-ubyte.gz",
            unpacked=tuple(f"fashion_mnist/{file}.gz" for file in FASHION_MNIST_FILES),
            copy=HubCopy("zalando-datasets/fashion_mnist", spelling={"T - shirt / top": "T-shirt/top"}),
        ),
        DatasetInfo(
            name="cifar10",
            classes=10,
            sizes=(45_000, 5_000, 10_000),
            description="animals and vehicles, 32x32 colour",
            source="www.cs.toronto.edu/~kriz/cifar.html",
            split=_CARVED,
            torchvision="CIFAR10",
            url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            unpacked=tuple(
                f"cifar-10-batches-py/{file}"
                for file in (*(f"data_batch_{batch}" for batch in range(1, 6)), "test_batch", "batches.meta")
            ),
            archives=("cifar-10-python.tar.gz",),
            copy=HubCopy("uoft-cs/cifar10"),
        ),
        DatasetInfo(
            name="cifar100",
            classes=100,
            sizes=(45_000, 5_000, 10_000),
            description="objects and scenes, 32x32 colour",
            source="www.cs.toronto.edu/~kriz/cifar.html",
            split=_CARVED,
            torchvision="CIFAR100",
            url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            unpacked=tuple(f"cifar-100-python/{file}" for file in ("train", "test", "meta")),
            archives=("cifar-100-python.tar.gz",),
            copy=HubCopy("uoft-cs/cifar100", spelling={"cra": "crab"}),
        ),
        DatasetInfo(
            name="flowers102",
            classes=102,
            sizes=(1_020, 1_020, 6_149),
            description="Oxford flowers, photographs",
            source="www.robots.ox.ac.uk/~vgg/data/flowers/102",
            split="official",
            torchvision="Flowers102",
            url="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/setid.mat",
            unpacked=tuple(f"flowers-102/{file}" for file in ("jpg", "imagelabels.mat", "setid.mat")),
            archives=tuple(
                f"flowers-102/{file}" for file in ("102flowers.tgz", "imagelabels.mat", "setid.mat")
            ),
        ),
        DatasetInfo(
            name="pets",
            classes=37,
            sizes=(3_312, 368, 3_669),
            description="Oxford-IIIT breeds of cats and dogs, photographs",
            source="www.robots.ox.ac.uk/~vgg/data/pets",
            split=_CARVED,
            torchvision="OxfordIIITPet",
            url="https://www.robots.ox.ac.uk/~vgg/data/pets/data/annotations.tar.gz",
            unpacked=tuple(f"oxford-iiit-pet/{folder}" for folder in ("images", "annotations")),
            archives=tuple(f"oxford-iiit-pet/{part}.tar.gz" for part in ("images", "annotations")),
        ),
        DatasetInfo(
            name="food101",
            classes=101,
            sizes=(68_175, 7_575, 25_250),
            description="dishes, photographs of at most 512 pixels",
            source="data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
            split=_CARVED,
            torchvision="Food101",
            url="http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
            unpacked=tuple(f"food-101/{folder}" for folder in ("meta", "images")),
            archives=("food-101.tar.gz",),
            copy=HubCopy("ethz/food101", test="validation", alphabetical=True),
        ),
    )
}
"""By name. The order is the order in which they are listed."""

TEXTS: dict[str, str] = {
    "text": "the pages of the language reference that Python's help() shows",
    "python": "the sources of the standard library's modules",
}
"""Text that every Python ships, by name: for language models."""

TEXT = "the path of a .txt file, or of a folder of them"

FOLDER = "the path of an image folder: class folders, below train/ (val/, test/) or directly"

HUB = "hub:OWNER/NAME or hub:OWNER/NAME/CONFIG, a data set of the Hugging Face Hub in Parquet"
