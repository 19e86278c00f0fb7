"""The SDK that an inference process uses: `connect()`, then `save`, `plan` and `restore`.

Its names are imported when they are asked for: whoever needs the API alone (a tray icon) pays for nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..state.backup import Backup, Group
    from ..state.block_keys import Medium
    from ..state.canary import CanaryResult
    from ..state.plan import RestorePlan, TargetState
    from .attach import Attachment
    from .capture import CanaryTarget, Capture, KVSink, KVView, LiveKV, Restored, RestoreTarget, SessionSource, Woken
    from .groups import GroupHandle
    from .keeper import Keeper, connect
    from .late import LateKeeper
    from .prefix import PrefixHit, medium
    from .provider import Provider, SessionTable
    from .save_job import SaveHandle

__all__ = [
    "Attachment",
    "Backup",
    "CanaryResult",
    "CanaryTarget",
    "Capture",
    "Group",
    "GroupHandle",
    "KVSink",
    "KVView",
    "Keeper",
    "LateKeeper",
    "LiveKV",
    "Medium",
    "PrefixHit",
    "Provider",
    "RestorePlan",
    "RestoreTarget",
    "Restored",
    "SaveHandle",
    "SessionSource",
    "SessionTable",
    "TargetState",
    "Woken",
    "connect",
    "medium",
]

_HOMES = {
    "..state.backup": ("Backup", "Group"),
    "..state.block_keys": ("Medium",),
    "..state.canary": ("CanaryResult",),
    "..state.plan": ("RestorePlan", "TargetState"),
    ".attach": ("Attachment",),
    ".capture": (
        "CanaryTarget",
        "Capture",
        "KVSink",
        "KVView",
        "LiveKV",
        "Restored",
        "RestoreTarget",
        "SessionSource",
        "Woken",
    ),
    ".groups": ("GroupHandle",),
    ".keeper": ("Keeper", "connect"),
    ".late": ("LateKeeper",),
    ".prefix": ("PrefixHit", "medium"),
    ".provider": ("Provider", "SessionTable"),
    ".save_job": ("SaveHandle",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME_OF[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
