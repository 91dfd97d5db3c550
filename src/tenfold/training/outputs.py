"""A teacher's outputs: computed when first asked for, kept after that, in memory and on disk."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tenfold.cost import Inputs, as_args, batch_size, call, map_inputs
from tenfold.data import Split
from tenfold.errors import NetworkError
from tenfold.files import written
from tenfold.training.precision import Precision, device_of, fastest_precision
from tenfold.training.views import Batch, View

LARGEST_CACHE = 1 << 30  # bytes; beyond it (a language model's logits) the teacher answers afresh each time


class TeacherOutputs:
    """Answers of a network, in eval mode, to the examples of one split in every `View`.

    `teacher` is copied, not changed. With `folder`, answers are read from and saved to a file there named after the
    weights and the data, so that a job started again does not ask twice.
    """

    def __init__(
        self,
        teacher: nn.Module,
        split: Split,
        *,
        precision: Precision | None = None,
        folder: Path | None = None,
    ) -> None:
        self.device = device_of(teacher)
        self.teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
        if precision is None:
            inputs, _ = split.select(range(min(64, len(split))))
            precision = fastest_precision(self.teacher, inputs, train=False)
        self.precision = precision
        self.teacher = precision.model(self.teacher)
        self.examples = len(split)
        self.key = fingerprint(teacher, split)
        self.asked = 0  # examples that the teacher really ran on
        self._known = torch.zeros(len(View), self.examples, dtype=torch.bool)
        self._kept: Tensor | None = None  # (views, examples, …)
        self._keep = True
        self._saved = 0
        called = (
            str(precision).replace(", ", "-").replace(" ", "-")
        )  # its answers are not those of another arithmetic
        self._path = (
            None if folder is None else Path(folder) / f"teacher-{self.key[:16]}-{called}.safetensors"
        )
        self._read()

    def __call__(self, batch: Batch, kinds: tuple[View, ...]) -> Tensor:
        """Outputs (N, …), float32 on the CPU, for a batch whose inputs are already in the views kinds[batch.views]."""
        places = torch.tensor([tuple(View).index(kind) for kind in kinds])
        views = places[batch.views]
        known = self._known[views, batch.indices]
        if self._kept is not None and bool(known.all()):
            return self._kept[views, batch.indices]
        if self._kept is None or not bool(known.any()):
            outputs = self.ask(batch.inputs)
            self._store(views, batch.indices, outputs)
            return outputs
        new = ~known
        self._store(views[new], batch.indices[new], self.ask(map_inputs(lambda t: t[new], batch.inputs)))
        return self._kept[views, batch.indices] if self._kept is not None else self.ask(batch.inputs)

    def ask(self, inputs: Inputs) -> Tensor:
        """Run the teacher: outputs (N, …), float32 on the CPU."""
        examples = batch_size(inputs)
        with torch.inference_mode(), self.precision.arithmetic(self.device):
            outputs = call(self.teacher, self.precision.inputs(inputs, self.device))
        outputs = outputs.float().cpu().clone()  # a clone made outside inference mode takes part in autograd
        if outputs.ndim == 0 or len(outputs) != examples:
            raise NetworkError(
                f"the teacher answers {examples} examples with an output of shape {tuple(outputs.shape)}: "
                "the first dimension must count the examples"
            )
        if not bool(outputs.isfinite().all()):
            raise NetworkError(
                "the teacher's outputs are not finite: its weights or the data hold NaN or inf"
            )
        self.asked += examples
        return outputs

    def save(self) -> None:
        """Write what is known to the folder, if there is one and anything is new."""
        known = int(self._known.sum())
        if self._path is None or self._kept is None or known == self._saved:
            return
        with written(self._path) as temporary:
            save_file({"outputs": self._kept, "known": self._known}, temporary, {"key": self.key})
        self._saved = known

    def _store(self, views: Tensor, indices: Tensor, outputs: Tensor) -> None:
        if not self._keep:
            return
        shape = (len(View), self.examples, *outputs.shape[1:])
        if self._kept is None and 4 * torch.Size(shape).numel() <= LARGEST_CACHE:
            self._kept = torch.zeros(shape)
        if self._kept is None or self._kept.shape != shape:  # too large, or outputs of varying length
            self._keep, self._kept = False, None
            self._known.zero_()
            return
        self._kept[views, indices] = outputs
        self._known[views, indices] = True

    def _read(self) -> None:
        """Take over a saved file; one that is damaged or of another job is ignored and later replaced."""
        if self._path is None or not self._path.exists():
            return
        try:
            with safe_open(self._path, "pt") as file:
                known, outputs = file.get_tensor("known"), file.get_tensor("outputs")
                key = (file.metadata() or {}).get("key")
        except (SafetensorError, OSError):
            return
        fits = known.shape == self._known.shape and outputs.shape[:2] == known.shape
        if key == self.key and fits and known.dtype == torch.bool and outputs.dtype == torch.float32:
            self._known, self._kept, self._saved = known, outputs, int(known.sum())


def fingerprint(model: nn.Module, split: Split) -> str:
    """SHA-256 of a network's class and weights and of the data: their number, and up to 16 examples spread over them."""
    digest = hashlib.sha256(f"{type(model).__qualname__} {len(split)}".encode())
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    inputs, targets = split.select(torch.linspace(0, len(split) - 1, min(16, len(split))).long())
    args, kwargs = as_args(inputs)
    for tensor in (*args, *kwargs.values(), targets):
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
