"""Several processes that train one adapter together (torchrun): each reads its share of a step.

Losses are sums over rows, each already divided by what all processes' rows count together, so that
adding up the processes' gradients gives those of one process. Nothing else is exchanged: which
rows a step has is known to everyone.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

T = TypeVar("T")


def own_share(rows: Sequence[T]) -> list[T]:
    """Every n-th row for the n-th of n processes; all of them where there is one."""
    return list(rows[_rank() :: _processes()])


def is_first() -> bool:
    """Whether this process is the one that does what is done once."""
    return _rank() == 0


def add_up_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace every gradient by the sum over all processes, in one exchange."""
    if _processes() == 1:
        return
    parameters = list(parameters)
    for parameter in parameters:
        if parameter.grad is None:  # a process whose share was empty
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    at = 0
    for gradient in gradients:
        gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
        at += gradient.numel()


def add_up(values: Tensor) -> Tensor:
    """The sum over all processes."""
    values = values.detach().clone()
    if _processes() > 1:
        dist.all_reduce(values)
    return values


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
