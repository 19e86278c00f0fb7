"""Commits that are made together: one sync of the folder, one transaction, and each its own outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..state.backup import Backup
from ..state.manifest import Manifest
from .together import Outcome

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
