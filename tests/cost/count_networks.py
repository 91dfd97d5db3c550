"""Small networks that the tests of counting share."""

from __future__ import annotations

from torch import Tensor, nn


class Function(nn.Module):
    """A network out of a function of its inputs."""

    def __init__(self, function, **tensors: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor))

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)
