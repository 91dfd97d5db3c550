"""INT8 networks whose files hold fewer bits: as fast as INT8, up to half as large, so what a limit on size asks for first.

Rounding to four bits costs little beside what a structure of half the size costs: tenths of a point on a ResNet-20 and
a ResNet-56 on CIFAR-10, a point on EfficientNet-Lite0.
"""

from __future__ import annotations

from tenfold.compress.quantize import Average, Quantize
from tenfold.search.budget import MB
from tenfold.search.job import Job
from tenfold.search.proposals import Proposal

PACKED = "packed-int8"  # the precision; a proposal's is "packed"
FEWEST, MOST = 4.0, 7.0  # bits a weight, of a network that was healed
CHOICES = (3, 4, 5, 6, 8)  # bits of a layer
NOTE = (
    "packed: the file holds so many bits a weight, on average; ONNX Runtime expands them to int8 when it loads the file, "
    "which then takes it longer, and up to 32 bytes of memory a weight"
)


def packed(bits: float) -> Quantize:
    """INT8 of so many bits a weight in the file, each layer having its own number of them."""
    return Quantize(stored_bits=Average(bits, CHOICES))


def decides(job: Job) -> bool:
    """Whether structures are chosen for how small they are packed: where size has a limit, which INT8 may miss.

    Elsewhere what is smallest in INT8 is so packed, and only the best is packed, once it is known.
    """
    return job.budget.size_mb is not None


def bits_for(job: Job, proposal: Proposal) -> float:
    """As many as the limit on size leaves room for, where size is not what is to be least."""
    if job.minimize == "size" or job.budget.size_mb is None:
        return FEWEST
    room = 8 * (job.budget.size_mb * MB - proposal.size_bytes) / max(proposal.params, 1)
    return round(min(max(FEWEST, FEWEST + room), MOST), 2)
