"""What runs in the sandbox: first a student's code, which makes a program of the network; then that program alone.

The second process never imports the student's code: what it counts, checks and predicts cannot be forged by it.
"""
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, fx, nn

from course_utils.analysis.rules import check_rules
from course_utils.augment import BatchAugment, image_keys
from course_utils.config import Transform, is_custom
from course_utils.errors import CourseError
from course_utils.models import build_model
from course_utils.variants import load_experiment

STATISTICS = {3, 4}  # arguments of aten.batch_norm that are statistics, not weights


class Program(nn.Module):
    """An exported network as a module whose operations the receptive-field tracer can follow."""

    def __init__(self, exported: torch.export.ExportedProgram) -> None:
        super().__init__()
        graph = exported.module(check_guards=False)
        self.__dict__["run"] = _Operations(graph).run  # no submodule: it has no training mode
        self.weights = nn.ParameterList(nn.Parameter(x.float(), False) for x in _weights(graph))

    def forward(self, images: Tensor) -> Tensor:
        return self.run(images)


class _Operations(fx.Interpreter):
    def call_function(self, target: Any, args: tuple, kwargs: dict) -> Any:
        """By the operation's plain name, "conv2d" for aten.conv2d.default."""
        if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
            target = getattr(torch.ops.aten, target._schema.name.partition("::")[2])
        return super().call_function(target, args, kwargs)


def _weights(graph: fx.GraphModule) -> list[Tensor]:
    """Every tensor that the network holds, trained or fixed, but for the statistics of batch norm."""
    found = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            uses = [(str(user.target), place) for user in node.users for place, x in enumerate(user.args) if x is node]
            if any("batch_norm" not in name or place not in STATISTICS for name, place in uses):
                found[node.target] = fx.graph_module._get_attr(graph, node.target)
    return [tensor for tensor in found.values() if isinstance(tensor, Tensor)]


def export(model: str, settings: dict[str, Any], classes: int, size: int) -> bytes:
    """The network ``model`` with the weights of the submission, as a program for images (N, 3, size, size)."""
    home = Path("/submission")
    network = build_model(f"{home}/{model}" if is_custom(model) else model, classes, size, **settings)
    network.load_state_dict(load_file(home / "weights.safetensors"))
    network.eval()
    program = torch.export.export(network, (torch.zeros(2, 3, size, size),),
                                  dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.export.save(program, buffer := io.BytesIO())
    return buffer.getvalue()


@torch.no_grad()
def judge(assignment: str, variant: str, claimed: dict[str, Any], size: int, mean: list[float],
          std: list[float]) -> bytes:
    """Parameters, findings of the rules and the predicted classes of ``/images.npy``, as JSON.

    ``claimed``: settings of the training that nobody can see in a network. Images: uint8 (views, N, H, W, 3).
    """
    program = Program(torch.export.load("/program.pt2"))
    exp = load_experiment(assignment, variant, **claimed)
    try:
        findings = [vars(finding) for finding in check_rules(exp, program, size)]
    except CourseError:
        findings = []  # an assignment without rules
    test_size = exp.all_stages[-1].test_image_size
    resize = [Transform("resize", 1.0, {"size": test_size})] if test_size else []
    augment, predicted = BatchAugment(resize, mean, std), []
    for images in torch.from_numpy(np.load("/images.npy")):
        outputs = [program(augment(part, image_keys(0, 0, torch.zeros(len(part), dtype=torch.int64)))).flatten(1)
                   for part in images.split(200)]
        predicted.append(torch.cat(outputs).argmax(1).tolist())
    return json.dumps({"parameters": sum(x.numel() for x in program.weights), "findings": findings,
                       "predicted": predicted}).encode()


if __name__ == "__main__":
    try:
        Path("/result").write_bytes({"export": export, "judge": judge}[sys.argv[1]](**json.loads(sys.argv[2])))
    except Exception as error:  # its last line is what the grader sees
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())[:280]}")
