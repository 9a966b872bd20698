import numpy as np
import pytest
import torch
from helpers import toy_loader, toy_model

from course_utils.evaluation import metrics
from course_utils.evaluation.metrics import Prediction, predict

LABELS = np.array([0, 0, 1, 1, 2, 2])
LOGITS = np.array([[3, 0, 0], [0, 1, 0], [0, 2, 0], [0, 2, 1], [9, 0, 0], [2, 0, 1]], np.float32)
PREDICTION = Prediction(LOGITS, LABELS)


def test_metrics_of_six_images_counted_by_hand():
    assert PREDICTION.predicted.tolist() == [0, 1, 1, 1, 0, 0]
    assert PREDICTION.accuracy == 0.5
    assert metrics.confusion_matrix(PREDICTION).tolist() == [[1, 1, 0], [0, 2, 0], [2, 0, 0]]
    assert metrics.per_class_accuracy(PREDICTION).tolist() == [0.5, 1.0, 0.0]
    assert np.isnan(metrics.per_class_accuracy(Prediction(LOGITS[:4], LABELS[:4]))[2])  # a class without images
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(LOGITS), torch.from_numpy(LABELS))
    assert PREDICTION.loss == pytest.approx(float(expected), abs=1e-6)


def test_the_largest_losses_are_the_most_confident_mistakes():
    assert metrics.top_losses(PREDICTION).tolist() == [4, 1, 5]
    assert metrics.top_losses(PREDICTION, 1).tolist() == [4]


@pytest.mark.parametrize("training", [True, False])
def test_predict_runs_in_eval_mode_in_order_and_restores_the_mode(training):
    model, batches = toy_model(dropout=0.9).train(training), toy_loader(10)
    first, again, bf16 = predict(model, batches), predict(model, batches), predict(model, batches, "bf16")
    assert np.array_equal(first.logits, again.logits) and model.training is training
    assert np.array_equal(first.labels, np.arange(64) % 2)
    x = torch.cat([x for x, _ in batches.epoch()])
    np.testing.assert_allclose(first.logits, model.eval()(x).detach(), atol=1e-5)
    assert bf16.logits.dtype == np.float32 and 0 < np.abs(bf16.logits - first.logits).max() < 0.05


def test_averaged_views_are_the_mean_of_their_probabilities():
    other = Prediction(LOGITS[:, ::-1].copy(), LABELS)
    mean = metrics.average_predictions([PREDICTION, other])
    p, q = (torch.softmax(torch.from_numpy(x.logits), 1).numpy() for x in (PREDICTION, other))
    np.testing.assert_allclose(np.exp(mean.logits), (p + q) / 2, rtol=1e-5)
    same = metrics.average_predictions([PREDICTION, PREDICTION])
    assert same.accuracy == PREDICTION.accuracy and same.loss == pytest.approx(PREDICTION.loss, rel=1e-5)
