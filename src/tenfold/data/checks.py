"""Everything about a task that would fail sooner or later, found in seconds and named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.cost import Inputs, as_args, call, map_inputs
from tenfold.data.metric import accuracy, checked_score
from tenfold.data.split import Split
from tenfold.data.task import Task
from tenfold.errors import DataError, NetworkError
from tenfold.naming import described

EXAMPLES_READ = 16  # of a data set that is not in memory, and for trying the metric
# With this many examples a class on average, a class without any is a fault and not chance (about e^-10 each).
EXAMPLES_PER_CLASS = 10


def check_task(task: Task) -> None:
    """Raise the first thing that would make long work fail. Seconds; the network is left as it was.

    Weights, inputs and outputs are finite; the network runs on one example; its outputs fit the labels of every
    split; the metric returns a float; no class is without a training example.
    """
    check_weights(task.model)
    splits = {"train": task.train, "validation": task.validation, "test": task.test}
    splits = {name: split for name, split in splits.items() if split is not None}
    for name, split in splits.items():
        _check_inputs(split, name)
    outputs = _run_one(task)
    for name, split in splits.items():
        _check_targets(task, split, name, outputs)
    _check_classes(task, outputs)
    _check_metric(task)


def check_weights(model: nn.Module) -> None:
    """Raise a `NetworkError` that names the first parameter or buffer holding NaN or infinity."""
    for kind, tensors in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in tensors:
            if tensor.is_meta:
                raise NetworkError(
                    f"the {kind} {name} is on the meta device: it has no values; load weights first"
                )
            # Buffers may hold -inf on purpose, as attention masks do.
            bad = tensor.isnan() if kind == "buffer" else ~tensor.isfinite()
            if bad.any():
                found = "NaN" if tensor.isnan().any() else "infinity"
                raise NetworkError(
                    f"the {kind} {name} holds {found} ({int(bad.sum())} of {tensor.numel()} values)"
                )


def _check_inputs(split: Split, name: str) -> None:
    """Inputs are finite: all of them if in memory, else the first few."""
    if split.stacked is not None:
        inputs = split.stacked[0]
    else:
        inputs = _read(split, list(range(min(EXAMPLES_READ, len(split)))), name)[0]
    args, kwargs = as_args(inputs)
    for tensor in (*args, *kwargs.values()):
        if not tensor.is_floating_point():
            continue
        for start in range(0, len(tensor), 4096):
            some = tensor[start : start + 4096]
            finite = some.isfinite().reshape(len(some), -1).all(dim=1)  # (N,) inputs too
            if not finite.all():
                index = start + int((~finite).nonzero()[0])
                raise DataError(f"{name}: the example at index {split.given(index)} holds NaN or infinity")


def check_alike(task: Task) -> None:
    """Raise a `DataError` where validation or test examples are of another shape or type than those of train.

    PyTorch may run on them; an exported network takes what it was exported with.
    """
    wanted = _shapes(_read(task.train, [0], "train")[0])
    for name, split in (("validation", task.validation), ("test", task.test)):
        if split is None:
            continue
        found = _shapes(_read(split, [0], name)[0])
        if found != wanted:
            raise DataError(
                f"{name} holds {found} and train {wanted}: an exported network takes one shape and type; make them equal"
            )


def _read(split: Split, indices: list[int], name: str) -> tuple[Inputs, Tensor]:
    """Examples of a split; whatever the user's dataset raises becomes a `DataError` that names the split."""
    try:
        inputs, targets = split.select(indices)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    except Exception as error:
        raise DataError(f"{name}: reading an example raised {described(error)}") from error
    args, kwargs = as_args(inputs)
    for value in (*args, *kwargs.values(), targets):
        if not isinstance(value, Tensor):
            raise DataError(f"{name}: an example holds a {type(value).__name__} where a tensor is wanted")
    return inputs, targets


def _run_one(task: Task) -> Tensor:
    """The outputs (1, …) of one example; a `NetworkError` names the layer where the network fails."""
    inputs, _ = _read(task.train, [0], "train")
    try:
        outputs = evaluated(task.model, inputs)
    except TypeError as error:
        raise NetworkError(f"the network does not run on {_shapes(inputs)}: {described(error)}") from error
    if outputs.ndim == 0 or outputs.shape[0] != 1:
        raise NetworkError(
            f"the network returned shape {tuple(outputs.shape)} for one example: the first dimension must be the batch"
        )
    if not outputs.isfinite().all():
        raise NetworkError("the network's output for the first training example holds NaN or infinity")
    return outputs


def evaluated(model: nn.Module, inputs: Inputs) -> Tensor:
    """The main output in eval mode, without gradients; a `NetworkError` names the innermost module that fails."""
    running: list[str] = []
    names = {module: name for name, module in model.named_modules()}

    def enter(module: nn.Module, _: Any) -> None:
        running.append(names[module])

    def leave(module: nn.Module, _: Any, __: Any) -> None:
        running.pop()

    handles = [m.register_forward_pre_hook(enter) for m in names]
    handles += [m.register_forward_hook(leave) for m in names]
    modes = {module: module.training for module in names}
    try:
        model.eval()
        with torch.no_grad():
            return call(model, map_inputs(_detached, inputs))
    except Exception as error:
        if running:  # entered and not left: the innermost one is where it failed
            where = f"layer {running[-1]!r}" if running[-1] else "its own forward"
            raise NetworkError(
                f"the network does not run on {_shapes(inputs)}: {where} raised {described(error)}"
                f"{_conversion(model, inputs)}"
            ) from error
        raise
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training


