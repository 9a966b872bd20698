"""Evaluation of a trained network on plain images in eval mode."""
from course_utils.evaluation.grad_cam import grad_cam, grad_cam_of_blocks, map_sizes
from course_utils.evaluation.metrics import (
    Prediction,
    average_predictions,
    confusion_matrix,
    per_class_accuracy,
    predict,
    top_losses,
)

__all__ = ["Prediction", "average_predictions", "confusion_matrix", "grad_cam", "grad_cam_of_blocks", "map_sizes",
           "per_class_accuracy", "predict", "top_losses"]
