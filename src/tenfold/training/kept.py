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


class KeptAnswers:
    """Answers (views, examples, …) in float32, asked for block by block.

    A block is what one step of training, with batches of `batch_size` in the order of `seed`, is the first to show in
    one view: a step then asks for nothing but what it shows itself, in whichever pass.
    """

    def __init__(
        self, split: Split, kinds: tuple[View, ...], shape: torch.Size, batch_size: int, seed: int
    ) -> None:
        self.blocks = first_shown(split, kinds, batch_size, seed)
        self.known = torch.zeros(self.blocks.shape, dtype=torch.bool)
        self.outputs = torch.zeros(*self.blocks.shape, *shape)
        self._saved = 0

    @property
    def unknown(self) -> int:
        """How many answers are still to be asked for."""
        return int((~self.known).sum())

    def missing(self, batch: Batch) -> list[tuple[int, Tensor]]:
        """What must be asked for before `of(batch)`: places in the tuple of views, and the examples of a block."""
        new = ~self.known[batch.views, batch.indices]
        views, blocks = batch.views[new], self.blocks[batch.views[new], batch.indices[new]]
        pairs = torch.stack([views, blocks], dim=1).unique(dim=0)
        return [(view, self._members(view, block)) for view, block in pairs.tolist()]

    def next_missing(self) -> tuple[int, Tensor]:
        """The first block that is still to be asked for."""
        block, view = min(
            (int(self.blocks[view][~known].min()), view)
            for view, known in enumerate(self.known)
            if not known.all()
        )
        return view, self._members(view, block)

    def note(self, view: int, examples: Tensor, outputs: Tensor) -> None:
        """Keep what the teacher said of these examples."""
        self.outputs[view, examples] = outputs
        self.known[view, examples] = True

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

    def _members(self, view: int, block: int) -> Tensor:
        return (self.blocks[view] == block).nonzero().flatten()


def first_shown(split: Split, kinds: tuple[View, ...], batch_size: int, seed: int) -> Tensor:
    """For each view and example (views, N) the number of the step, over the first passes, that shows it so first."""
    everything, steps = torch.arange(len(split)), math.ceil(len(split) / batch_size)
    blocks = torch.empty(len(kinds), len(split), dtype=torch.long)
    for epoch in range(len(kinds)):  # after as many passes as there are views each example was shown in all
        place = torch.empty_like(everything)
        place[split.order(seed + epoch)] = everything
        blocks[view_of(everything, epoch, kinds), everything] = epoch * steps + place // batch_size
    return blocks