def _conversion(model: nn.Module, inputs: Inputs) -> str:
    """Of which type the weights are, and what to convert, where no floating-point input is of that type; else ""."""
    args, kwargs = as_args(inputs)
    given = {tensor.dtype for tensor in (*args, *kwargs.values()) if tensor.is_floating_point()}
    own = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    if not given or not own or not given.isdisjoint(own):
        return ""
    names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in own))
    others = [what for what, types in (("it", own), ("the data", given)) if torch.float32 not in types]
    return f"; the network's weights are {names}: convert {' and '.join(others)} by .float()"


def _detached(tensor: Tensor) -> Tensor:
    return tensor.detach()


def _shapes(inputs: Inputs) -> str:
    args, kwargs = as_args(inputs)
    texts = [f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in args]
    texts += [
        f"{name} {tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for name, t in sorted(kwargs.items())
    ]
    return f"an example of {', '.join(texts)}"


def _check_targets(task: Task, split: Split, name: str, outputs: Tensor) -> None:
    """Targets are finite; class labels are whole numbers that the network has an output for."""
    targets = split.known_targets
    if targets is None:
        targets = _read(split, list(range(min(EXAMPLES_READ, len(split)))), name)[1]
    if targets.is_floating_point():
        if not targets.isfinite().all():
            index = int((~targets.isfinite()).reshape(len(targets), -1).any(dim=1).nonzero()[0])
            raise DataError(f"{name}: the target at index {split.given(index)} is NaN or infinity")
        if task.metric is accuracy:
            raise DataError(
                f"{name}: the labels are {str(targets.dtype).removeprefix('torch.')}, but accuracy needs whole "
                f"numbers; convert them, or give another metric"
            )
        return
    if not _classifies(task, outputs, targets):
        if task.metric is accuracy:
            raise DataError(
                f"{name}: outputs of shape (N, {', '.join(map(str, outputs.shape[1:]))}) and labels of shape "
                f"(N, {', '.join(map(str, targets.shape[1:]))}) do not fit accuracy, which takes (N, C) and (N,)"
            )
        return
    classes = outputs.shape[1]
    outside = (targets < 0) | (targets >= classes)
    if outside.any():
        place = [int(i) for i in outside.nonzero()[0]]
        where = ", ".join(map(str, [split.given(place[0]), *place[1:]]))
        raise DataError(
            f"{name}: the label {int(targets[tuple(place)])} at index {where} is out of range: the network has "
            f"{classes} classes, 0 to {classes - 1}"
        )


def _classifies(task: Task, outputs: Tensor, targets: Tensor) -> bool:
    """Whether targets (N, …) index the second dimension of outputs (N, C, …)."""
    if outputs.ndim < 2 or targets.is_floating_point() or targets.dtype == torch.bool:
        return False
    if task.metric is not accuracy and outputs.shape[1] < 2:
        return False  # one output and whole-number targets: a count or a rank, not a class
    return outputs.shape[2:] == targets.shape[1:]


def _check_classes(task: Task, outputs: Tensor) -> None:
    """Every class has a training example, where the data is large enough to say so."""
    targets = task.train.known_targets
    if targets is None or targets.ndim != 1 or not _classifies(task, outputs, targets):
        return
    answers = int(outputs.shape[1])
    number = len(task.classes) or answers
    if number != answers:
        raise DataError(
            f"the data names {number} classes ({_listed(task.classes)}) and the network has {answers} outputs, so an "
            f"output need not mean what a label does; give a network of {number} outputs, or name the class of each"
        )
    # A small draw to calibrate from may rightly lack classes, so only a set that could hold them all is judged.
    if len(targets) < number * (1 if task.classes else EXAMPLES_PER_CLASS):
        return
    absent = (torch.bincount(targets.flatten(), minlength=number)[:number] == 0).nonzero().flatten().tolist()
    if absent:
        named = [task.classes[i] if task.classes else i for i in absent]
        raise DataError(
            f"train has no example of class {_listed(named)}: add some of each, or give a network without these outputs"
        )


def _listed(classes: Sequence[str | int]) -> str:
    """The first three, and how many more there are."""
    names = [repr(label) for label in classes]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _check_metric(task: Task) -> None:
    """The metric returns one finite float on a few validation examples, of as many classes as can be had."""
    targets = task.validation.known_targets
    wanted = min(EXAMPLES_READ, len(task.validation))
    order = list(range(wanted))
    if targets is not None and targets.ndim == 1 and not targets.is_floating_point():
        # The first of each class, then others: a metric over classes has no value on one class alone.
        _, inverse = targets.unique(return_inverse=True)
        first = [int((inverse == k).nonzero()[0]) for k in range(min(int(inverse.max()) + 1, wanted))]
        order = (first + [i for i in range(len(targets)) if i not in set(first)][:wanted])[:wanted]
    inputs, targets = _read(task.validation, order, "validation")
    checked_score(task.metric, evaluated(task.model, inputs), targets)  # type: ignore[arg-type]
