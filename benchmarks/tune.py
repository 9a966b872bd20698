"""Try a recipe on held-out training images:  python -m benchmarks.tune ASSIGNMENT:VARIANT [NAME=VALUE ...] OUTPUT_DIR

Trains without a notebook and prints the accuracy on the validation images. The test images are never looked at.
"""
import hashlib
import json
import sys
import time
from pathlib import Path

import torch

from course_utils.data import make_loaders, open_dataset
from course_utils.evaluation import predict
from course_utils.models import build_model
from course_utils.training import fit_stages, select_device, select_precision
from course_utils.variants import build_transforms, load_experiment


def tune(name: str, settings: dict[str, object]) -> dict[str, object]:
    """Train a variant with other ``settings``; without validation images of its own, on 90 % of the training images."""
    assignment, variant = name.split(":")
    exp = load_experiment(assignment, variant)
    split = {"split": "track", "holdout": 0.2} if exp.dataset == "gtsrb" else {"holdout": 0.1}
    exp = exp.replace(**(split if exp.holdout == 0 else {}) | build_transforms(settings))
    data = open_dataset(exp.dataset, None, exp.data, exp.seed, exp.train_images, exp.test_images)
    device = select_device()
    precision = select_precision(exp.precision, device)
    torch.manual_seed(exp.seed)
    model = build_model(exp.model, len(data.classes), data.train_images.shape[1], **exp.model_settings)
    start = time.perf_counter()
    training = fit_stages(exp, model, lambda stage: make_loaders(stage, data, device), exp.lr, precision=precision,
                          log=lambda line: None)
    seconds = time.perf_counter() - start
    plain = make_loaders(exp.all_stages[-1], data, device).val_plain
    return {"recipe": name, "settings": settings, "val_accuracy": predict(model, plain, precision).accuracy,
            "val_images": len(plain.items), "seconds": seconds, "history": training.history}


def main() -> None:
    name, *pairs, output = sys.argv[1:]
    settings = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        settings[key] = json.loads(value)
    found = tune(name, settings)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]  # an augmentation is long
    folder = Path(output) / "tuning" / f"{name.replace(':', '-')}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tuning.json").write_text(json.dumps(found))
    last = found["history"][-1]
    print(f"{found['val_accuracy']:.2%} validation accuracy, {last['train_accuracy']:.2%} while training, "
          f"{found['seconds']:.0f} s")


if __name__ == "__main__":
    main()
