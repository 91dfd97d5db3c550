"""The teacher's outputs, the views they are taken in, and hidden layers."""

import pytest
import torch
from torch import nn

from tenfold.data import Split
from tenfold.errors import NetworkError
from tenfold.training import Precision, TeacherOutputs, View, faithful_views, fingerprint, stage_pairs
from tenfold.training import outputs as outputs_module
from tenfold.training.hidden import captured, projections_between
from tenfold.training.kept import first_shown
from tenfold.training.views import Batch, seen, show, view_of

BOTH = (View.IDENTITY, View.FLIP)
PLAIN = Precision()


def images(number: int = 20, size: int = 6) -> Split:
    generator = torch.Generator().manual_seed(0)
    return Split((torch.randn(number, 2, size, size, generator=generator), torch.arange(number) % 3))


class Net(nn.Module):
    """(N, 2, 6, 6) -> (N, 3), with features at two resolutions."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, width, 3, padding=1), nn.ReLU(inplace=True))
        self.stage = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, padding=1), nn.ReLU(inplace=True))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.stage(self.stem(x))).flatten(1))


@pytest.fixture
def teacher() -> Net:
    torch.manual_seed(0)
    return Net()


def batch_of(split: Split, indices: list[int], views: list[int]) -> Batch:
    index, seen = torch.tensor(indices), torch.tensor(views)
    inputs, targets = split.select(index)
    return Batch(index, show(inputs, seen, BOTH), targets, seen)


def test_outputs_are_the_teachers_own_and_asked_for_once(teacher: Net) -> None:
    split = images()
    outputs = TeacherOutputs(teacher, split, precision=PLAIN)
    for _ in range(2):
        batch = batch_of(split, [3, 7, 7, 1], [0, 1, 0, 0])
        torch.testing.assert_close(outputs(batch, BOTH), teacher.eval()(batch.inputs).detach())
        assert outputs.asked == 40  # 3 and 1 plainly in the second pass, 7 mirrored in the first


def test_only_blocks_of_what_is_new_are_asked_for(teacher: Net) -> None:
    split = images()
    outputs = TeacherOutputs(teacher, split, precision=PLAIN)
    # All come back in order: 2 plainly and 3 mirrored in the first pass, 2 mirrored and 1 plainly in the second.
    for indices, views, asked in (([2, 3, 3], [0, 1, 1], 20), ([3, 2, 2, 1], [1, 0, 1, 0], 40)):
        batch = batch_of(split, indices, views)
        torch.testing.assert_close(outputs(batch, BOTH), teacher.eval()(batch.inputs).detach())
        assert outputs.asked == asked


@pytest.mark.parametrize("kinds", [BOTH, (View.IDENTITY,)])
def test_a_step_asks_for_nothing_but_what_it_shows_first(teacher: Net, kinds) -> None:
    split = images(18)
    outputs = TeacherOutputs(teacher, split, batch_size=4, precision=PLAIN, seed=3)
    for epoch in range(4):
        for indices, inputs, targets in split.batches(4, shuffle=3 + epoch, drop_last=True):
            views, before = view_of(indices, epoch, kinds), outputs.asked
            outputs(Batch(indices, show(inputs, views, kinds), targets, views), kinds)
            if epoch < len(kinds):
                assert outputs.asked == before + 4
            else:  # but for the two that each of the first passes left over
                assert outputs.asked <= len(kinds) * 18
    assert outputs.asked == len(kinds) * 18


def test_every_view_of_every_example_is_in_a_block_of_one_step() -> None:
    blocks = first_shown(images(18), BOTH, 4, seed=3)
    assert blocks.min() == 0
    assert blocks.max() == 9  # two passes of four steps and a rest
    sizes = {(view, int(b)): int((blocks[view] == b).sum()) for view in (0, 1) for b in blocks[view].unique()}
    assert sum(sizes.values()) == 36
    assert max(sizes.values()) <= 4
    for (view, block), _ in sizes.items():
        epoch, step = divmod(block, 5)
        shown_then = split_order(18, 3 + epoch)[4 * step : 4 * step + 4]
        members = (blocks[view] == block).nonzero().flatten()
        assert set(members.tolist()) == {i for i in shown_then if (i + epoch) % 2 == view}


def split_order(number: int, seed: int) -> list[int]:
    return torch.randperm(number, generator=torch.Generator().manual_seed(seed)).tolist()


def test_an_answer_does_not_depend_on_what_was_asked_before(teacher: Net) -> None:
    """A teacher whose answer gives away the batch it was computed in, as rounding does in the last bits."""

    class Telling(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + x.mean()

    split, telling = images(18), Telling()
    telling.load_state_dict(teacher.state_dict())
    generator = torch.Generator().manual_seed(0)

    def all_after(history: int) -> torch.Tensor:
        outputs = TeacherOutputs(telling, split, batch_size=4, precision=PLAIN)
        for _ in range(history):
            index = torch.randint(18, (5,), generator=generator)
            outputs(
                batch_of(split, index.tolist(), torch.randint(2, (5,), generator=generator).tolist()), BOTH
            )
        return outputs(batch_of(split, [*range(18), *range(18)], [0] * 18 + [1] * 18), BOTH)

    assert torch.equal(all_after(0), all_after(1))
    assert torch.equal(all_after(0), all_after(6))


def test_the_wait_for_what_is_unknown_is_told(teacher: Net) -> None:
    split = images()
    outputs = TeacherOutputs(teacher, split, precision=PLAIN)
    outputs(batch_of(split, [0], [0]), BOTH)  # and all others of the first pass, twenty of forty answers
    outputs._seconds = 5.0
    assert outputs.waiting(BOTH) == pytest.approx(20 * 0.25)
    assert outputs.waiting((View.IDENTITY,)) == pytest.approx(20 * 0.25)  # other blocks


def test_the_wait_is_told_though_all_that_is_known_came_from_a_file(teacher: Net, tmp_path) -> None:
    split = images()
    first = TeacherOutputs(teacher, split, batch_size=10, precision=PLAIN, folder=tmp_path)
    first(batch_of(split, [0], [0]), BOTH)
    first.save()
    again = TeacherOutputs(teacher, split, batch_size=10, precision=PLAIN, folder=tmp_path)
    assert again.waiting(BOTH) > 0
    assert again.asked == 10  # a block, that gives the pace


def test_views_keep_their_place_whatever_tuple_is_in_use(teacher: Net) -> None:
    """Answers kept for the plain view must not be given for a mirrored one when only one view is in use."""
    split = images()
    outputs = TeacherOutputs(teacher, split, precision=PLAIN)
    outputs(batch_of(split, [0, 1], [0, 0]), (View.IDENTITY,))
    mirrored = Batch(
        torch.tensor([0, 1]), split.select([0, 1])[0].flip(3), torch.zeros(2), torch.tensor([0, 0])
    )
    torch.testing.assert_close(outputs(mirrored, (View.FLIP,)), teacher(mirrored.inputs).detach())


def test_outputs_resume_from_disk_and_ignore_a_damaged_file(teacher: Net, tmp_path) -> None:
    split, batch = images(), None
    first = TeacherOutputs(teacher, split, precision=PLAIN, folder=tmp_path)
    batch = batch_of(split, [0, 5, 9], [0, 1, 1])
    expected = first(batch, BOTH)
    first.save()
    again = TeacherOutputs(teacher, split, precision=PLAIN, folder=tmp_path)
    assert torch.equal(again(batch, BOTH), expected)
    assert again.asked == 0
    other = TeacherOutputs(teacher, split, precision=PLAIN, folder=tmp_path, seed=1)
    other(batch, BOTH)
    assert other.asked > 0  # other blocks, other last bits
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    damaged = TeacherOutputs(teacher, split, precision=PLAIN, folder=tmp_path)
    assert torch.equal(damaged(batch, BOTH), expected)
    assert damaged.asked == first.asked


def test_another_network_or_other_data_have_other_keys(teacher: Net) -> None:
    key = fingerprint(teacher, images())
    assert fingerprint(teacher, images()) == key
    assert fingerprint(teacher, images(19)) != key
    with torch.no_grad():
        teacher.fc.bias[0] += 1e-6
    assert fingerprint(teacher, images()) != key


def test_outputs_too_large_to_keep_are_asked_for_again(teacher: Net, monkeypatch) -> None:
    monkeypatch.setattr("tenfold.training.outputs.LARGEST_CACHE", 100)
    split = images()
    outputs = TeacherOutputs(teacher, split, precision=PLAIN)
    batch = batch_of(split, [3, 4], [0, 0])
    for _ in range(2):
        torch.testing.assert_close(outputs(batch, BOTH), teacher(batch.inputs).detach())
    assert outputs.asked == 2 * 2  # no whole block
    assert outputs.waiting(BOTH) == 0.0


def test_outputs_of_varying_length_are_not_kept(teacher: Net) -> None:
    class Ragged(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, 0, 0, : 2 + int(x.shape[0] > 2)]

    split = images()
    outputs, batch = TeacherOutputs(Ragged(), split, precision=PLAIN), batch_of(split, [3, 4, 9], [0, 0, 0])
    for _ in range(2):
        assert outputs(batch, BOTH).shape == (3, 3)
    assert outputs.waiting(BOTH) == 0.0


def test_what_was_decided_about_a_teacher_is_kept(teacher: Net, tmp_path) -> None:
    split = images()
    first = TeacherOutputs(teacher, split, folder=tmp_path)
    views = faithful_views(first, split)
    asked = first.asked
    assert faithful_views(first, split) == views
    assert first.asked == asked == len(View) * 20
    first.save()
    # What a caller dictates was not decided, and takes nothing of the other arithmetic away.
    other = Precision(bf16=not first.precision.bf16)
    TeacherOutputs(teacher, split, precision=other, folder=tmp_path).save()
    again = TeacherOutputs(teacher, split, folder=tmp_path)
    assert (again.precision, faithful_views(again, split), again.asked) == (first.precision, views, 0)
    (notes,) = tmp_path.glob("*.json")
    notes.write_text('{"key": 3, "precision": []}')
    assert TeacherOutputs(teacher, split, precision=PLAIN, folder=tmp_path).faithful is None


def test_a_teacher_that_answers_nonsense_is_refused(teacher: Net) -> None:
    split = images()
    with torch.no_grad():
        teacher.fc.bias[0] = float("nan")
    with pytest.raises(NetworkError, match="not finite"):
        TeacherOutputs(teacher, split, precision=PLAIN)(batch_of(split, [0], [0]), BOTH)
    flat = TeacherOutputs(nn.Flatten(0), split, precision=PLAIN)
    with pytest.raises(NetworkError, match="first dimension"):
        flat(batch_of(split, [0, 1], [0, 0]), BOTH)


def test_the_teacher_that_was_given_is_not_touched(teacher: Net) -> None:
    teacher.train()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    split = images()
    TeacherOutputs(teacher, split)(batch_of(split, [0], [0]), BOTH)
    assert teacher.training
    assert all(p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(before[k], v) and v.is_contiguous() for k, v in teacher.state_dict().items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_answers_too_large_to_be_kept_stay_on_the_gpu(teacher: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs_module, "LARGEST_CACHE", 0)
    split = images()
    outputs = TeacherOutputs(teacher, split, precision=PLAIN, device=torch.device("cuda"))
    for indices in ([3, 7, 7, 1], [2, 0, 5, 1], [4, 4]):
        batch = batch_of(split, indices, [0, 1, 0, 0][: len(indices)])
        found = outputs(batch, BOTH)
        assert found.is_cuda
        torch.testing.assert_close(found.cpu(), teacher.eval()(batch.inputs).detach(), rtol=1e-3, atol=1e-4)


def test_every_example_comes_in_every_view_in_turn() -> None:
    indices = torch.arange(10)
    first, second = view_of(indices, 0, BOTH), view_of(indices, 1, BOTH)
    assert torch.equal(first, 1 - second)
    assert first.sum() == 5
    x = torch.randn(10, 1, 2, 3)
    seen = show(x, first, BOTH)
    assert torch.equal(seen[0], x[0])
    assert torch.equal(seen[1], x[1].flip(2))
    assert show(x, first, (View.IDENTITY,)) is x


def test_a_shift_draws_the_edge_out() -> None:
    image = torch.arange(1.0, 13.0).reshape(1, 1, 3, 4)
    expected = {
        View.UP: [[5, 6, 7, 8], [9, 10, 11, 12], [9, 10, 11, 12]],
        View.DOWN: [[1, 2, 3, 4], [1, 2, 3, 4], [5, 6, 7, 8]],
        View.LEFT: [[2, 3, 4, 4], [6, 7, 8, 8], [10, 11, 12, 12]],
        View.RIGHT: [[1, 1, 2, 3], [5, 5, 6, 7], [9, 9, 10, 11]],
    }
    for view, rows in expected.items():
        shown = show(image, torch.tensor([1]), (View.IDENTITY, view))
        assert shown[0, 0].tolist() == rows
    large = torch.randn(2, 3, 40, 20)
    left = show(large, torch.tensor([1, 0]), (View.IDENTITY, View.LEFT))
    assert torch.equal(left[0, :, :, :18], large[0, :, :, 2:])  # a tenth of the side
    assert torch.equal(left[1], large[1])


class Half(nn.Module):
    """Tells in which third of the width an image is bright: mirrored, left is right, and shifted, hard to tell."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 10 * torch.stack([part.mean(dim=(1, 2, 3)) for part in x.chunk(3, dim=3)], dim=1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_all_views_in_one_batch_are_those_of_each_alone(layout: torch.memory_format) -> None:
    images = torch.randn(12, 3, 11, 6, dtype=torch.float64).contiguous(memory_format=layout)
    shown = show(images, torch.arange(12) % 6, tuple(View))
    for place, view in enumerate(View):
        assert torch.equal(shown[place::6], seen(images[place::6], view))
    assert shown.stride() == images.stride()


