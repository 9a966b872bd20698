"""Predictions and what is computed from them."""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.data.loader import BatchLoader
from course_utils.models.summary import eval_mode


@dataclass(frozen=True)
class Prediction:
    """The outputs of a network for N images."""

    logits: np.ndarray  # float32 (N, classes)
    labels: np.ndarray  # int64 (N,), the true classes

    @property
    def predicted(self) -> np.ndarray:
        """int64 (N,): the class with the largest logit."""
        return self.logits.argmax(1)

    @property
    def accuracy(self) -> float:
        """Fraction of correct predictions, 0 to 1."""
        return float((self.predicted == self.labels).mean())

    @property
    def losses(self) -> np.ndarray:
        """float32 (N,): cross-entropy of each image, nats."""
        return F.cross_entropy(torch.from_numpy(self.logits), torch.from_numpy(self.labels), reduction="none").numpy()

    @property
    def loss(self) -> float:
        """Mean cross-entropy, nats."""
        return float(self.losses.mean(dtype=np.float64))


@torch.no_grad()
def predict(model: nn.Module, batches: BatchLoader, precision: str = "fp32", epoch: int = 0) -> Prediction:
    """Run ``model`` in eval mode over unshuffled ``batches``; ``epoch`` selects the random numbers of augmentation."""
    outputs, labels = [], []
    with eval_mode(model):
        for x, y in batches.epoch(epoch):
            with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
                outputs.append(model(x).flatten(1))
            labels.append(y)
    return Prediction(torch.cat(outputs).float().cpu().numpy(), torch.cat(labels).cpu().numpy())


def average_predictions(predictions: Sequence[Prediction]) -> Prediction:
    """The mean probabilities of several views of the same images (test-time augmentation), as logarithms."""
    mean = np.mean([torch.softmax(torch.from_numpy(p.logits), 1).numpy() for p in predictions], axis=0)
    return Prediction(np.log(np.maximum(mean, 1e-12)), predictions[0].labels)


def confusion_matrix(prediction: Prediction) -> np.ndarray:
    """int64 (classes, classes): number of images of the row's class that were predicted as the column's."""
    classes = prediction.logits.shape[1]
    cells = prediction.labels * classes + prediction.predicted
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def per_class_accuracy(prediction: Prediction) -> np.ndarray:
    """float64 (classes,), 0 to 1; NaN for a class without images."""
    matrix = confusion_matrix(prediction)
    with np.errstate(invalid="ignore"):
        return matrix.diagonal() / matrix.sum(1)


def top_losses(prediction: Prediction, count: int = 25, one_per_pair: bool = False) -> np.ndarray:
    """Indices of the ``count`` misclassified images with the largest loss, in decreasing order; with ``one_per_pair``
    of each pair of true and predicted class the first alone.
    """
    wrong = np.flatnonzero(prediction.predicted != prediction.labels)
    wrong = wrong[np.argsort(-prediction.losses[wrong], kind="stable")]
    if one_per_pair:
        pairs = prediction.labels[wrong] * prediction.logits.shape[1] + prediction.predicted[wrong]
        wrong = wrong[np.sort(np.unique(pairs, return_index=True)[1])]
    return wrong[:count]
