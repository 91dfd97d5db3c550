"""What hardware does with numbers: formats, the memory hierarchy, the roofline, and what suits which device.

Figures of single devices for prediction are in the catalogue of `Device`; these tables are for reasoning and teaching.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A number format: how many times smaller than fp32, and how much faster where the hardware has it.

    `compute` is the gain in peak rate by the rule that halving the bits doubles it; `a100` is the peak of an A100 in TFLOP/s or TOP/s, None where it has none.
    """

    name: str
    bits: int
    exponent: int  # bits of the exponent; 0 for integers
    compute: float
    a100: float | None

    @property
    def bytes(self) -> float:
        """Bytes of one number; packed, where it is less than one."""
        return self.bits / 8

    @property
    def smaller(self) -> float:
        """fp32's bits over this one's: the gain in size and in bandwidth."""
        return 32 / self.bits


# Peaks without sparsity: NVIDIA A100 Tensor Core GPU, data sheet (2021). fp8 is that of Micikevicius et al. 2022.
FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format("fp32", 32, 8, 1, 19.5),
        Format("fp16", 16, 5, 2, 312),
        Format("bf16", 16, 8, 2, 312),
        Format("fp8", 8, 4, 4, None),
        Format("int8", 8, 0, 4, 624),
        Format("int4", 4, 0, 8, 1248),
    )
}


@dataclass(frozen=True)
class MemoryLevel:
    """One level of a memory hierarchy: its size, and the time until a dependent read returns."""

    name: str
    bytes: int
    latency_cycles: float
    per: str  # what has this much: "SM" or "GPU"


# Sizes: NVIDIA A100 Tensor Core GPU Architecture (2020), 80 GB. Latencies: Luo et al. 2024, "Benchmarking and
# Dissecting the Nvidia Hopper GPU Architecture", memory latencies of the A100. A register operand is ready with the
# instruction before it; its figure is the latency of a dependent arithmetic instruction (Jia et al. 2018 for Volta).
A100_MEMORY: tuple[MemoryLevel, ...] = (
    MemoryLevel("registers", 256 * 1024, 4, "SM"),
    MemoryLevel("shared memory", 164 * 1024, 29.0, "SM"),
    MemoryLevel("L1 cache", 192 * 1024, 37.9, "SM"),
    MemoryLevel("L2 cache", 40 * 2**20, 261.5, "GPU"),
    MemoryLevel("HBM", 80 * 10**9, 466.3, "GPU"),
)
A100_CLOCK_GHZ = 1.41


def latency_ns(level: MemoryLevel, clock_ghz: float = A100_CLOCK_GHZ) -> float:
    """Cycles in nanoseconds."""
    return level.latency_cycles / clock_ghz


def matmul_intensity(rows: int, columns: int, depth: int, *, element: float = 4) -> float:
    """FLOPs a byte of (rows × depth)·(depth × columns), each matrix moved once: N/6 in fp32 for square ones."""
    moved = (rows * depth + depth * columns + rows * columns) * element
    return 2 * rows * columns * depth / moved


def depthwise_intensity(kernel: int, *, element: float = 4) -> float:
    """FLOPs a byte of a depthwise convolution on a large image: 2·K² for one element read and one written.

    2.25 for 3×3 in fp32; the often printed 1.1 counts a multiply-add as one.
    """
    return 2 * kernel**2 / (2 * element)


def attainable(peak_flops: float, bandwidth: float, intensity: float) -> float:
    """FLOP/s under the roofline: min(peak, bandwidth · intensity) (Williams et al. 2009)."""
    return min(peak_flops, bandwidth * intensity)


def ridge(peak_flops: float, bandwidth: float) -> float:
    """The intensity from which on a kernel is bound by compute: peak / bandwidth."""
    return peak_flops / bandwidth


@dataclass(frozen=True)
class Preference:
    """What runs well on a kind of device, and why."""

    blocks: tuple[str, ...]
    precisions: tuple[str, ...]
    multiple: int  # channels are best a multiple of this
    reason: str
    source: str


PREFERENCES: dict[str, Preference] = {
    "cpu": Preference(
        ("depthwise separable convolution", "inverted residual"), ("int8", "fp32"), 8,
        "few cores and large caches: what counts is arithmetic, and vectors hold 8 fp32 or 32 int8",
        "Howard et al. 2019, MobileNetV3; Intel 64 and IA-32 manual (AVX2)",
    ),
    "gpu": Preference(
        ("standard convolution", "fused inverted residual", "attention with a fused kernel"), ("bf16", "fp16", "fp8"), 8,
        "matrix units need many FLOPs a byte, which depthwise convolutions do not have",
        "NVIDIA, Deep Learning Performance Guide; Tan & Le 2021, EfficientNetV2",
    ),
    "tpu": Preference(
        ("standard convolution", "fused inverted residual", "attention"), ("bf16", "int8"), 128,
        "128×128 systolic arrays: narrower products leave them empty",
        "Jouppi et al. 2023, TPU v4; Li et al. 2021, fast model families on datacenter accelerators",
    ),
    "phone npu": Preference(
        ("inverted residual", "standard convolution", "ReLU rather than swish"), ("int8",), 8,
        "fixed integer pipelines: what they lack falls back to the CPU, at the cost of a copy",
        "Xiong et al. 2021, MobileDets; Howard et al. 2019, MobileNetV3",
    ),
    "microcontroller": Preference(
        ("inverted residual", "depthwise separable convolution"), ("int8",), 4,
        "hundreds of kilobytes: peak activations decide, before latency does",
        "Lin et al. 2020, MCUNet; Lai et al. 2018, CMSIS-NN",
    ),
}  # fmt: skip
