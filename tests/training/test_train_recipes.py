"""Training recipes: files, names, and errors that name the line."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.errors import RecipeError
from tenfold.training import (
    AdamW,
    Augmentation,
    Sgd,
    TrainingRecipe,
    parse_training_recipe,
    training_recipe,
    training_recipe_names,
)

TEXT = """tenfold: 1
epochs: 30
optimizer:
  type: AdamW
  learning_rate: 1e-3
augmentation:
  padding: 4
  flip: true
average: 0.99
"""


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    recipe = training_recipe(path)
    assert recipe == TrainingRecipe(
        epochs=30, optimizer=AdamW(1e-3), augmentation=Augmentation(padding=4, flip=True), average=0.99
    )
    assert training_recipe(path, epochs=2).epochs == 2


@pytest.mark.parametrize("name", training_recipe_names())
def test_those_that_ship_are_read_and_written_again(name: str) -> None:
    recipe = training_recipe(name)
    assert parse_training_recipe(recipe.to_yaml()) == recipe


def test_three_ship() -> None:
    assert training_recipe_names() == ["cifar", "imagenet-finetune", "vit-small-data"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "epochs: 30",
            "epoch: 30",
            r"r\.yaml:2: a training recipe has no key 'epoch'; did you mean 'epochs'",
        ),
        ("  padding: 4", "  paddin: 4", r"r\.yaml:7: .*no key 'paddin'; did you mean 'padding'"),
        ("  type: AdamW", "  type: AdmW", r"r\.yaml:4: .*no type 'AdmW'; did you mean 'AdamW'"),
        (
            "  learning_rate: 1e-3",
            "  learning_rate: fast",
            r"r\.yaml:5: .*learning_rate must be a finite number",
        ),
        ("  flip: true", "  flip: often", r"r\.yaml:8: .*flip must be true or false"),
        ("epochs: 30", "epochs: 0", r"r\.yaml:2: .*epochs must be above 0"),
        ("average: 0.99", "average: 1.5", r"r\.yaml:9: .*average must be a decay"),
        ("tenfold: 1", "tenfold: 2", r"r\.yaml:1: .*version 2; this Tenfold reads version 1"),
        ("epochs: 30", "epochs: [", r"r\.yaml:\d+: not valid YAML"),
    ],
)
def test_an_error_names_the_line_and_the_nearest_key(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(RecipeError, match=message):
        parse_training_recipe(TEXT.replace(old, new), "r.yaml")


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(RecipeError, match="no recipe 'cifa'; did you mean 'cifar'"):
        training_recipe("cifa")
    with pytest.raises(RecipeError, match=r"missing\.yaml cannot be read"):
        training_recipe("missing.yaml")
    with pytest.raises(RecipeError, match="epochs must be above 0"):
        training_recipe("cifar", epochs=-1)


@settings(deadline=None)
@given(
    st.floats(0.1, 500),
    st.integers(1, 4096),
    st.floats(1e-5, 10),
    st.floats(0, 0.9),
    st.booleans(),
    st.floats(0, 1),
)
def test_what_is_written_is_read_again(epochs, batch, rate, smoothing, sgd, erasing) -> None:
    recipe = TrainingRecipe(
        epochs=epochs,
        batch_size=batch,
        optimizer=Sgd(rate) if sgd else AdamW(rate),
        label_smoothing=smoothing,
        augmentation=Augmentation(erasing=erasing),
    )
    assert parse_training_recipe(recipe.to_yaml()) == recipe
