"""The networks of the mobile family by name: table, scale, resolution, and what is published of each."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

from tenfold.models.entry import Description, Entry, catalogued
from tenfold.models.mobile import mobile_network
from tenfold.models.mobile_tables import (
    EFFICIENTNET,
    EFFICIENTNET_LITE,
    EFFICIENTNET_V2_S,
    FBNET_C,
    MNASNET_A1,
    MNASNET_B1,
    MOBILENET_V1,
    MOBILENET_V2,
    MOBILENET_V3_LARGE,
    MOBILENET_V3_SMALL,
    Table,
)

PAPER = "the paper"
TORCHVISION = "torchvision, IMAGENET1K_V1"
REFERENCE = "the reference implementation (tensorflow/tpu)"

# The largest EfficientNets were trained with another epsilon and momentum of batch norm than the smaller ones.
EFFICIENTNET_LARGE = replace(EFFICIENTNET, norm_eps=1e-3, norm_momentum=0.01)


class Network(NamedTuple):
    name: str
    table: Table
    width: float
    depth: float
    resolution: int
    dropout: float
    params: int
    macs: int
    top1: float
    top1_source: str


PUBLISHED = (
    Network("mobilenet_v1", MOBILENET_V1, 1.0, 1.0, 224, 0.2, 4_231_976, 568_740_352, 70.6, PAPER),
    Network("mobilenet_v2", MOBILENET_V2, 1.0, 1.0, 224, 0.2, 3_504_872, 300_774_272, 71.878, TORCHVISION),
    Network("mobilenet_v2_140", MOBILENET_V2, 1.4, 1.0, 224, 0.2, 6_108_776, 582_195_824, 74.7, PAPER),
    Network(
        "mobilenet_v3_small",
        MOBILENET_V3_SMALL,
        1.0,
        1.0,
        224,
        0.2,
        2_542_856,
        56_510_400,
        67.668,
        TORCHVISION,
    ),
    Network(
        "mobilenet_v3_large",
        MOBILENET_V3_LARGE,
        1.0,
        1.0,
        224,
        0.2,
        5_483_032,
        216_589_760,
        74.042,
        TORCHVISION,
    ),
    Network("mnasnet_a1", MNASNET_A1, 1.0, 1.0, 224, 0.2, 3_887_038, 311_579_072, 75.2, PAPER),
    Network("mnasnet_b1", MNASNET_B1, 1.0, 1.0, 224, 0.2, 4_383_312, 314_415_872, 73.456, TORCHVISION),
    Network("efficientnet_b0", EFFICIENTNET, 1.0, 1.0, 224, 0.2, 5_288_548, 385_814_752, 77.692, TORCHVISION),
    Network("efficientnet_b1", EFFICIENTNET, 1.0, 1.1, 240, 0.2, 7_794_184, 686_802_832, 78.642, TORCHVISION),
    Network("efficientnet_b2", EFFICIENTNET, 1.1, 1.2, 260, 0.3, 9_109_994, 993_561_872, 80.608, TORCHVISION),
    Network(
        "efficientnet_b3", EFFICIENTNET, 1.2, 1.4, 300, 0.3, 12_233_232, 1_827_141_392, 82.008, TORCHVISION
    ),
    Network(
        "efficientnet_b4", EFFICIENTNET, 1.4, 1.8, 380, 0.4, 19_341_616, 4_393_771_024, 83.384, TORCHVISION
    ),
    Network(
        "efficientnet_b5",
        EFFICIENTNET_LARGE,
        1.6,
        2.2,
        456,
        0.4,
        30_389_784,
        10_266_384_752,
        83.444,
        TORCHVISION,
    ),
    Network(
        "efficientnet_b6",
        EFFICIENTNET_LARGE,
        1.8,
        2.6,
        528,
        0.5,
        43_040_704,
        19_067_593_536,
        84.008,
        TORCHVISION,
    ),
    Network(
        "efficientnet_b7",
        EFFICIENTNET_LARGE,
        2.0,
        3.1,
        600,
        0.5,
        66_347_960,
        37_745_884_192,
        84.122,
        TORCHVISION,
    ),
    Network(
        "efficientnet_lite0", EFFICIENTNET_LITE, 1.0, 1.0, 224, 0.2, 4_652_008, 385_187_552, 75.1, REFERENCE
    ),
    Network(
        "efficientnet_lite1", EFFICIENTNET_LITE, 1.0, 1.1, 240, 0.2, 5_416_680, 600_185_232, 76.7, REFERENCE
    ),
    Network(
        "efficientnet_lite2", EFFICIENTNET_LITE, 1.1, 1.2, 260, 0.3, 6_092_072, 859_736_272, 77.6, REFERENCE
    ),
    Network(
        "efficientnet_lite3", EFFICIENTNET_LITE, 1.2, 1.4, 280, 0.3, 8_197_096, 1_383_321_872, 79.8, REFERENCE
    ),
    Network(
        "efficientnet_lite4",
        EFFICIENTNET_LITE,
        1.4,
        1.8,
        300,
        0.3,
        13_006_568,
        2_553_034_336,
        81.5,
        REFERENCE,
    ),
    Network(
        "efficientnet_v2_s",
        EFFICIENTNET_V2_S,
        1.0,
        1.0,
        384,
        0.2,
        21_458_488,
        8_365_617_152,
        84.228,
        TORCHVISION,
    ),
    Network("fbnet_c", FBNET_C, 1.0, 1.0, 224, 0.2, 5_572_200, 384_960_160, 74.9, PAPER),
)


def _entry(network: Network) -> Entry:
    table = replace(network.table, dropout=network.dropout)
    return Entry(
        partial(mobile_network, table, (network.width, network.depth), network.resolution),
        Description(
            name=network.name,
            family=table.family,
            paper=table.paper,
            resolution=network.resolution,
            params=network.params,
            macs=network.macs,
            top1=network.top1,
            top1_source=network.top1_source,
        ),
    )


NETWORKS = catalogued(*map(_entry, PUBLISHED))
