"""What the canary compares, on tensors made by hand: nothing that differs may be overlooked."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torpor.adapters.canary import Reference, _compare, _digest, _worst_layer
from transformers import DynamicCache

LOGITS = torch.tensor([[4.0, 3.0, 1.0, -8.0]])


def reference(logits: torch.Tensor, kept: int) -> Reference:
    top = logits.topk(kept)
    return Reference(9, None, top.indices.to(torch.int32), top.values, _digest(logits), {})


def compared(then: torch.Tensor, now: torch.Tensor, kept: int = 2) -> Any:
    return _compare(reference(then, kept), now, (0.0, 0), True)


def test_the_same_logits() -> None:
    seen = compared(LOGITS, LOGITS.clone())
    assert (seen.same_bits, seen.difference, seen.behind) == (True, 0.0, 0.0)


@pytest.mark.parametrize(
    ("now", "difference", "behind"),
    [
        ([[4.0, 3.0, 1.0, -7.0]], 0.0, 0.0),  # not among those kept: the digest alone tells
        ([[3.0, 3.5, 1.0, -8.0]], 0.25, 0.25),  # another one is first that was second
        ([[4.0, 3.0, 5.0, -8.0]], 0.0, math.inf),  # one is first that was nowhere
    ],
)
def test_other_logits(now: list[list[float]], difference: float, behind: float) -> None:
    seen = compared(LOGITS, torch.tensor(now))
    assert (seen.same_bits, seen.difference, seen.behind) == (False, difference, behind)


def test_the_worst_row_of_a_batch_counts() -> None:
    then = LOGITS.repeat(2, 1)
    now = then.clone()
    now[1] = torch.tensor([3.0, 3.5, 1.0, -8.0])
    seen = compared(then, now)
    assert (seen.difference, seen.behind) == (0.25, 0.25)


def test_the_same_bytes_in_another_dtype_are_not_the_same() -> None:
    zeros = torch.zeros((1, 4), dtype=torch.bfloat16)
    assert compared(zeros, zeros.clone()).same_bits
    assert not compared(zeros, zeros.half()).same_bits


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("value", [0, 1], ids=["K", "V"])
@pytest.mark.parametrize("wrong", [0.5, math.nan])
def test_the_worst_layer(layer: int, value: int, wrong: float) -> None:
    cache = DynamicCache([(torch.ones(1, 2, 5, 4), torch.ones(1, 2, 5, 4)) for _ in range(3)])
    pairs = [[torch.ones(1, 2, 1, 4), torch.ones(1, 2, 1, 4)] for _ in range(3)]
    assert _worst_layer([(k, v) for k, v in pairs], cache, 4) == ((0.0, 0), True)
    pairs[layer][value][0, 1, 0, 3] = wrong
    (difference, where), equal = _worst_layer([(k, v) for k, v in pairs], cache, 4)
    assert (where, equal) == (layer, False)
    assert difference == 0.5 or math.isnan(difference)
