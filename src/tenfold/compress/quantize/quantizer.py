"""`Quantize`: a network whose layers compute on 8-bit integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial

import torch
from torch import Tensor, fx, nn

from tenfold.coding import decode, encode
from tenfold.compress.quantize.affine import Affine, affine_of_range, least_scales, weight_limit
from tenfold.compress.quantize.allocation import Average
from tenfold.compress.quantize.aware_static import train_static
from tenfold.compress.quantize.bias import correct_biases, output_means
from tenfold.compress.quantize.capture import attribute, shape_of
from tenfold.compress.quantize.checks import captured, check_finite, check_type, not_finite, without_layers
from tenfold.compress.quantize.equalize import equalize
from tenfold.compress.quantize.examples import LARGEST_INPUT, correction_inputs, timed_batches
from tenfold.compress.quantize.grid import PerChannel, PerGroup, PerTensor, ZeroPoint
from tenfold.compress.quantize.insert import ROOT, IntegerForm, adds_in_integers
from tenfold.compress.quantize.integers import Integers, Mode, inserted, named, planned, unmatched
from tenfold.compress.quantize.layers import Layer, unshared
from tenfold.compress.quantize.mixed import choose, distortions, layer_macs
from tenfold.compress.quantize.observe import Observer, check_values, observe, require_finite
from tenfold.compress.quantize.plan import Plan
from tenfold.compress.quantize.rounding import Gptq, Rounding
from tenfold.compress.quantize.stored import (
    NARROW,
    Coarse,
    StoredWeight,
    blank_weight,
    check_room,
    check_storable,
    insert_stored,
    round_coarsely,
    storable,
)
from tenfold.compress.quantize.tables import insert_tables
from tenfold.compress.quantize.two_level import SMALLEST_GROUP
from tenfold.compress.technique import Applied, Json, Problem, Run, misplaced, quantized
from tenfold.cost import Device, Inputs, has_int8_dot_product
from tenfold.data import Split, Task
from tenfold.errors import RecipeError, TenfoldError

GROUP = 32  # inputs under one multiple, at most
UNTRAINED = 0.4  # share of the work before training, as it is told
JUDGED = 32  # examples on which a layer's rounding is judged, once for every layer


@dataclass(frozen=True)
class Quantize:
    """INT8 convolutions and linear layers: int8 weights, a scale for each channel or tensor; uint8 activations.

    `granularity` is that of the weights; with `PerTensor()` channels of small weights lose most, which `equalize`
    heals. `activations` have a zero point of their own (INTEGER), or 128 (SYMMETRIC) for targets without zero points: a
    bit is then lost after every ReLU. `embeddings` stores the rows of embedding tables in int8 too, a scale for each.

    `weight_bits` is 8, 7, or None for what this CPU computes without saturation (8 bits served by a CPU with AVX2
    alone would saturate: give 7 for a file that must run anywhere). `observer` chooses the activation
    ranges of the static mode from `examples` training examples. `bias_correction` keeps the mean of every channel.
    `equalize` scales the channels between layers to weights of equal ranges first. `epochs` passes over the training
    data teach a static network afterwards to answer as the original does (quantisation-aware training).

    `floats` are patterns of names ("layer1.*", "classifier") of layers that stay float. With `target_latency`, a share
    of the float network's measured latency, as many others stay float as it allows: those whose rounding moves the
    network's answer most for the milliseconds that it saves, every choice being measured (`Run.latency`).

    With `stored_bits`, 2 to 7, or `Average(bits)` for a width of each layer's own, files hold weights of so many bits,
    rounded by `rounding` on grids of two levels (`tenfold.compress.quantize.two_level`): groups of up to `group`
    inputs, 8 at least, have scales that are whole multiples of their channel's. ONNX Runtime expands them to int8 when
    it loads the file, and is as fast as ever. 4 bits are known as W4A8. Eight bits stay: weights that something else
    than layers reads, embedding tables, and the convolutions of the dynamic mode.
    """

    mode: Mode = Mode.STATIC
    weight_bits: int | None = None
    bias_correction: bool = True
    observer: Observer = Observer.MSE
    examples: int = 128
    equalize: bool = False
    epochs: float = 0.0
    embeddings: bool = True
    granularity: PerChannel | PerTensor = PerChannel()  # noqa: RUF009 - frozen, so it may be shared
    activations: ZeroPoint = ZeroPoint.INTEGER
    floats: tuple[str, ...] = ()
    target_latency: float | None = None
    stored_bits: int | Average | None = None
    group: int = GROUP
    rounding: Rounding = Gptq()  # noqa: RUF009

    def __post_init__(self) -> None:
        if not isinstance(self.mode, Mode) or not isinstance(self.observer, Observer):
            raise ValueError("Quantize: mode must be a Mode and observer an Observer")
        if self.weight_bits not in (None, 7, 8):
            raise ValueError(f"Quantize: weight_bits must be 8, 7 or None, not {self.weight_bits!r}")
        if not isinstance(self.examples, int) or self.examples < 1:
            raise ValueError(
                f"Quantize: examples must be a whole number of at least 1, not {self.examples!r}"
            )
        if not (math.isfinite(self.epochs) and self.epochs >= 0):
            raise ValueError(f"Quantize: epochs must be a finite number of at least 0, not {self.epochs!r}")
        if self.epochs and self.mode is not Mode.STATIC:
            raise ValueError("Quantize: epochs are for the static mode, whose steps can be learnt")
        if isinstance(self.granularity, PerGroup):
            raise ValueError(
                "Quantize: granularity must be PerChannel() or PerTensor(): integer kernels sum over all inputs of a "
                "channel, so that groups of them have no scales; QuantizeWeights has"
            )
        if not isinstance(self.granularity, (PerChannel, PerTensor)):
            raise ValueError(
                f"Quantize: granularity must be PerChannel() or PerTensor(), not {self.granularity!r}"
            )
        if self.activations not in (ZeroPoint.INTEGER, ZeroPoint.SYMMETRIC):
            raise ValueError(
                "Quantize: activations must be ZeroPoint.INTEGER or ZeroPoint.SYMMETRIC (ONNX has no zero point that "
                f"is no integer), not {self.activations!r}"
            )
        if isinstance(self.floats, str):
            raise ValueError(f"Quantize: floats must be a tuple of patterns, not the string {self.floats!r}")
        if not isinstance(self.floats, (tuple, list)) or not all(isinstance(p, str) for p in self.floats):
            raise ValueError(f"Quantize: floats must be a tuple of patterns, not {self.floats!r}")
        object.__setattr__(self, "floats", tuple(self.floats))
        if self.target_latency is not None and not 0.0 < self.target_latency < 1.0:
            raise ValueError(f"Quantize: target_latency must be between 0 and 1, not {self.target_latency!r}")

        self._check_stored()

    def _check_stored(self) -> None:
        if not isinstance(self.rounding, Rounding):
            raise ValueError(
                f"Quantize: rounding must be Nearest(), Gptq() or Learned(), not {self.rounding!r}"
            )
        if type(self.group) is not int or self.group < SMALLEST_GROUP:
            raise ValueError(
                f"Quantize: group must be a whole number of at least {SMALLEST_GROUP}, not {self.group!r}"
            )
        bits = self.stored_bits
        if bits is None:
            return
        if not isinstance(bits, Average) and (type(bits) is not int or bits not in NARROW):
            raise ValueError(
                f"Quantize: stored_bits must be {NARROW[0]} to {NARROW[-1]}, or an Average of bits, not {bits!r}; without "
                "it files hold eight"
            )
        for clash, text in (
            (
                not isinstance(self.granularity, PerChannel),
                "have groups of each channel: leave granularity out, for it must be PerChannel",
            ),
            (
                self.epochs > 0,
                "cannot be trained by epochs: put distill before this step, or use quantize-weights with epochs",
            ),
            (
                self.target_latency is not None,
                "do not go with target_latency, which measures eight: find the layers that stay float by a run "
                "without stored_bits, and name them in floats",
            ),
        ):
            if clash:
                raise ValueError(f"Quantize: stored_bits {text}")

    def preflight(self, model: nn.Module, task: Task, target: Device) -> list[Problem]:
        """Weights that are not finite, nothing to quantise, a quantised network, options and patterns of no effect."""
        if already := quantized(model):
            return already
        problems = misplaced(model, task) or not_finite(model)
        if target.runtime != "onnxruntime":
            text = f"INT8 runs in onnxruntime; {target.runtime} would compute its floats, slower than before"
            problems.append(Problem("", text))
        if self.stored_bits is None and (self.group, self.rounding) != (GROUP, Gptq()):
            # Not when it is made: networks saved with such a step must load.
            text = "group and rounding are those of stored_bits: give those too, or leave both out"
            problems.append(Problem("", text))
        problems += without_layers(model)
        try:
            check_room(self.stored_bits, self.bits_computed, self.weight_bits is None)
        except RecipeError as error:
            problems.append(Problem("", str(error)))
        few = self.stored_bits is not None and self.mode is Mode.DYNAMIC  # layers that can be stored so
        if (self.floats or few) and not problems:
            try:
                module = captured(model, task.zeros(2))
                plan, names = planned(module, self.mode)
                problems = unmatched(plan.layers, names, self.floats)
                plan, _ = planned(module, self.mode, named(plan.layers, names, self.floats))
                check_storable(self.stored_bits, storable(module, plan, self.mode), plan.layers)
            except TenfoldError as error:
                problems.append(Problem("", str(error)))
        return problems

    def apply(self, model: nn.Module, task: Task, run: Run) -> Applied:
        """The network over integers and scales, in PyTorch, and the quantiser of each tensor by name.

        Reads up to `examples` training examples. Raises `NetworkError` for weights or activations that are not
        finite, for a network without layers and for a latency out of reach, `RecipeError` for a latency that cannot be
        measured, a pattern that matches no layer and `stored_bits` that no weight can have, `ExportError` for a network
        that cannot be traced, `OutOfTime` past the run's deadline.
        """
        check_finite(model)
        check_type(model)
        check_room(self.stored_bits, self.bits_computed, self.weight_bits is None)
        if self.target_latency is not None:
            run.require_latency()  # before long work
        before = UNTRAINED if self.epochs else 1.0
        whole, run = run, run.part(0.0, before)
        run.progress(0.0, "quantize: tracing")
        module = captured(model, task.example(2))
        floats = self._floats(module)
        plan, names = planned(module, self.mode, floats)
        check_storable(self.stored_bits, storable(module, plan, self.mode), plan.layers)
        examples = task.train.take(self.examples, seed=run.seed)
        bits = self.bits_computed
        form = IntegerForm(bits, self.granularity, self.activations, self.bias_correction)
        few, equalized = correction_inputs(module.graph, examples), {}
        layers = {names[layer.node]: layer for layer in plan.layers}
        if self.equalize:
            check_values(module, {layer.node: name for name, layer in layers.items()}, lambda: [few])
            equalized = equalize(module, unshared(module.graph, plan.layers), few)
        known: dict[str, Affine] = {}
        if self.mode is Mode.STATIC:
            run.progress(0.2, "quantize: calibrating")
            self._calibrate(module, plan, names, known, examples, run)
        means, dims = {}, {name: layer.channel_dim for name, layer in layers.items()}
        run.require_time("quantize: tracing and calibrating")
        if self.bias_correction:
            by_node = {layer.node: layer for layer in plan.layers}
            means = {names[n]: m for n, m in output_means(module, by_node, few).items()}
            for name, mean in means.items():
                require_finite(name, mean)

        stored, scales, narrow = self._stored(module, plan, names, known, bits, examples, run.part(0.3, 0.6))

        def made(floats: frozenset[str]) -> Integers:
            plan, names = planned(module, self.mode, floats)
            affines = self._calibrate(module, plan, names, known, examples, run)
            network, computed = inserted(module, self.mode, floats, affines, form, scales)
            network, tables = insert_tables(network, ROOT, None if self.embeddings else [])
            if self.bias_correction:
                correct_biases(
                    network,
                    computed,
                    means,
                    dims,
                    few,
                    lambda: run.require_time("quantize: correcting biases"),
                )
            return Integers(network, computed, affines, tables)

        allocation = None
        if self.target_latency is not None:
            inputs = {n: known[names[plan.tensors[layer.input]]] for n, layer in layers.items() if known}
            judged = correction_inputs(module.graph, examples.take(JUDGED, seed=run.seed))
            costs = distortions(module, layers, inputs, form, judged, _judging(run.part(0.2, 0.3)))
            chosen, allocation = self._allocated(model, layers, costs, floats, made, run.part(0.3, 0.6))
            floats = floats | chosen
        run.progress(0.6, "quantize: correcting biases" if self.bias_correction else "quantize: rounding")
        result = made(floats)
        affines, trained = result.affines, None
        if self.epochs:
            healed = train_static(result.module, task, whole.part(before, 1.0), self.epochs)
            trained = asdict(healed)
            affines = {
                name: replace(a, scale=float(attribute(result.module, f"{ROOT}.{name}.scale")))
                for name, a in affines.items()
            }
        resolved: Json = {
            "mode": self.mode.value,
            "weight_bits": bits,
            "granularity": encode(self.granularity),
            "activations": encode(self.activations),
            "bias_correction": self.bias_correction,
            "equalized": equalized,
            "allocation": allocation,
            "trained": trained,
            "floats": sorted(floats),
            "layers": list(result.computed),
            "embeddings": result.tables,
            "stored": {name: {"bits": w.bits, "group": w.group} for name, w in stored.items()},
            "stored_allocation": narrow,
            "tensors": {n: {"scale": a.scale, "zero_point": a.zero_point} for n, a in affines.items()},
        }
        whole.progress(1.0, "quantize: done")
        return Applied(insert_stored(result.module, stored) if stored else result.module, resolved)

    def rebuild(self, model: nn.Module, resolved: Json, inputs: Inputs) -> nn.Module:
        """The module that `apply` made, with the integers of `model`'s own weights until a state is loaded."""
        try:
            mode, bits = Mode(resolved["mode"]), int(resolved["weight_bits"])
            affines = {
                str(name): Affine(float(a["scale"]), int(a["zero_point"]))
                for name, a in resolved["tensors"].items()
            }
            add_bias, layers = bool(resolved["bias_correction"]), list(resolved["layers"])
            tables = [str(name) for name in resolved.get("embeddings", ())]
            floats = frozenset(str(name) for name in resolved.get("floats", ()))
            given_scales = resolved.get("granularity", encode(PerChannel()))
            granularity = decode(PerChannel | PerTensor, given_scales, (), "granularity")
            activations = ZeroPoint(resolved.get("activations", ZeroPoint.INTEGER.value))
            forms = {str(n): (w["bits"], w["group"]) for n, w in resolved.get("stored", {}).items()}
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise RecipeError(f"quantize: the resolved step is malformed ({error!r})") from error
        if bits not in (7, 8):
            raise RecipeError(f"quantize: weight_bits must be 8 or 7, not {bits}")
        module = captured(model, inputs)
        plan, names = planned(module, mode, floats)
        keepers = {names[node] for node, keeper in plan.tensors.items() if node is keeper}
        expected = [*(names[layer.node] for layer in plan.layers), *(sorted(keepers) if affines else ())]
        given = [*layers, *sorted(affines)]
        strange = floats - set(names.values())
        if expected != given or strange or (mode is Mode.STATIC and not affines):
            odd = sorted(strange | set(expected) ^ set(given)) or ["the order of layers"]
            raise RecipeError(f"quantize: made for another network; they differ at {odd[0]}")
        form = IntegerForm(bits, granularity, activations, add_bias)
        readers = storable(module, plan, mode) if forms else {}
        blank = {
            name: blank_weight(name, readers, *given, by_output=mode is Mode.DYNAMIC)
            for name, given in forms.items()
        }
        network = insert_tables(inserted(module, mode, floats, affines, form)[0], ROOT, tables)[0]
        return insert_stored(network, blank) if blank else network

    @property
    def bits_computed(self) -> int:
        """The bits of a weight in the kernel: 8, or 7 where nothing else is asked for and this CPU would saturate."""
        return self.weight_bits or (8 if has_int8_dot_product() else 7)

    def _floats(self, module: fx.GraphModule) -> frozenset[str]:
        """The layers that the user wants float, by name."""
        plan, names = planned(module, self.mode)
        for problem in unmatched(plan.layers, names, self.floats):
            raise RecipeError(str(problem))
        return named(plan.layers, names, self.floats)

    def _stored(
        self,
        module: fx.GraphModule,
        plan: Plan,
        names: dict[fx.Node, str],
        known: dict[str, Affine],
        limit_bits: int,
        examples: Split,
        run: Run,
    ) -> tuple[dict[str, StoredWeight], dict[str, Tensor], Json | None]:
        """What `round_coarsely` returns of the layers whose weights nothing else reads; nothing without `stored_bits`."""
        if self.stored_bits is None:
            return {}, {}, None
        layers = storable(module, plan, self.mode)
        least = {}
        for name, layer in layers.items():
            least[name] = torch.zeros(shape_of(layer.weight)[layer.axis], dtype=torch.float64)
            if known and layer.bias is not None and adds_in_integers(layer):
                scale = known[names[plan.tensors[layer.input]]].scale
                least[name] = least_scales(attribute(module, str(layer.bias.target)), scale)
        coarse = Coarse(
            self.stored_bits,
            self.group,
            weight_limit(limit_bits),
            self.observer,
            self.rounding,
            self.bias_correction,
        )
        few = correction_inputs(module.graph, examples, LARGEST_INPUT)
        stored, scales, allocation = round_coarsely(module, layers, least, coarse, few, run)
        if self.mode is Mode.DYNAMIC:  # whose integers lie by output, whatever the layer's call
            stored = {name: weight.by_output() for name, weight in stored.items()}
        return stored, scales, allocation

    def _allocated(
        self,
        model: nn.Module,
        layers: dict[str, Layer],
        costs: dict[str, float],
        floats: frozenset[str],
        made: Callable[[frozenset[str]], Integers],
        run: Run,
    ) -> tuple[frozenset[str], Json]:
        """Which of the layers stay float beside `floats` under `target_latency`, and how that was found."""
        assert self.target_latency is not None
        measure = run.require_latency()

        @lru_cache(maxsize=1)  # what is measured again need not be made again
        def network(chosen: frozenset[str]) -> nn.Module:
            return made(floats | chosen).module

        def latency(chosen: frozenset[str]) -> float:
            run.require_time("quantize: measuring which layers stay float")
            return measure(network(chosen))

        macs = {name: layer_macs(layer) for name, layer in layers.items()}
        original = min(measure(model), measure(model))  # all is held against it, and a busy machine only adds
        return choose(costs, macs, latency, original, self.target_latency, run.progress)

    def _calibrate(
        self,
        module: fx.GraphModule,
        plan: Plan,
        names: dict[fx.Node, str],
        known: dict[str, Affine],
        examples: Split,
        run: Run,
    ) -> dict[str, Affine]:
        """The quantiser of each tensor of the plan that has its own, by name; those not yet `known` join them."""
        if self.mode is Mode.DYNAMIC:
            return {}
        keepers = {node: names[node] for node, keeper in plan.tensors.items() if node is keeper}
        new = {node: name for node, name in keepers.items() if name not in known}
        if new:
            batches = partial(timed_batches, examples, run, "quantize: calibrating")
            ranges = observe(module, new, batches, self.observer, self.activations)
            known |= {name: affine_of_range(*ranges[node], self.activations) for node, name in new.items()}
        return {name: known[name] for name in keepers.values()}


def _judging(run: Run) -> Callable[[float], None]:
    """What is done before each layer is judged: a look at the clock, and a word."""

    def before(share: float) -> None:
        run.require_time("quantize: judging layers")
        run.progress(share, "quantize: what each layer's rounding costs")

    return before
