"""What a canary's figures mean."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from torpor.state.canary import KV_TOLERANCE, LOGITS_TOLERANCE, NOT_ASKED, Comparison, judge

EXACT = Comparison(True, 0.0, 0.0, True, 0.0, 0)
CLOSE = Comparison(False, 0.001, 0.0, False, 0.001, 2)
OTHER = ("attention",)


@pytest.mark.parametrize(
    ("seen", "changed", "dtype", "passes"),
    [
        (EXACT, (), "bfloat16", True),
        (EXACT, OTHER, "bfloat16", True),
        (CLOSE, (), "bfloat16", False),  # the same environment gives the same bits
        (CLOSE, OTHER, "bfloat16", True),
        (CLOSE, OTHER, "float16", True),
        (CLOSE, OTHER, "float32", False),  # which is far more exact
        (CLOSE, OTHER, "float8_e4m3fn", False),  # nothing was measured for it, so nothing is tolerated
        (replace(EXACT, same_bits=False), (), "bfloat16", False),  # a bit beyond the top ones
        (replace(EXACT, kv_same_bits=False), (), "bfloat16", False),
        (replace(CLOSE, difference=LOGITS_TOLERANCE["bfloat16"] * 1.01), OTHER, "bfloat16", False),
        (replace(CLOSE, kv_difference=KV_TOLERANCE["bfloat16"] * 1.01), OTHER, "bfloat16", False),
        (replace(CLOSE, behind=LOGITS_TOLERANCE["bfloat16"] * 1.9), OTHER, "bfloat16", True),
        (replace(CLOSE, behind=LOGITS_TOLERANCE["bfloat16"] * 2.1), OTHER, "bfloat16", False),
        (replace(CLOSE, behind=math.inf), OTHER, "bfloat16", False),
        *[(replace(CLOSE, **{name: math.nan}), OTHER, "bfloat16", False) for name in ("difference", "kv_difference")],
    ],
)
def test_verdict(seen: Comparison, changed: tuple[str, ...], dtype: str, passes: bool) -> None:
    assert judge(seen, changed, dtype).outcome == ("passed" if passes else "missed")


def test_the_note_says_what_differs_and_where() -> None:
    note = judge(replace(CLOSE, difference=0.5, kv_difference=0.75), OTHER, "bfloat16").note()
    assert note == (
        "canary missed: the logits differ by 0.5 of the largest, allowed 0.06; "
        "K or V differ by 0.75 of the largest in layer 2, allowed 0.18 (other attention)"
    )
    assert NOT_ASKED.note() == "canary not asked"
