"""Commits that are made together: one sync of the folder, one transaction, and each its own outcome."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..state.backup import Backup
from ..state.manifest import Manifest
from .together import Outcome

SESSIONS = 1024  # of which the last backup is remembered

Blobs = dict[str, tuple[int, str]]  # what a manifest names: digest -> (size in bytes, layer)


@dataclass(slots=True, eq=False)
class Commit:
    """Manifests that are committed all or none. `staged` are their files, as far as they were not there."""

    manifests: Sequence[Manifest]
    raws: dict[str, bytes]
    blobs: dict[str, Blobs]
    new_session: bool
    staged: dict[str, Path] = field(default_factory=dict)
    new: list[Manifest] = field(default_factory=list)
    entered: dict[str, Backup] = field(default_factory=dict)  # those that the index had not

    def keys(self) -> frozenset[str]:
        """Return what no other commit of the same transaction may touch."""
        # What goes on from a backup looks it up: whether that one's session stays on this machine.
        parents = {manifest.parent_id for manifest in self.manifests if manifest.parent_id is not None}
        return frozenset(self.raws) | {manifest.session_id for manifest in self.manifests} | parents


class Latest:
    """The last backup that was committed of each of some sessions, those of the last commits. Under the catalog's lock.

    A session goes on from it, message by message: then nobody has to ask the index whose backup that is.
    """

    def __init__(self) -> None:
        self._ids = OrderedDict[str, str]()

    def note(self, manifest: Manifest) -> None:
        """Note what was committed."""
        self._ids[manifest.session_id] = manifest.id
        self._ids.move_to_end(manifest.session_id)
        if len(self._ids) > SESSIONS:
            self._ids.popitem(last=False)

    def is_parent_of(self, manifest: Manifest) -> bool:
        """Tell whether a backup goes on from the last one of its own session; False where that is not known."""
        return manifest.parent_id is not None and self._ids.get(manifest.session_id) == manifest.parent_id


def each_its_outcome(
    check: Callable[[Commit], None], write: Callable[[Sequence[Commit]], None], commits: Sequence[Commit]
) -> list[Outcome]:
    """Make all of them; one that is refused, or that fails, stops no other. `write` makes all that it gets, or none."""
    outcomes: dict[int, Outcome] = {}
    sound: list[Commit] = []
    for commit in commits:
        try:
            check(commit)
            sound.append(commit)
        except Exception as error:
            outcomes[id(commit)] = error
    try:
        if sound:
            write(sound)
    except Exception as error:
        if len(sound) == 1:
            outcomes[id(sound[0])] = error
        else:  # each again by itself, so that nobody pays for another's fault
            for commit in sound:
                (outcomes[id(commit)],) = each_its_outcome(check, write, [commit])
    return [outcomes.get(id(commit)) for commit in commits]
