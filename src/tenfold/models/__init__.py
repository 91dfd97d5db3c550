"""Whole networks by name, from their published definitions."""

from tenfold.models.catalogue import create, describe, names, options
from tenfold.models.entry import Description, Entry
from tenfold.models.external import RandomWeights
from tenfold.models.named import is_named, named_network
from tenfold.models.resnet_cifar import CifarResNet
from tenfold.models.scaling import (
    Rule,
    RuleSearch,
    Scaled,
    depth_only,
    resolution_only,
    scale,
    scale_to,
    search_rule,
    width_only,
)
from tenfold.models.weights import load_weights
from tenfold.models.zoo import Card, zoo_card, zoo_names

__all__ = [
    "Card",
    "CifarResNet",
    "Description",
    "Entry",
    "RandomWeights",
    "Rule",
    "RuleSearch",
    "Scaled",
    "create",
    "depth_only",
    "describe",
    "is_named",
    "load_weights",
    "named_network",
    "names",
    "options",
    "resolution_only",
    "scale",
    "scale_to",
    "search_rule",
    "width_only",
    "zoo_card",
    "zoo_names",
]
