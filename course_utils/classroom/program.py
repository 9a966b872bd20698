"""What runs in the sandbox: first a student's code, which makes a program of the network; then that program alone.

The second process never imports the student's code: what it counts, checks and predicts cannot be forged by it.
"""
import io
import json
import operator
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from course_utils.analysis.rules import check_rules
from course_utils.augment import BatchAugment, image_keys
from course_utils.config import is_custom
from course_utils.errors import CourseError
from course_utils.models import build_model
from course_utils.variants import load_experiment, read_assignment

STATISTICS = {3, 4}  # arguments of aten.batch_norm that are statistics, not weights
REFUSED = ("aten.from_file.default", "aten.view.dtype")  # tensors from a file, and weights packed as other types
LITERALS = 100  # different numbers in the operations of a network; each more counts as a weight
BATCH = 50  # images that a program takes at a time


class Program(nn.Module):
    """An exported network as a module whose operations the receptive-field tracer can follow."""

    def __init__(self, exported: torch.export.ExportedProgram) -> None:
        super().__init__()
        graph = exported.module(check_guards=False)
        self.__dict__["run"] = _Operations(graph).run  # no submodule: it has no training mode
        self.weights = nn.ParameterList(nn.Parameter(x.float(), False) for x in _weights(graph))

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.run(images[torch.arange(BATCH) % len(images)])  # the first ones again, to fill the batch
        if not isinstance(outputs, Tensor):
            raise CourseError("the program does not return a tensor.")
        return outputs[:len(images)]


class _Operations(fx.Interpreter):
    """Runs the operations of aten, and nothing else that a file may name."""

    def call_function(self, target: Any, args: tuple, kwargs: dict) -> Any:
        """By the operation's plain name, "conv2d" for aten.conv2d.default."""
        if target is operator.getitem:
            return target(*args)
        if str(target) == "wrap_with_autocast":  # device, dtype, enabled, cache, graph, its inputs
            with torch.autocast(*args[:4]):
                return _Operations(args[4]).run(*args[5:])
        if str(target) == "wrap_with_set_grad_enabled":  # enabled, graph, its inputs
            return _Operations(args[1]).run(*args[2:])
        if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten" or str(target) in REFUSED:
            raise CourseError(f"the network uses {target}, which is no operation of torch.ops.aten that can be graded.")
        if target._schema.name == "aten::_assert_tensor_metadata":  # of the types while it was exported
            return None
        return getattr(torch.ops.aten, target._schema.name.partition("::")[2])(*args, **kwargs)

    def call_module(self, target: Any, args: tuple, kwargs: dict) -> Any:
        raise CourseError(f"the network uses {target}, which is no operation of torch.ops.aten that can be graded.")

    call_method = call_module


def _weights(graph: fx.GraphModule) -> list[Tensor]:
    """Every tensor that the network uses, trained or fixed, but for the statistics of batch norm; and its literals."""
    found, literals = {}, set()
    for part in (part for part in graph.modules() if isinstance(part, fx.GraphModule)):
        for node in part.graph.nodes:
            literals |= {x for x in tree_leaves((node.args, node.kwargs)) if isinstance(x, (int, float))}
            if node.op == "get_attr" and node.users and not all(_is_statistic(node, user) for user in node.users):
                tensor = fx.graph_module._get_attr(part, node.target)
                found |= {id(tensor): tensor} if isinstance(tensor, Tensor) else {}
    more = sorted(literals, key=abs)[LITERALS:]  # a network has some sizes, strides and factors
    tensors = [torch.view_as_real(x) if x.is_complex() else x for x in found.values()]
    return tensors + [torch.tensor([float(x)]) for x in more]


def _is_statistic(node: fx.Node, user: fx.Node) -> bool:
    """Whether ``user`` is a batch norm with weights of its own, and ``node`` its running mean or variance."""
    places = {place for place, x in enumerate(user.args) if x is node}
    return ("batch_norm" in str(user.target) and node not in tree_leaves(user.kwargs) and bool(places)
            and places <= STATISTICS and isinstance(user.args[1], fx.Node) and user.args[1].op == "get_attr")


def export(model: str, settings: dict[str, Any], classes: int, size: int) -> bytes:
    """The network ``model`` with the weights of the submission, as a program for images (BATCH, 3, size, size)."""
    home = Path("/submission")
    network = build_model(f"{home}/{model}" if is_custom(model) else model, classes, size, **settings)
    network.load_state_dict(load_file(home / "weights.safetensors"))
    try:
        program = torch.export.export(network.eval(), (torch.zeros(BATCH, 3, size, size),))
    except torch.fx.experimental.symbolic_shapes.GuardOnDataDependentSymNode:
        raise CourseError("the network's control flow depends on the images: it cannot be exported.") from None
    torch.export.save(program, buffer := io.BytesIO())
    return buffer.getvalue()


def load_program(path: str) -> Program:
    """``torch.export.load`` without pickle and sympy's parser, which would execute code that a file holds."""
    def refuse(*_: Any, **__: Any) -> None:
        raise CourseError("the program holds more than tensors and operations.")

    load = torch.load
    with (patch("pickle.loads", refuse), patch("torch._C._pickle_load_obj", refuse), patch("sympy.sympify", refuse),
          patch("torch.load", lambda file, **_: load(file, weights_only=True))):
        return Program(torch.export.load(path))


@torch.no_grad()
def judge(assignment: str, variant: str, claimed: dict[str, Any], size: int, mean: list[float],
          std: list[float]) -> bytes:
    """Parameters, findings of the rules and the predicted classes of ``/images.npy``, as JSON.

    ``claimed``: settings of the training that nobody can see in a network. Images: uint8 (views, N, H, W, 3).
    """
    program = load_program("/program.pt2")
    exp = load_experiment(assignment, variant, **claimed)
    has_rules = read_assignment(assignment)["rules"]
    findings = [vars(finding) for finding in check_rules(exp, program, size)] if has_rules else []
    augment, predicted = BatchAugment(exp.all_stages[-1].test_transforms, mean, std), []
    for images in torch.from_numpy(np.load("/images.npy")):
        outputs = [program(augment(part, image_keys(0, 0, torch.zeros(len(part), dtype=torch.int64)))).flatten(1)
                   for part in images.split(BATCH)]
        predicted.append(torch.cat(outputs).argmax(1).tolist())
    return json.dumps({"parameters": sum(x.numel() for x in program.weights), "findings": findings,
                       "predicted": predicted}).encode()


if __name__ == "__main__":
    try:
        Path("/result").write_bytes({"export": export, "judge": judge}[sys.argv[1]](**json.loads(sys.argv[2])))
    except Exception as error:  # its last line is what the grader sees
        text = " ".join(str(error).partition("While executing")[0].split())
        sys.exit(f"{type(error).__name__}: {text[:280]}")
