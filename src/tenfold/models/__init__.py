"""Whole networks by name, from their published definitions."""

from tenfold.models.external import RandomWeights
from tenfold.models.named import is_named, named_network
from tenfold.models.registry import create, names
from tenfold.models.resnet_cifar import CifarResNet
from tenfold.models.zoo import Card, zoo_card, zoo_names

__all__ = [
    "Card",
    "CifarResNet",
    "RandomWeights",
    "create",
    "is_named",
    "named_network",
    "names",
    "zoo_card",
    "zoo_names",
]
