"""Train the network that ships with the sample: ResNet-56 on 55,000 Fashion-MNIST images.

The three files come from `scripts/make_sample.py --full`; the 5,000 validation images are in none of the
training batches, and the 10,000 test images are scored once, at the end.

    python scripts/train_sample.py --train full.npz --validation validation.npz --test test.npz \
        --weights resnet56_fashion_mnist.safetensors --result result.json

Recipe: SGD with Nesterov momentum, one linear warm-up and a linear decay, flips, shifts by up to two pixels,
random erasing (Zhong et al., 2020), and stochastic depth with a linear rule (Huang et al., 2016, section 3).
About five minutes on one H200.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from tenfold.models.resnet_cifar import BasicBlock, CifarResNet

MEAN, STD = 0.2860, 0.3530
BATCH = 256
PEAK_RATE, MOMENTUM, WEIGHT_DECAY = 0.2, 0.9, 5e-4
WARM_UP = 0.1


def load(path: Path, device: str) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28), normalised, and labels (N,)."""
    with np.load(path, allow_pickle=False) as arrays:
        images = torch.from_numpy(arrays["images"])[:, None].float().div(255).sub(MEAN).div(STD)
        return images.to(device), torch.from_numpy(arrays["labels"]).long().to(device)


def augment(images: Tensor) -> Tensor:
    """Flip half, shift each by up to two pixels, erase a 9×9 square in half: (N, 1, 28, 28) -> the same."""
    count, device = len(images), images.device
    flipped = torch.rand(count, 1, 1, 1, device=device) < 0.5
    padded = F.pad(torch.where(flipped, images.flip(3), images), (2, 2, 2, 2), value=-MEAN / STD)
    rows = torch.randint(0, 5, (count, 1), device=device) + torch.arange(28, device=device)
    columns = torch.randint(0, 5, (count, 1), device=device) + torch.arange(28, device=device)
    each = torch.arange(count, device=device)[:, None, None]
    shifted = padded[each, 0, rows[:, :, None], columns[:, None, :]][:, None]
    centre = torch.randint(0, 28, (2, count, 1), device=device)
    near = (torch.arange(28, device=device) - centre).abs() < 5
    erased = near[0][:, :, None] & near[1][:, None, :] & (torch.rand(count, 1, 1, device=device) < 0.5)
    return shifted.masked_fill(erased[:, None], 0.0)


class StochasticDepth(nn.Module):
    """A residual block whose branch is dropped for each image with probability 1 - survival, in training."""

    def __init__(self, block: BasicBlock, survival: float) -> None:
        super().__init__()
        self.block, self.survival = block, survival

    def forward(self, x: Tensor) -> Tensor:
        block = self.block
        branch = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x)))))
        if self.training:
            kept = torch.rand(len(x), 1, 1, 1, device=x.device) < self.survival
            branch = branch * (kept.to(branch.dtype) / self.survival)
        return block.relu(branch + block.shortcut(x))


class Trained(nn.Module):
    """The network as it is trained: its own weights, with stochastic depth around every block."""

    def __init__(self, network: CifarResNet, last_survival: float) -> None:
        super().__init__()
        self.network = network
        blocks = [block for stage in (network.layer1, network.layer2, network.layer3) for block in stage]
        self.blocks = nn.ModuleList(
            StochasticDepth(block, 1 - (1 - last_survival) * (i + 1) / len(blocks))
            for i, block in enumerate(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.network.relu(self.network.bn1(self.network.conv1(x)))
        for block in self.blocks:
            x = block(x)
        return self.network.fc(torch.flatten(self.network.avgpool(x), 1))


@torch.no_grad()
def score(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Accuracy in float32."""
    network.eval()
    right = torch.cat([network(batch).argmax(1) for batch in images.split(1000)]) == labels
    return float(right.double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("train", "validation", "test", "weights", "result"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument(
        "--survival", type=float, default=0.5, help="of the last block; 1 = no stochastic depth"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(options.seed)
    torch.backends.cudnn.benchmark = True
    images, labels = load(options.train, device)
    validation, test = load(options.validation, device), load(options.test, device)
    network = CifarResNet(options.depth, num_classes=10, in_channels=1).to(device)
    network = network.to(memory_format=torch.channels_last)
    trained = Trained(network, options.survival)
    forward = torch.compile(trained) if device == "cuda" else trained

    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    optimiser = torch.optim.SGD(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}],
        lr=PEAK_RATE, momentum=MOMENTUM, nesterov=True,
    )  # fmt: skip
    steps = len(images) // BATCH
    total = steps * options.epochs

    def rate(step: int) -> float:
        done = step / total
        return done / WARM_UP if done < WARM_UP else (1 - done) / (1 - WARM_UP)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    curve, start = [], time.time()
    for epoch in range(options.epochs):
        trained.train()
        order = torch.randperm(len(images), device=device)
        for index in order[: steps * BATCH].split(BATCH):
            batch = augment(images[index]).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device, torch.bfloat16):
                outputs = forward(batch)
            loss = F.cross_entropy(outputs.float(), labels[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        if epoch % 5 == 4 or epoch + 1 == options.epochs:
            accuracy = score(network, *validation)
            curve.append(
                {"epoch": epoch + 1, "validation": accuracy, "seconds": round(time.time() - start, 1)}
            )
            print(
                f"epoch {epoch + 1}/{options.epochs}  validation {accuracy:.4f}  {time.time() - start:.0f} s",
                flush=True,
            )

    # What ships is the half-precision file, so that is what is scored.
    state = {
        name: t.half().cpu() if t.is_floating_point() else t.cpu() for name, t in network.state_dict().items()
    }
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(state, str(options.weights))
    network.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in state.items()})
    result = {
        "network": f"CifarResNet(depth={options.depth}, num_classes=10, in_channels=1)",
        "parameters": sum(p.numel() for p in network.parameters()),
        "data": "Fashion-MNIST, 55,000 training images",
        "epochs": options.epochs, "batch": BATCH, "last_survival": options.survival, "seed": options.seed,
        "validation_accuracy": score(network, *validation),
        "test_accuracy": score(network, *test),
        "seconds": round(time.time() - start, 1),
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor(),
        "torch": torch.__version__,
        "curve": curve,
    }  # fmt: skip
    options.result.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "curve"}, indent=2))


if __name__ == "__main__":
    main()
