"""Networks of other libraries: `timm:NAME` and `hf:NAME_OR_FOLDER`. Both libraries are optional extras.

`timm:NAME` has random weights unless asked for the published ones, `timm:NAME?pretrained`; further options go
the same way, `timm:resnet50?num_classes=10&in_chans=1`. `hf:NAME_OR_FOLDER` has the weights of the hub or the
folder, from safetensors only; `hf:NAME_OR_FOLDER?random` needs the configuration alone. No remote code is run.
"""

from __future__ import annotations

import importlib
import json
import re
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tenfold.errors import NetworkError
from tenfold.naming import described, nearest

# Options that only shape the network. Others could name files to be unpickled (checkpoint_path), for instance.
TIMM_OPTIONS = ("num_classes", "in_chans", "img_size", "patch_size", "global_pool", "zero_init_last")

# The auto class of transformers that builds a network whose configuration names an architecture ending so.
AUTO_CLASSES = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForImageClassification": "AutoModelForImageClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
    "ForMaskedLM": "AutoModelForMaskedLM",
}

_shims: list[torch.library.Library] = []  # a library must stay alive for its operators to exist


class RandomWeights(UserWarning):
    """A network was asked for by name, and its weights are random."""


def timm_network(spec: str, *, weights: bool = True) -> nn.Module:
    """The network `NAME[?option=value&…]` of timm in eval mode; with `weights` False nothing is downloaded."""
    name, options = parsed(spec, "timm:")
    pretrained = bool(options.pop("pretrained", False)) and weights
    for option in options:
        if option not in TIMM_OPTIONS:
            offered = nearest(option, (*TIMM_OPTIONS, "pretrained"))
            raise NetworkError(f"timm:{name}: option {option!r} is not taken{offered}")
    if not re.fullmatch(r"[\w.-]+", name):
        raise NetworkError(f"timm:{name}: not a name of timm's")
    timm = _library("timm", "timm")
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        raise NetworkError(f"timm has no network {name!r}{nearest(architecture, timm.list_models())}")
    if weights and not pretrained:
        said_to_be_random(f"timm:{name} has random weights; timm:{name}?pretrained loads the published ones")
    try:
        return timm.create_model(name, pretrained=pretrained, **options).eval()
    except Exception as error:
        hint = " (the weights must be downloaded or cached)" if pretrained else ""
        raise NetworkError(f"timm:{spec} cannot be built: {described(error)}{hint}") from error


def hf_network(spec: str, *, weights: bool = True) -> nn.Module:
    """The network of a Hugging Face name or local folder in eval mode, by the class its configuration names."""
    name, options = parsed(spec, "hf:")
    random = bool(options.pop("random", False))
    if options:
        raise NetworkError(f"hf:{name}: option {next(iter(options))!r} is not taken; known: random")
    transformers = _library("transformers", "transformers")
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        raise NetworkError(f"hf:{name}: its configuration cannot be read: {described(error)}") from error
    auto = getattr(transformers, _auto_class(config))
    if weights and random:
        said_to_be_random(f"hf:{name} has random weights, as asked")
    try:
        if weights and not random:
            model = auto.from_pretrained(
                name, config=config, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
            )
            _copy_tensors(model)
        else:
            model = auto.from_config(config, trust_remote_code=False, dtype=torch.float32)
    except Exception as error:
        hint = "" if random or not weights else "; weights must be safetensors, in the folder or on the hub"
        raise NetworkError(f"hf:{name} cannot be loaded: {described(error)}{hint}") from error
    return model.eval()


def _copy_tensors(model: nn.Module) -> None:
    """Take the tensors out of the mapped file, where they lie at addresses on which kernels round otherwise."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def _auto_class(config: Any) -> str:
    for architecture in getattr(config, "architectures", None) or ():
        for ending, auto in AUTO_CLASSES.items():
            if architecture.endswith(ending):
                return auto
    return "AutoModel"


def parsed(spec: str, kind: str = "") -> tuple[str, dict[str, Any]]:
    """`NAME?a=1&b` as the name and its options; a value is JSON (a number, true, false) or else a string.

    `kind` is what stood before the name, for the errors.
    """
    name, _, query = spec.partition("?")
    if not name:
        raise NetworkError(f"{kind} needs a name after the colon")
    options: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        key, given, text = part.partition("=")
        try:
            options[key] = json.loads(text) if given else True
        except ValueError:
            options[key] = text
        if isinstance(options[key], (dict, list)) or options[key] is None:
            raise NetworkError(f"{kind}{name}: option {key!r} must be a number, true, false or a word")
    return name, options


def said_to_be_random(text: str) -> None:
    """Warn the caller of `named_network`."""
    warnings.warn(text, RandomWeights, stacklevel=4)


def _library(module: str, extra: str) -> ModuleType:
    """Import an optional library; where it is missing, the error says which extra brings it."""
    _mend_torchvision()
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            text = f'{module} is not installed: pip install "tenfold[{extra}]"'
        else:
            text = f"{module} cannot be imported: {described(error)}"
        raise NetworkError(text) from error


def _mend_torchvision() -> None:
    """Declare the operators that torchvision's Python part needs, where its compiled part does not load.

    PyPI's torchvision beside a CPU build of torch fails at import for want of two declarations, and takes timm
    with it. Nothing that is built here calls them.
    """
    if _shims:
        return
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return
    except (ImportError, RuntimeError) as error:
        if "torchvision::" not in str(error):
            return
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _shims.append(library)
