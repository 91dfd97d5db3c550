"""Answers of a teacher that are kept: which are known, which belong together, and their file.

An answer's last bits depend on the batch it was computed in. So examples are asked about in blocks that the data, the
views in use and a seed fix: whoever asks first, and after whatever else, an example gets the same answer, bit for bit.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tenfold.data import Split
from tenfold.files import written
from tenfold.training.views import Batch, View, view_of

Block = tuple[Tensor, Tensor]  # places in the tuple of views (N,), and examples (N,)


class KeptAnswers:
    """Answers (views, examples, …) in float32, asked for block by block.

    A block is what one step of training, with batches of `batch_size` in the order of `seed`, is the first to show, in
    whichever views: a step then asks for nothing but what it shows itself, in whichever pass, and asks once.
    """

    def __init__(
        self, split: Split, kinds: tuple[View, ...], shape: torch.Size, batch_size: int, seed: int
    ) -> None:
        self.blocks = first_shown(split, kinds, batch_size, seed)
        # Where each block's answers lie among all of them, one block behind the other.
        self._places = self.blocks.flatten().argsort(stable=True)
        self._ends = torch.bincount(self.blocks.flatten()).cumsum(0)
        self.known = torch.zeros(self.blocks.shape, dtype=torch.bool)
        self.outputs = torch.zeros(*self.blocks.shape, *shape)
        self._saved = 0

    @property
    def unknown(self) -> int:
        """How many answers are still to be asked for."""
        return int((~self.known).sum())

    def missing(self, batch: Batch) -> list[Block]:
        """What must be asked for before `of(batch)`: blocks of places in the tuple of views, and of examples."""
        new = ~self.known[batch.views, batch.indices]
        blocks = self.blocks[batch.views[new], batch.indices[new]].unique()
        return [self._members(block) for block in blocks.tolist()]

    def next_missing(self) -> Block:
        """The first block that is still to be asked for."""
        return self._members(int(self.blocks[~self.known].min()))

    def note(self, views: Tensor, examples: Tensor, outputs: Tensor) -> None:
        """Keep what the teacher said of these examples in these views."""
        self.outputs[views, examples] = outputs
        self.known[views, examples] = True

    def of(self, batch: Batch) -> Tensor:
        """The answers to a batch, all of which are known."""
        return self.outputs[batch.views, batch.indices]

    def save(self, path: Path, facts: dict[str, str]) -> None:
        """Write them, and what is true of them, unless nothing is new since."""
        known = int(self.known.sum())
        if known == self._saved:
            return
        with written(path) as temporary:
            save_file({"outputs": self.outputs, "known": self.known}, temporary, facts)
        self._saved = known

    def read(self, path: Path, facts: dict[str, str]) -> None:
        """Take what a file of the same facts holds; one that is damaged or of another job is left alone."""
        try:
            with safe_open(path, "pt") as file:
                found = file.metadata() or {}
                known, outputs = file.get_tensor("known").clone(), file.get_tensor("outputs").clone()
        except (SafetensorError, OSError):
            return
        fits = known.shape == self.known.shape and outputs.shape == self.outputs.shape
        if found == facts and fits and known.dtype == torch.bool and outputs.dtype == torch.float32:
            self.known, self.outputs, self._saved = known, outputs, int(known.sum())

    def _members(self, block: int) -> Block:
        start = int(self._ends[block - 1]) if block else 0
        places = self._places[start : int(self._ends[block])]
        examples = self.blocks.shape[1]
        return places // examples, places % examples


def first_shown(split: Split, kinds: tuple[View, ...], batch_size: int, seed: int) -> Tensor:
    """For each view and example (views, N) the number of the step, over the first passes, that shows it so first."""
    everything, steps = torch.arange(len(split)), math.ceil(len(split) / batch_size)
    blocks = torch.empty(len(kinds), len(split), dtype=torch.long)
    for epoch in range(len(kinds)):  # after as many passes as there are views each example was shown in all
        place = torch.empty_like(everything)
        place[split.order(seed + epoch)] = everything
        blocks[view_of(everything, epoch, kinds), everything] = epoch * steps + place // batch_size
    return blocks
