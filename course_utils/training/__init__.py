"""Training: devices, optimizers, the LR range test, the training loop, checkpoints."""
from course_utils.training.device import select_device, select_precision
from course_utils.training.lr_finder import choose_lr, find_lr
from course_utils.training.optim import learning_rates
from course_utils.training.step import TrainStep
from course_utils.training.trainer import Training, fit, fit_stages, train_one_epoch

__all__ = ["TrainStep", "Training", "choose_lr", "find_lr", "fit", "fit_stages", "learning_rates", "select_device",
           "select_precision", "train_one_epoch"]
