"""A restore plan in words and as a table."""

from __future__ import annotations

from rich.console import Group
from rich.text import Text

from ..state.plan import Mode, RestorePlan
from .output import duration, size, table
from .visible import plain

_MEANS: dict[Mode, str] = {
    "full": "everything comes back, and the session goes on at once",
    "prefix": "a part of the KV cache comes back, the rest is prefilled from the same token ids",
    "embeddings": "token ids and picture embeddings come back, the KV cache is prefilled again",
    "media": "text and pictures come back; the model tokenises and encodes them again",
    "text-only": "only the text comes back",
    "refuse": "nothing can be restored",
}


def render(plan: RestorePlan) -> Group:
    """Lay a plan out: what it means, each layer with its reason, the costs, and what else is to be known."""
    rows = table("layer", "decision", "reason")
    for name, (decision, reason) in plan.layers.items():
        rows.add_row(name, decision, reason)
    lines = [Text(f"{plan.backup_id}: {plan.mode}", style="bold"), Text(f"{_MEANS[plan.mode]}.")]
    if plan.base_id is not None:
        lines.append(Text(f"Token ids and KV cache are those of {plan.base_id}."))
    notes = [Text.assemble(("! ", "yellow"), plain(note)) for note in plan.notes]
    return Group(*lines, *([rows] if plan.layers else []), Text(_costs(plan)), *notes)


def _costs(plan: RestorePlan) -> str:
    fetch = f" ({size(plan.bytes_fetch)} of it to fetch)" if plan.bytes_fetch else ""
    took = "not measured on this machine yet" if plan.estimated_s is None else f"about {duration(plan.estimated_s)}"
    return (
        f"{size(plan.bytes_read)} to read{fetch}, {plan.tokens_reused} tokens reused, "
        f"{plan.tokens_prefill} to prefill; {took}."
    )
