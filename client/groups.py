"""Several sessions as one: what a group save gives back, and what is checked before a group is restored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..state.backup import Backup, Group
from ..state.errors import BadInput, GroupIncomplete
from ..state.ids import parse_session_id
from ..state.manifest import MAX_GROUP, GroupRef
from .save_job import Started


class GroupHandle(Started[dict[str, Backup]]):
    """A group save that was started. `wait` returns the backups by session, when all of them are committed."""

    def __init__(self, group: GroupRef, backup_ids: dict[str, str]) -> None:
        super().__init__(f"group {group.id}")
        self.group_id, self.name, self.backup_ids = group.id, group.name, backup_ids


def check_sources(name: str, sources: Mapping[str, object]) -> None:
    """Make sure that sessions can be saved as a group. Raises: InvalidId, BadInput."""
    parse_session_id(name)
    for session_id in sources:
        parse_session_id(session_id)
    if not 1 <= len(sources) <= MAX_GROUP:
        raise BadInput(f"a group of {len(sources)} sessions", hint=f"A group has 1 to {MAX_GROUP} sessions.")
    if len(set(map(id, sources.values()))) < len(sources):
        raise BadInput("one session stands twice in the group", hint="Give each session object one session id.")


def check_targets(group: Group, targets: Iterable[str]) -> dict[str, Backup]:
    """Return the group's backups by session, when all are there and each has its target.

    Raises: GroupIncomplete, BadInput.
    """
    there, wanted = {backup.session_id: backup for backup in group.backups}, set(targets)
    if len(there) < len(group.backups):
        raise BadInput(
            f"two backups of group {group.name} ({group.id}) are of one session",
            hint="A forged or foreign file was imported; remove the backup that does not belong (`torpor ls`).",
        )
    gone = group.size - len(there)
    if gone > 0:
        asked = sorted(wanted - there.keys())
        which = f" ({', '.join(asked)})" if len(asked) == gone else ""
        raise GroupIncomplete(
            f"{gone} of the {group.size} backups of group {group.name} ({group.id}) were removed{which}; "
            f"there are: {', '.join(there)}"
        )
    for what, names in (
        ("no target was given for", there.keys() - wanted),
        ("it does not hold", wanted - there.keys()),
    ):
        if names:
            raise BadInput(f"group {group.name} ({group.id}): {what} {', '.join(sorted(names))}")
    return there
