"""A teacher's outputs: computed when first asked for, kept after that, in memory and on disk.

An answer's last bits depend on the batch it was computed in. So the teacher is asked in blocks that the data and a
seed fix: whoever asks first, and after whatever else, an example gets the same answer, bit for bit.
"""

from __future__ import annotations

import copy
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tenfold.cost import Inputs, as_args, batch_size, call
from tenfold.data import Split
from tenfold.errors import NetworkError
from tenfold.files import written
from tenfold.training.precision import Precision, device_of, fastest_precision
from tenfold.training.views import Batch, View, shown

BLOCK = 128  # examples; those of one block that are first shown in the same view are asked about together
LARGEST_CACHE = 1 << 30  # bytes; beyond it (a language model's logits) the teacher answers afresh each time


class TeacherOutputs:
    """Answers of a network, in eval mode, to the examples of one split in every `View`.

    `teacher` is copied, not changed. With `folder`, answers are read from and saved to a file there named after the
    weights and the data, so that a job started again does not ask twice. `seed` is that of the training to come: in
    its first pass (`Split.batches`) a batch then needs no more of the teacher than itself; with another seed the
    answers are the same in kind, but more of them are waited for at first.
    """

    def __init__(
        self,
        teacher: nn.Module,
        split: Split,
        *,
        precision: Precision | None = None,
        folder: Path | None = None,
        seed: int = 0,
    ) -> None:
        self.device = device_of(teacher)
        self.teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
        self.examples = len(split)
        self.seed, self._split = seed, split
        order = torch.randperm(self.examples, generator=torch.Generator().manual_seed(seed))
        place = torch.empty_like(order)
        place[order] = torch.arange(self.examples)
        # `view_of` shows neighbours in different views; what a first pass shows in one view makes one block.
        self._block = place // BLOCK * len(View) + torch.arange(self.examples) % len(View)
        self.key = fingerprint(teacher, split)
        self._path = None if folder is None else Path(folder) / f"teacher-{self.key[:16]}.safetensors"
        stored = self._read()
        if precision is None and stored is not None:
            precision = (
                stored.precision
            )  # timing might choose another today, whose answers would not go with these
        if precision is None:
            inputs, _ = split.select(range(min(64, len(split))))
            precision = fastest_precision(self.teacher, inputs, train=False)
        self.precision = precision
        self.teacher = precision.model(self.teacher)
        self.asked = 0  # examples that the teacher really ran on …
        self.seconds = 0.0  # … and how long that took
        self._known = torch.zeros(len(View), self.examples, dtype=torch.bool)
        self._kept: Tensor | None = None  # (views, examples, …)
        self._keep = True
        self._saved = 0
        if stored is not None and stored.precision == precision:
            self._known, self._kept, self._saved = stored.known, stored.outputs, int(stored.known.sum())

    def __call__(self, batch: Batch, kinds: tuple[View, ...]) -> Tensor:
        """Outputs (N, …), float32 on the CPU, for a batch whose inputs are already in the views kinds[batch.views]."""
        places = torch.tensor([tuple(View).index(kind) for kind in kinds])
        views = places[batch.views]
        new = ~self._known[views, batch.indices]
        wanted = torch.stack([views[new], self._block[batch.indices[new]]], dim=1).unique(dim=0)
        for view, block in wanted.tolist():
            if self._keep:
                self._answer(tuple(View)[view], block)
        return self._kept[views, batch.indices] if self._kept is not None else self.ask(batch.inputs)

    def first(self, number: int) -> list[Tensor]:
        """The indices of about `number` examples, block by block, as the first pass comes to them."""
        blocks = max(1, round(number / BLOCK)) * len(View)
        return [(self._block == block).nonzero().flatten() for block in self._block.unique()[:blocks]]

    def waiting(self, kinds: tuple[View, ...]) -> float:
        """Seconds that the answers take which are still unknown in these views, at the pace so far.

        Zero where answers are not kept: then every step waits for its own.
        """
        if not self._keep:
            return 0.0
        places = [tuple(View).index(kind) for kind in kinds]
        return int((~self._known[places]).sum()) * self.seconds / max(self.asked, 1)

    def ask(self, inputs: Inputs) -> Tensor:
        """Run the teacher: outputs (N, …), float32 on the CPU."""
        examples, began = batch_size(inputs), time.monotonic()
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
        self.seconds += time.monotonic() - began
        return outputs

    def save(self) -> None:
        """Write what is known to the folder, if there is one and anything is new."""
        known = int(self._known.sum())
        if self._path is None or self._kept is None or known == self._saved:
            return
        with written(self._path) as temporary:
            save_file({"outputs": self._kept, "known": self._known}, temporary, self._metadata())
        self._saved = known

    def _answer(self, view: View, block: int) -> None:
        """Ask about a whole block in one view, and keep what the teacher says."""
        indices = (self._block == block).nonzero().flatten()
        outputs = self.ask(shown(self._split, indices, view).inputs)
        shape = (len(View), self.examples, *outputs.shape[1:])
        if self._kept is None and 4 * torch.Size(shape).numel() <= LARGEST_CACHE:
            self._kept = torch.zeros(shape)
        if self._kept is None or self._kept.shape != shape:  # too large, or outputs of varying length
            self._keep, self._kept = False, None
            self._known.zero_()
            return
        place = tuple(View).index(view)
        self._kept[place, indices] = outputs
        self._known[place, indices] = True

    def _metadata(self) -> dict[str, str]:
        return {"key": self.key, "precision": str(self.precision), "blocks": self._blocks_named()}

    def _blocks_named(self) -> str:
        return f"{BLOCK} by seed {self.seed}"

    def _read(self) -> _Stored | None:
        """A saved file; one that is damaged or of another job is ignored and later replaced."""
        if self._path is None or not self._path.exists():
            return None
        try:
            with safe_open(self._path, "pt") as file:
                known, outputs = file.get_tensor("known"), file.get_tensor("outputs")
                metadata = file.metadata() or {}
            precision = Precision.named(metadata.get("precision", ""))
        except (SafetensorError, OSError, ValueError):
            return None
        fits = known.shape == (len(View), self.examples) and outputs.shape[:2] == known.shape
        if metadata.get("key") != self.key or not fits:
            return None
        if metadata.get("blocks") != self._blocks_named():
            return None
        if known.dtype != torch.bool or outputs.dtype != torch.float32:
            return None
        return _Stored(known, outputs, precision)


@dataclass(frozen=True)
class _Stored:
    known: Tensor
    outputs: Tensor
    precision: Precision


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
