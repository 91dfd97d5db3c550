"""Memory and work of training."""

from __future__ import annotations

from math import isqrt


def training_state_bytes(params: int) -> int:
    """16·Ψ for Adam in mixed precision: 16-bit weights and gradients, and fp32 weights, momentum and variance.

    2 + 2 + 12 bytes a parameter (Rajbhandari et al. 2020, ZeRO, section 3.1); activations apart.
    """
    return 16 * params


def zero_bytes(params: int, devices: int, stage: int) -> float:
    """Bytes of weights, gradients and optimiser state on each device (Rajbhandari et al. 2020, figure 1).

    Stage 1 divides the optimiser's state, 2 also the gradients, 3 also the weights.
    """
    if stage not in (0, 1, 2, 3):
        raise ValueError(f"ZeRO has stages 0 to 3, not {stage}")
    whole, divided = {0: (16, 0), 1: (4, 12), 2: (2, 14), 3: (0, 16)}[stage]
    return whole * params + divided * params / devices


def zero_communication(params: int, stage: int) -> float:
    """Parameters sent and received in a step: 2·Ψ, and 3·Ψ in stage 3 (section 7)."""
    return (3 if stage == 3 else 2) * params


def checkpointed_layers(layers: int) -> int:
    """Activations kept at once with √n checkpoints: those of the segments' ends, and of one segment.

    Chen et al. 2016, section 3: O(√n) memory for one more forward pass, about a third more work.
    """
    segment = isqrt(layers - 1) + 1  # ⌈√layers⌉
    return -(-layers // segment) + segment


def checkpointing_work() -> float:
    """Arithmetic of a step with every activation computed again, over a plain step: (1 + 1 + 2) / (1 + 2)."""
    return 4 / 3
