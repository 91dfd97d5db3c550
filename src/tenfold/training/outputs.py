"""A teacher's outputs: computed when first asked for, kept after that, in memory and on disk."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from tenfold.cost import Inputs, as_args, batch_size, call
from tenfold.data import Split
from tenfold.errors import NetworkError, OutputError
from tenfold.files import write_json
from tenfold.training.digests import add_tensors, bytes_of
from tenfold.training.fastest import fastest_precision
from tenfold.training.graphs import Forward, answering
from tenfold.training.kept import KeptAnswers
from tenfold.training.precision import Precision, device_of
from tenfold.training.views import Batch, View, show

BATCH = 128  # examples that are asked about together
LARGEST_CACHE = 1 << 30  # bytes; beyond it (a language model's logits) the teacher answers afresh each time


class TeacherOutputs:
    """Answers of a network, in eval mode, to the examples of one split, in the views that a training shows.

    `teacher` is copied, not changed. With `folder`, answers are read from and saved to files there named after the
    weights and the data, so that a job started again does not ask twice. `batch_size` and `seed` are those of the
    training to come: each of its steps (`Split.batches`) then needs no more of the teacher than what it shows itself,
    or, with a multiple of its batch size, than what as many steps show; in another training the answers are the same in kind, but more of them are waited for at first. Past `deadline`
    (`time.monotonic()`) no further `precision` is tried, where none is given. It answers on `device`, by default the
    one that it lies on.
    """

    def __init__(
        self,
        teacher: nn.Module,
        split: Split,
        *,
        batch_size: int = BATCH,
        precision: Precision | None = None,
        folder: Path | None = None,
        seed: int = 0,
        deadline: float = math.inf,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or device_of(teacher)
        self.teacher = copy.deepcopy(teacher).to(self.device).eval().requires_grad_(False)
        self.batch_size, self.seed, self._split = batch_size, seed, split
        self.key = fingerprint(teacher, split)
        self._folder = None if folder is None else Path(folder)
        self._noted = self._read_notes()
        self._dictated = precision is not None
        if precision is None and "precision" in self._noted:
            # Timing might choose another today, whose answers would not go with those that are kept.
            precision = Precision.named(self._noted["precision"])
        if precision is None:
            inputs, _ = split.select(range(min(64, batch_size, len(split))))
            precision = fastest_precision(self.teacher, inputs, train=False, deadline=deadline)
        self.precision = precision
        self.teacher = precision.model(self.teacher)
        self.asked = 0  # examples that the teacher answered
        self._timed, self._seconds = 0, 0.0  # those whose time is known, and the time
        self._cold = (
            self.device.type == "cuda"
        )  # the first answers wait for a GPU's kernels, and tell no pace
        self._kept: dict[
            tuple[View, ...], KeptAnswers | None
        ] = {}  # None where they are too large to be kept
        self._fresh: Forward | None = None
        named = self._noted.get("views")
        self.faithful: tuple[View, ...] | None = None if named is None else tuple(map(View, named))
        self.tells_of_mixed: bool | None = None

    def __call__(self, batch: Batch, kinds: tuple[View, ...]) -> Tensor:
        """Outputs (N, …), float32, for a batch whose inputs are already in the views kinds[batch.views].

        They lie on the CPU, but for those on a GPU that are too large to be kept: these stay there, as `fresh` ones do.
        """
        kept = self._answers(kinds)
        if kept is not None and not all(self._answer(kept, kinds, *block) for block in kept.missing(batch)):
            self._kept[kinds] = kept = None  # outputs of varying length
        if kept is not None:
            return kept.of(batch)
        return self.ask(batch.inputs) if self.device.type == "cpu" else self.fresh(batch.inputs)

    def waiting(self, kinds: tuple[View, ...]) -> float:
        """Seconds that the answers take which are still unknown in these views, at the pace so far.

        Zero where answers are not kept: then every step waits for its own.
        """
        kept = self._answers(kinds)
        if kept is None:
            return 0.0
        while kept.unknown and not self._timed:
            if not self._answer(kept, kinds, *kept.next_missing()):
                self._kept[kinds] = None
                return 0.0
        return kept.unknown * self._seconds / max(1, self._timed)

    def ask(self, inputs: Inputs) -> Tensor:
        """Run the teacher: outputs (N, …), float32 on the CPU."""
        began = time.monotonic()
        outputs = self._run(inputs)
        self.asked += len(outputs)
        if not self._cold:
            self._timed += len(outputs)
            self._seconds += time.monotonic() - began
        self._cold = False
        return outputs

    def fresh(self, inputs: Inputs) -> Tensor:
        """Answers (N, …) to inputs that are no examples, float32: computed each time, and left on the device.

        The next call may overwrite them. Raises `NetworkError` where the first ones are no answers.
        """
        inputs = self.precision.inputs(inputs, self.device)
        if self._fresh is None:
            self._run(inputs)  # which checks them
            self._fresh = answering(self.teacher, inputs, self.precision)
        return self._fresh(inputs)

    def release(self) -> None:
        """Give back the memory that fresh answers took on a GPU."""
        self._fresh = None

    def save(self) -> None:
        """Write what is known to the folder, if there is one and anything is new; not, where the disk takes no more."""
        if self._folder is None:
            return
        notes = {**self._noted, "key": self.key}
        if not self._dictated:
            notes["precision"] = str(self.precision)
        if self.faithful is not None:
            notes["views"] = [view.value for view in self.faithful]
        with suppress(OutputError, SafetensorError, OSError):  # it can all be asked for again
            if notes != self._noted:
                write_json(self._path(".json"), notes)
                self._noted = notes
            for kinds, kept in self._kept.items():
                if kept is not None:
                    kept.save(self._answers_path(kinds), self._facts())

    def _answers(self, kinds: tuple[View, ...]) -> KeptAnswers | None:
        """What is kept in these views, or None where that would take too much memory."""
        if kinds not in self._kept:
            first = self._run(self._split.select([0, 1 % len(self._split)])[0])
            shape = (len(kinds), len(self._split), *first.shape[1:])
            self._kept[kinds] = None
            if 4 * torch.Size(shape).numel() <= LARGEST_CACHE:
                kept = KeptAnswers(self._split, kinds, first.shape[1:], self.batch_size, self.seed)
                if self._folder is not None:
                    kept.read(self._answers_path(kinds), self._facts())
                self._kept[kinds] = kept
        return self._kept[kinds]

    def _answer(self, kept: KeptAnswers, kinds: tuple[View, ...], views: Tensor, examples: Tensor) -> bool:
        """Ask about a block and keep what the teacher says; False if that has another shape than the rest."""
        inputs, _ = self._split.select(examples)
        outputs = self.ask(show(inputs, views, kinds))
        if outputs.shape[1:] != kept.outputs.shape[2:]:
            return False
        kept.note(views, examples, outputs)
        return True

    def _run(self, inputs: Inputs) -> Tensor:
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
        return outputs

    def _path(self, end: str) -> Path:
        assert self._folder is not None
        return self._folder / f"teacher-{self.key[:16]}{'' if self.device.type == 'cpu' else '-gpu'}{end}"

    def _answers_path(self, kinds: tuple[View, ...]) -> Path:
        arithmetic = str(self.precision).replace(", ", "-").replace(" ", "-")
        return self._path(f"-{arithmetic}-{'-'.join(view.value for view in kinds)}.safetensors")

    def _facts(self) -> dict[str, str]:
        """What must be equal for a file of answers to be read."""
        batches = f"{self.batch_size} in all views by seed {self.seed}"
        device = self.device.type
        return {"key": self.key, "precision": str(self.precision), "batches": batches, "device": device}

    def _read_notes(self) -> dict[str, Any]:
        """What an earlier process decided; a file that is damaged or of another job is ignored and later replaced."""
        if self._folder is None:
            return {}
        try:
            found = json.loads(self._path(".json").read_text(encoding="utf-8"))
            if "precision" in found:
                Precision.named(found["precision"])
            [View(name) for name in found.get("views", [])]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
        return dict(found) if found.get("key") == self.key else {}


def fingerprint(model: nn.Module, split: Split) -> str:
    """SHA-256 of a network's class and weights and of the data: their number, and up to 16 examples spread over them."""
    digest = hashlib.sha256(f"{type(model).__qualname__} {len(split)}".encode())
    add_tensors(digest, model.state_dict(keep_vars=True))
    inputs, targets = split.select(torch.linspace(0, len(split) - 1, min(16, len(split))).long())
    args, kwargs = as_args(inputs)
    for tensor in (*args, *kwargs.values(), targets):
        digest.update(bytes_of(tensor))
    return digest.hexdigest()
