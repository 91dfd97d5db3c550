"""One step of training: augment, forward, backward, move the weights. On a GPU the whole of it is one CUDA graph.

Networks for small images are so quick on a large GPU that starting their kernels takes longer than running them.
A graph starts them all at once, which also leaves the processor idle. Everything that changes from step to step
(the examples, the learning rate, the sum of losses) is therefore a tensor on the device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.training.augmentation import Augmenter
from tenfold.training.losses import soft_loss
from tenfold.training.precision import Precision
from tenfold.training.recipes import TrainingRecipe
from tenfold.training.resident import ResidentImages

WARM_UP = 4  # eager steps before a capture: libraries choose their kernels in them


class Stepper:
    """Steps of `model` on `data`. Called with the indices (B,) of a batch, always of the same length.

    A `teacher`, in eval mode on the same device, answers the varied images as the network sees them.
    `loss` is the sum of the losses since it was last set to 0.
    """

    def __init__(
        self,
        model: nn.Module,
        data: ResidentImages,
        recipe: TrainingRecipe,
        batch_size: int,
        precision: Precision,
        *,
        teacher: nn.Module | None = None,
        graph: bool = True,
    ) -> None:
        self.model, self.data, self.recipe, self.precision = model, data, recipe, precision
        self.forward: nn.Module = model
        self.teacher = teacher
        self.device = data.device
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.augmenter = Augmenter(recipe.augmentation, self.device)
        self.rate = torch.tensor(0.0, device=self.device)
        # On a GPU the update is one fused kernel that reads the learning rate from the device.
        on_gpu = self.device.type == "cuda"
        self.rule = recipe.optimizer.build(
            self.trained, learning_rate=self.rate if on_gpu else None, fused=on_gpu
        )
        self.loss = torch.zeros((), device=self.device)
        self.index = torch.zeros(batch_size, dtype=torch.long, device=self.device)
        self._capturing = graph and on_gpu
        self._eager_steps = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def captured(self) -> bool:
        """Whether steps are replayed from a graph."""
        return self._graph is not None

    @property
    def settled(self) -> bool:
        """Whether the steps to come are as quick as they will get."""
        return self.captured or not self._capturing

    def compile(self) -> None:
        """Have the network compiled; the next steps warm up and capture again."""
        self.forward = torch.compile(self.model)  # type: ignore[assignment]
        if self.teacher is not None:
            self.teacher = torch.compile(self.teacher)  # type: ignore[assignment]
        self._graph, self._eager_steps = None, 0

    def __call__(self, index: Tensor, learning_rate: float) -> None:
        """Take one step; on a GPU it is only started."""
        if self.device.type == "cuda":
            self.rate.fill_(learning_rate)
        else:
            for group in self.rule.param_groups:
                group["lr"] = learning_rate
        self.index.copy_(index, non_blocking=True)
        if self._graph is not None:
            self._graph.replay()
        elif self._capturing:
            self._warm_up()
        else:
            self._step()

    def _step(self) -> None:
        with torch.no_grad():
            images, labels = self.data.varied(self.index, self.recipe.augmentation.flip)
            images, share = self.augmenter(images)
            inputs = self.precision.inputs(images, self.device)
            if self.teacher is not None:
                with self.precision.arithmetic(self.device):
                    answers = self.teacher(inputs)
        self.rule.zero_grad(set_to_none=True)
        with self.precision.arithmetic(self.device):
            outputs = self.forward(inputs)
        loss = mixed_loss(outputs, labels, share, self.recipe.label_smoothing)
        if self.teacher is not None:
            soft = soft_loss(outputs, answers, self.recipe.temperature)
            loss = torch.lerp(loss, soft, self.recipe.teaching)
        loss.backward()
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.trained, self.recipe.clip)
        self.rule.step()
        self.loss += loss.detach()

    def _warm_up(self) -> None:
        """An eager step on a stream of its own, as a capture demands, and after the last one the capture."""
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            self._step()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        self._eager_steps += 1
        if self._eager_steps < WARM_UP:
            return
        self.rule.zero_grad(set_to_none=True)  # gradients are to live in the graph's own memory
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        self._graph = graph


def mixed_loss(outputs: Tensor, labels: Tensor, share: Tensor | None, smoothing: float) -> Tensor:
    """Mean cross-entropy of outputs (N, C), with label smoothing; mixed images have a share (N,) of their own label.

    The rest of a mixed image belongs to the example before it in the batch.
    """
    outputs = outputs.float()
    if share is None:
        return F.cross_entropy(outputs, labels, label_smoothing=smoothing)
    own = F.cross_entropy(outputs, labels, label_smoothing=smoothing, reduction="none")
    other = F.cross_entropy(outputs, labels.roll(1), label_smoothing=smoothing, reduction="none")
    return (share * own + (1 - share) * other).mean()
