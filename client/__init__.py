"""The SDK that an inference process uses: `connect()`, then `save`, `plan` and `restore`."""

from ..state.backup import Backup, Group
from ..state.block_keys import Medium
from ..state.canary import CanaryResult
from ..state.plan import RestorePlan, TargetState
from .capture import CanaryTarget, Capture, KVSink, KVView, LiveKV, Restored, RestoreTarget, SessionSource, Woken
from .groups import GroupHandle
from .keeper import Keeper, connect
from .prefix import PrefixHit, medium
from .save_job import SaveHandle

__all__ = [
    "Backup",
    "CanaryResult",
    "CanaryTarget",
    "Capture",
    "Group",
    "GroupHandle",
    "KVSink",
    "KVView",
    "Keeper",
    "LiveKV",
    "Medium",
    "PrefixHit",
    "RestorePlan",
    "RestoreTarget",
    "Restored",
    "SaveHandle",
    "SessionSource",
    "TargetState",
    "Woken",
    "connect",
    "medium",
]
