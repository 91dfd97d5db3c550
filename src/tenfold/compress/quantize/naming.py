"""Names for the calls of a captured graph that do not depend on how PyTorch numbers its nodes."""

from __future__ import annotations

from collections import Counter

from torch import fx

from tenfold.compress.quantize.capture import operator


def stable_names(graph: fx.Graph) -> dict[fx.Node, str]:
    """A name for each input and each call: the module that made it, its operator, and a count if it repeats.

    The second convolution of a block is `layer1.0.conv2.conv2d`, the sum at its end `layer1.0.add`; a ReLU module
    used twice makes `layer1.0.relu.relu` and `layer1.0.relu.relu_1`. Inputs keep their names.
    """
    seen: Counter[str] = Counter()
    names: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            base = str(node.target)
        elif node.op == "call_function":
            path = module_path(node)
            name = operator(node) or getattr(node.target, "__name__", "call")
            base = f"{path}.{name}" if path else name
        else:
            continue
        names[node] = base if base not in seen else f"{base}_{seen[base]}"
        seen[base] += 1
    return names


def module_path(node: fx.Node) -> str:
    """The dotted name of the innermost module whose forward made this call, "" for the network itself."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return paths[-1].split("@")[0] if paths else ""
