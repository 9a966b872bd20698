"""Data sets: what they are, opening them as arrays, and batches."""
from course_utils.data.datasets import Dataset, channel_statistics, load_dataset, open_dataset
from course_utils.data.info import DATASETS
from course_utils.data.loader import BatchLoader, Loaders, make_loaders
from course_utils.data.splits import EpochItems, expand_dataset, split_items

__all__ = ["DATASETS", "BatchLoader", "Dataset", "EpochItems", "Loaders", "channel_statistics", "expand_dataset",
           "load_dataset", "make_loaders", "open_dataset", "split_items"]
