"""One training step. On a GPU it is recorded once as a CUDA graph and then replayed.

The step of a small network is some 500 kernels of a few microseconds each, and Python needs longer to launch them than
the GPU to run them. A graph launches all of them at once. It holds forward pass, loss, backward pass and statistics,
and is recorded once per shape of a batch. The optimizer stays outside: One-Cycle changes its settings at every step.
"""
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from course_utils.config import Experiment

Work = Callable[[], None]
WARM_UP_STEPS = 3  # before a graph is recorded: libraries choose their kernels in the first ones


class TrainStep:
    """The training steps of a run: ``step(images, labels)``.

    ``totals``, float32 (3,) on the device, sums loss x images, correct predictions and images. ``record`` turns work
    into its replay; default: a CUDA graph on a GPU, ``None`` (no recording) elsewhere and for custom networks, which
    may do what a graph cannot hold, such as ``.item()``; one that does not sets the attribute ``cuda_graph = True``.
    """

    def __init__(self, exp: Experiment, model: nn.Module, optimizer: Optimizer, precision: str = "fp32",
                 log: Callable[[str], None] = print) -> None:
        self.exp, self.model, self.optimizer, self.precision, self.log = exp, model, optimizer, precision, log
        self.parameters = list(model.parameters())
        self.device = self.parameters[0].device
        self.totals = torch.zeros(3, device=self.device)
        on_gpu = self.device.type == "cuda" and getattr(model, "cuda_graph", exp.model_file is None)
        self.record: Callable[[Work], Work] | None = record_cuda_graph if on_gpu else None
        self.recorded: dict[torch.Size, Callable[[Tensor, Tensor], Tensor]] = {}

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """One optimizer step on ``images`` (N, C, H, W) and ``labels`` (N,) of the device, without waiting for it.

        Returns the loss, nats, on the device; the next step of a recording overwrites it.
        """
        if self.record and images.shape not in self.recorded:
            self._record(images, labels)
        if self.record:
            loss = self.recorded[images.shape](images, labels)
        else:
            self.optimizer.zero_grad()
            loss = self.compute_gradients(images, labels)
        self.optimizer.step()
        return loss

    def compute_gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        """Forward and backward pass of one batch: gradients into ``grad``, statistics into ``totals``; the loss."""
        exp = self.exp
        images, others, share = cut_mix(images, labels, exp.cutmix) if exp.cutmix else (images, labels, 1.0)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits = self.model(images).flatten(1)  # (N, classes)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=exp.label_smoothing,
                               reduction="none" if exp.cutmix else "mean")
        if exp.cutmix:
            other = F.cross_entropy(logits.float(), others, label_smoothing=exp.label_smoothing, reduction="none")
            loss = (share * loss + (1 - share) * other).mean()
        loss.backward()
        with torch.no_grad():
            if exp.l1:
                add_l1_gradients(self.parameters, exp.l1)
                loss = loss + exp.l1 * l1_penalty(self.parameters)
            correct = (logits.argmax(1) == labels).sum()
            self.totals += torch.stack([loss * len(labels), correct, torch.ones_like(loss) * len(labels)])
        return loss.detach()

    def _record(self, images: Tensor, labels: Tensor) -> None:
        """Record the step for batches of this shape, without a trace in weights, batch statistics or totals."""
        images, labels = images.clone(), labels.clone()  # where the replay reads every later batch
        parameters, losses = self.parameters, []
        before = [(buffer, buffer.clone()) for buffer in (*self.model.buffers(), self.totals)]

        def work() -> None:
            for parameter in parameters:
                parameter.grad = None  # backward makes new gradients instead of adding to old ones
            losses[:] = [self.compute_gradients(images, labels)]

        def recorded_step(new_images: Tensor, new_labels: Tensor) -> Tensor:
            images.copy_(new_images)
            labels.copy_(new_labels)
            replay()
            for parameter, gradient in zip(parameters, gradients):  # another shape's recording has its own
                parameter.grad = gradient
            return losses[0]

        try:
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                replay = self.record(work)
            gradients = [parameter.grad for parameter in parameters]
            self.recorded[images.shape] = recorded_step
        except RuntimeError as error:
            if "out of memory" in str(error):
                raise
            self.record = None
            self.log(f"No CUDA graph of this network: {str(error).splitlines()[0]} It is trained step by step.")
        for buffer, values in before:
            buffer.copy_(values)


def record_cuda_graph(work: Work) -> Work:
    """Record the kernels of ``work``, which must not wait for one; the result launches all of them at once."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_STEPS):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def cut_mix(images: Tensor, labels: Tensor, p: float) -> tuple[Tensor, Tensor, Tensor]:
    """CutMix (Yun et al. 2019, arXiv:1905.04899) of each image with the one before it in the batch, probability ``p``.

    A rectangle of random place and area is pasted. Returns the images (N, C, H, W), the labels (N,) of the pasted parts
    and the share (N,) of each image that is its own, 0 to 1.
    """
    count, height, width = len(images), *images.shape[2:]
    u = torch.rand(4, count, 1, device=images.device)
    scale = (1 - u[0]).sqrt() * (u[3] < p)  # of the sides: the area that is left is uniform
    inside = []
    for position, side in ((u[1], height), (u[2], width)):
        pixels, center, half = torch.arange(side, device=images.device), position * side, scale * side / 2
        inside.append((pixels >= center - half) & (pixels < center + half))  # (N, side)
    pasted = inside[0][:, :, None] & inside[1][:, None, :]  # (N, H, W)
    share = 1 - pasted.float().mean((1, 2))
    return torch.where(pasted[:, None], images.roll(1, 0), images), labels.roll(1), share


def l1_penalty(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Sum over the tensors of their mean absolute value; one fused kernel computes all norms."""
    means = torch._foreach_div(torch._foreach_norm(parameters, 1), [float(p.numel()) for p in parameters])
    return torch.stack(means).sum()


def add_l1_gradients(parameters: Sequence[nn.Parameter], factor: float) -> None:
    """Add the gradients of ``factor`` x ``l1_penalty``: a few kernels, where autograd needs several per tensor."""
    parameters = [p for p in parameters if p.grad is not None]  # frozen, or not used
    signs = torch._foreach_sign(parameters)
    torch._foreach_mul_(signs, [factor / p.numel() for p in parameters])
    torch._foreach_add_([p.grad for p in parameters], signs)
