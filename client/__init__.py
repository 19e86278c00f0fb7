"""The SDK that an inference process uses: `connect()`, then `save`, `plan` and `restore`."""

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
