"""The canary: one token is run again on a restored KV cache, and its logits are compared with those saved. Pure.

A digest proves that bytes are those that were saved. It does not prove that model and state belong together: a wrong
weight file, lost rope offsets or swapped layers give fluent garbage and no error. One token that is run again does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["passed", "missed", "not saved", "not applicable", "not asked"]

# What other kernels may change, relative to the largest number compared. Measured (docs/PERFORMANCE.md): eager against
# sdpa gave 0.016, 0.0025 and 7e-7 in the logits, 0.045, 0.0082 and 9e-6 in K and V. A position that is off by one gave
# as little as 0.014 in the logits of real weights, but never less than 0.37 in K; other wrong states 0.03 and 0.76.
LOGITS_TOLERANCE = {"bfloat16": 0.06, "float16": 0.01, "float32": 1e-4, "float64": 1e-6}
KV_TOLERANCE = {"bfloat16": 0.18, "float16": 0.04, "float32": 4e-4, "float64": 4e-6}


@dataclass(frozen=True, slots=True)
class CanaryResult:
    """What came of it. Differences are relative to the largest number compared; a tolerance of 0 is bit by bit."""

    outcome: Outcome
    detail: str = ""
    difference: float | None = None  # of the saved top logits
    tolerance: float | None = None
    kv_difference: float | None = None  # of the token's K and V in the layer where it is largest
    kv_tolerance: float | None = None

    @property
    def missed(self) -> bool:
        """Whether model and cache do not belong together."""
        return self.outcome == "missed"

    def note(self) -> str:
        """Return the result as a line for a plan."""
        return f"canary {self.outcome}" + (f": {self.detail}" if self.detail else "")


NOT_ASKED = CanaryResult("not asked")


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a step gave against what was saved.

    `behind` is how far the token that comes first now was behind the first one then (infinite when it was not among the
    saved ones), relative like the differences. A NaN fails whatever it is compared with.
    """

    same_bits: bool
    difference: float
    behind: float
    kv_same_bits: bool
    kv_difference: float
    kv_layer: int


def judge(seen: Comparison, changed: tuple[str, ...], dtype: str) -> CanaryResult:
    """Decide. With the same environment (nothing `changed`) every bit must agree, else the tolerances of a dtype hold.

    The token that comes first must, within twice the tolerance, have come first at the save too.
    """
    limit = LOGITS_TOLERANCE.get(dtype, 0.0) if changed else 0.0
    kv_limit = KV_TOLERANCE.get(dtype, 0.0) if changed else 0.0
    where = f"other {', '.join(changed)}" if changed else "bit by bit"
    if changed:
        logits_agree = seen.difference <= limit and seen.behind <= 2 * limit
        kv_agree = seen.kv_difference <= kv_limit
    else:
        logits_agree, kv_agree = seen.same_bits, seen.kv_same_bits
    figures = (seen.difference, limit, seen.kv_difference, kv_limit)
    if logits_agree and kv_agree:
        return CanaryResult("passed", where, *figures)
    reasons = []
    if not logits_agree:
        reasons.append(f"the logits differ by {seen.difference:.2g} of the largest, allowed {limit:.2g}")
    if not kv_agree:
        reasons.append(
            f"K or V differ by {seen.kv_difference:.2g} of the largest in layer {seen.kv_layer}, allowed {kv_limit:.2g}"
        )
    return CanaryResult("missed", f"{'; '.join(reasons)} ({where})", *figures)
