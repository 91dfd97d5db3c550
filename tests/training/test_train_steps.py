"""One step of training, and its parts, against the same written out by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tenfold.data import Split
from tenfold.errors import NetworkError
from tenfold.models import create
from tenfold.models.resnet_cifar import BasicBlock
from tenfold.nn import StochasticDepth
from tenfold.training import AdamW, Augmentation, Precision, Sgd, TrainingRecipe
from tenfold.training.average import WeightAverage
from tenfold.training.checkpoint import load_optimizer, optimizer_tensors
from tenfold.training.depth import stochastic_depth
from tenfold.training.resident import ResidentImages
from tenfold.training.scoring import right_answers
from tenfold.training.stepper import Stepper, mixed_loss

CPU = torch.device("cpu")


def data(count: int = 24) -> Split:
    generator = torch.Generator().manual_seed(0)
    return Split((torch.randn(count, 1, 8, 8, generator=generator), torch.arange(count) % 3))


def network() -> nn.Module:
    torch.manual_seed(0)
    return create("resnet20", num_classes=3, in_channels=1)


@pytest.mark.parametrize("settings", [Sgd(0.1), AdamW(0.01)])
def test_steps_are_those_of_a_plain_loop(settings: Sgd | AdamW) -> None:
    model, plain = network().train(), network().train()
    recipe = TrainingRecipe(optimizer=settings, label_smoothing=0.1, clip=0.5)
    stepper = Stepper(model, ResidentImages.of(data(), CPU, "train"), recipe, 8, Precision())
    rule = settings.build(plain.parameters())
    total = 0.0
    for step in range(3):
        index, rate = torch.arange(8) + 8 * step, 0.02 * (step + 1)
        stepper(index, rate)
        for group in rule.param_groups:
            group["lr"] = rate
        inputs, labels = data().select(index)
        loss = F.cross_entropy(plain(inputs), labels, label_smoothing=0.1)
        rule.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        rule.step()
        total += loss.item()
    assert stepper.loss.item() == pytest.approx(total, rel=1e-5)
    for mine, its in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, its, atol=1e-5, rtol=1e-4)


def test_a_taught_step_follows_labels_and_teacher_on_the_same_varied_images() -> None:
    model, plain, teacher = (
        network().train(),
        network().train(),
        create("resnet20", num_classes=3, in_channels=1),
    )
    recipe = TrainingRecipe(
        optimizer=Sgd(0.1),
        augmentation=Augmentation(mixup=0.5),
        label_smoothing=0.1,
        teaching=0.7,
        temperature=3.0,
    )
    held = ResidentImages.of(data(), CPU, "train")
    stepper = Stepper(model, held, recipe, 8, Precision(), teacher=teacher.eval())
    torch.manual_seed(5)
    stepper(torch.arange(8), 0.1)
    torch.manual_seed(5)
    inputs, labels = held.batch(torch.arange(8))
    inputs, share = stepper.augmenter(inputs)
    outputs, answers = plain(inputs), teacher(inputs).detach()
    own, other = F.one_hot(labels, 3).float(), F.one_hot(labels.roll(1), 3).float()
    hard = F.cross_entropy(outputs, share[:, None] * own + (1 - share[:, None]) * other, label_smoothing=0.1)
    target = (answers / 3).softmax(1)
    soft = 9 * (target * (target.log() - (outputs / 3).log_softmax(1))).sum(1).mean()
    loss = 0.3 * hard + 0.7 * soft
    loss.backward()
    assert stepper.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    for mine, its in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("settings", [Sgd(0.1), Sgd(0.1, momentum=0.0), AdamW(0.01)])
def test_the_fused_update_with_a_rate_in_a_tensor_is_the_plain_one(settings: Sgd | AdamW) -> None:
    plain = [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4))]
    fused = copy.deepcopy(plain)
    rate = torch.tensor(0.0)
    options = {"learning_rate": rate, "fused": True}
    rules = [settings.build(plain), settings.build(fused, **options)]
    for group in rules[1].param_groups:
        group["capturable"] = False  # which the CPU's fused update refuses
    for step in range(3):
        rate.fill_(0.01 * (step + 1))
        for group in rules[0].param_groups:
            group["lr"] = 0.01 * (step + 1)
        for mine, its in zip(plain, fused, strict=True):
            mine.grad = torch.randn_like(mine)
            its.grad = mine.grad.clone()
        for rule in rules:
            rule.step()
    for mine, its in zip(plain, fused, strict=True):
        torch.testing.assert_close(mine, its)


def test_the_loss_of_mixed_images_is_that_of_mixed_labels() -> None:
    torch.manual_seed(0)
    outputs, labels, share = torch.randn(6, 4), torch.randint(4, (6,)), torch.rand(6)
    own, other = F.one_hot(labels, 4).float(), F.one_hot(labels.roll(1), 4).float()
    soft = share[:, None] * own + (1 - share[:, None]) * other
    torch.testing.assert_close(
        mixed_loss(outputs, labels, share, 0.1), F.cross_entropy(outputs, soft, label_smoothing=0.1)
    )
    torch.testing.assert_close(
        mixed_loss(outputs, labels, None, 0.1), F.cross_entropy(outputs, labels, label_smoothing=0.1)
    )


def test_the_average_follows_its_recurrence_whether_updated_each_step_or_in_strides() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = WeightAverage(model, 0.9)
    expected = model[0].weight.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            model[0].weight += step
            model[1].num_batches_tracked += 1
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
    torch.testing.assert_close(average.model[0].weight, expected)
    assert int(average.model[1].num_batches_tracked) == 5
    before = average.model[0].weight.clone()
    average.update(10_000, steps=4)
    torch.testing.assert_close(
        average.model[0].weight, 0.9**4 * before + (1 - 0.9**4) * model[0].weight.detach()
    )


def test_stochastic_depth_rises_linearly_and_leaves_no_trace() -> None:
    model = network()
    inputs = data().select(range(8))[0]
    expected = model.eval()(inputs)
    with stochastic_depth(model, 0.9):
        assert torch.equal(model.eval()(inputs), expected)
        seen = []
        last = [m for m in model.modules() if isinstance(m, BasicBlock)][-1]
        handle = last.bn2.register_forward_hook(lambda m, a, y: seen.append(y.flatten(1).abs().sum(1) == 0))
        model.train()
        with torch.no_grad():
            for _ in range(30):
                model(inputs)
        handle.remove()
        assert float(torch.stack(seen).float().mean()) == pytest.approx(0.9, abs=0.06)
    model.train()
    assert not any(m._forward_hooks for m in model.modules())


def test_stochastic_depth_sets_the_networks_own_modules() -> None:
    model = create("vit_ti_16", resolution=8, patch_size=4, num_classes=3, drop_path=0.01)
    modules = [m for m in model.modules() if isinstance(m, StochasticDepth)]
    before = [m.rate for m in modules]
    with stochastic_depth(model, 0.5):
        assert modules[-1].rate == 0.5
        assert modules[0].rate == pytest.approx(0.5 / len(modules))
    assert [m.rate for m in modules] == before
    with pytest.raises(NetworkError, match="no residual branch"), stochastic_depth(nn.Linear(2, 2), 0.5):
        pass


def test_right_answers_are_counted_and_the_mode_is_kept() -> None:
    model, held = network().train(), ResidentImages.of(data(), CPU, "test")
    right = right_answers(model, held, Precision())
    assert model.training
    inputs, labels = data().select(range(24))
    assert right == int((model.eval()(inputs).argmax(1) == labels).sum())


@pytest.mark.parametrize("settings", [Sgd(0.1), AdamW(0.01)])
def test_the_optimisers_state_is_put_back(settings: Sgd | AdamW) -> None:
    models = [network(), network()]
    rules = [settings.build(model.parameters()) for model in models]
    generator = torch.Generator().manual_seed(0)

    def step(which: tuple[int, ...]) -> None:
        gradients = [torch.randn(p.shape, generator=generator) for p in models[0].parameters()]
        for i in which:
            for parameter, gradient in zip(models[i].parameters(), gradients, strict=True):
                parameter.grad = gradient
            rules[i].step()

    step((0,))
    models[1].load_state_dict(models[0].state_dict())
    load_optimizer(rules[1], models[1], optimizer_tensors(rules[0], models[0]), "file")
    step((0, 1))
    for mine, its in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(mine, its)


def test_a_recipe_of_augmentation_reaches_the_step() -> None:
    torch.manual_seed(0)
    recipe = TrainingRecipe(
        optimizer=Sgd(0.1), augmentation=Augmentation(flip=True, mixup=0.3, cutmix=0.3, erasing=1)
    )
    stepper = Stepper(network().train(), ResidentImages.of(data(), CPU, "train"), recipe, 8, Precision())
    stepper(torch.arange(8), 0.1)
    assert stepper.loss.item() > 0
    assert not stepper.captured
    assert stepper.settled