def test_views_are_kept_only_where_the_teacher_still_sees_the_class() -> None:
    labels = torch.arange(60) % 3
    sideways = torch.zeros(60, 1, 3, 3)
    for i, label in enumerate(labels.tolist()):
        sideways[i, :, :, label] = 1.0

    def views(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[View, ...]:
        split = Split((inputs, targets))
        return faithful_views(TeacherOutputs(model, split, precision=PLAIN), split)

    assert views(Half(), sideways, labels) == (View.IDENTITY, View.UP, View.DOWN)
    upright = sideways.transpose(2, 3)  # the same, top to bottom

    class Upright(Half):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.transpose(2, 3))

    assert views(Upright(), upright, labels) == (View.IDENTITY, View.FLIP, View.LEFT, View.RIGHT)
    # Targets that are not classes have no mirror that is known to be true to them.
    assert views(Upright(), upright, labels.float()) == (View.IDENTITY,)
    # Neither has what is not an image.
    assert views(nn.Linear(6, 3), torch.randn(60, 6), labels) == (View.IDENTITY,)


def test_stage_pairs_are_the_last_layers_at_each_resolution(teacher: Net) -> None:
    inputs = torch.randn(2, 2, 6, 6)
    assert stage_pairs(Net(2), teacher, inputs) == (("stem", "stem"), ("stage", "stage"))


def test_projections_only_where_widths_differ(teacher: Net) -> None:
    inputs, pairs = torch.randn(2, 2, 6, 6), (("stem", "stem"), ("stage", "stage"))
    assert len(projections_between(Net(4), teacher, inputs, pairs)) == 0
    maps = projections_between(Net(2), teacher, inputs, pairs)
    assert [tuple(m.weight.shape) for m in maps.values()] == [(4, 2), (8, 4)]
    with pytest.raises(NetworkError, match="differ in more than channels"):
        projections_between(Net(2), teacher, inputs, (("stem", "stage"),))
    with pytest.raises(NetworkError, match="no such layer"):
        projections_between(Net(2), teacher, inputs, (("nowhere", "stage"),))


def test_hooks_are_taken_away_again(teacher: Net) -> None:
    with captured(teacher, ["stem"]) as seen:
        teacher(torch.randn(2, 2, 6, 6))
    assert seen["stem"].shape == (2, 4, 6, 6)
    assert not teacher.stem._forward_hooks
