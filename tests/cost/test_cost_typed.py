"""Inputs as people type them."""

from __future__ import annotations

import pytest
import torch

from tenfold.cost import read_inputs
from tenfold.errors import NetworkError


def test_shapes_types_and_names():
    assert read_inputs("1x3x8X8").shape == (1, 3, 8, 8)
    assert read_inputs("2x5:int64").dtype == torch.int64
    first, second = read_inputs("1x4, 1x2:bool")
    assert (first.shape, second.dtype) == ((1, 4), torch.bool)
    named = read_inputs("input_ids=1x7:int64,mask=1x7:bool")
    assert {name: (tuple(t.shape), t.dtype) for name, t in named.items()} == {
        "input_ids": ((1, 7), torch.int64), "mask": ((1, 7), torch.bool)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1x0x3", "'1x0x3' is no shape"),
        ("", "is no shape"),
        ("1x2:int4", "no type 'int4'; use one of float32"),
        ("a=1x2,1x3", "give every input a name, or none"),
        ("a=1x2,a=1x3", "needs a name of its own"),
        ("a b=1x2", "needs a name of its own"),
    ],
)
def test_what_cannot_be_read_is_quoted(text, message):
    with pytest.raises(NetworkError, match=message):
        read_inputs(text)
