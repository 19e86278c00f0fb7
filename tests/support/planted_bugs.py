"""Mistakes that the model of tests/stateful/test_collection.py must find, each planted into the real code.

Each comes with a short story in which it does harm. With the code as it is, the stories end well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any

import pytest
from torpor.state import collection
from torpor.state.collection import Grace, Seen, Verdict
from torpor.state.errors import Offline
from torpor.state.remote import RECORDS_PREFIX, RemoteObject
from torpor.sync import collect, push
from torpor.sync.bucket import ObjectInfo
from torpor.sync.collect import Collector
from torpor.sync.presence import Marks, Presence
from torpor.sync.repository import Repository

from support.remote_world import BLOBS, DAY, World
from support.stepping import SteppedBucket

Patch = pytest.MonkeyPatch
_write, _named, _judge = push._Push._write, Collector._named, collection.judge


def no_check_behind_the_commit(patch: Patch) -> None:
    """What is reused is looked at before the commit, and nothing is behind it."""
    drop = push._Push._drop_doomed

    def only_before(self: push._Push) -> None:
        if not self.written:
            drop(self)

    patch.setattr(push._Push, "_drop_doomed", only_before)


def no_check_of_what_is_reused(patch: Patch) -> None:
    """What the index knows is believed."""
    patch.setattr(Presence, "doomed", lambda self, objects, marks: (set(), set()))


def gone_is_not_seen(patch: Patch) -> None:
    """Condemnations are read, and no object is looked up."""
    patch.setattr(Presence, "_gone", lambda self, objects: set())


def condemned_is_not_seen(patch: Patch) -> None:
    """Objects are looked up, and condemnations are not read."""

    def doomed(self: Presence, objects: Collection[RemoteObject], marks: Marks) -> tuple[set[str], set[str]]:
        return set(), self._gone(objects)

    patch.setattr(Presence, "doomed", doomed)


def condemned_is_acquitted(patch: Patch) -> None:
    """What is named again is acquitted, and writers count on it: they name condemned objects."""

    def judge(seen: Seen, grace: Grace) -> Verdict:
        verdict = _judge(seen, grace)
        return replace(verdict, withdraw=(*verdict.withdraw, *sorted(seen.condemned.keys() & set(seen.named))))

    patch.setattr(collect, "judge", judge)
    condemned_is_not_seen(patch)


def names_of_blobs_are_used_again(patch: Patch) -> None:
    """A blob always goes up under the same name."""
    uploads = World._new_upload

    def new_upload(self: World) -> str:
        uploads(self)
        return "0" * 26

    original = World._pusher

    def pusher(self: World, machine: Any, actor: Any) -> Any:
        made = original(self, machine, actor)
        made.uploader._new_upload = lambda: new_upload(self)
        return made

    patch.setattr(World, "_pusher", pusher)


def deleted_by_an_old_listing(patch: Patch) -> None:
    """What records name is read once by each machine, and remembered."""

    def named(self: Collector, names: list[str], progress: Any) -> set[str]:
        index: Any = self._repository.index
        if not hasattr(index, "remembered"):
            index.remembered = _named(self, names, progress)
        remembered: set[str] = index.remembered
        return remembered

    patch.setattr(Collector, "_named", named)


def deleted_without_a_second_look(patch: Patch) -> None:
    """What is condemned for long enough is deleted, named or not."""

    def judge(seen: Seen, grace: Grace) -> Verdict:
        return _judge(replace(seen, named=set(seen.named) - seen.condemned.keys()), grace)

    patch.setattr(collect, "judge", judge)


def half_a_listing(patch: Patch) -> None:
    """A listing of records that fails midway is taken for the whole."""
    listing = SteppedBucket.list

    def what_comes(self: SteppedBucket, prefix: str) -> Iterator[ObjectInfo]:
        try:
            yield from listing(self, prefix)
        except Offline:
            if prefix != RECORDS_PREFIX:
                raise

    patch.setattr(SteppedBucket, "list", what_comes)


def index_is_believed(patch: Patch) -> None:
    """What records name is taken out of the index, which forgets objects that are not to be reused."""

    def named(self: Collector, names: list[str], progress: Any) -> set[str]:
        index: Any = self._repository.index
        self._repository.refresh()
        return set(index.known)

    patch.setattr(Collector, "_named", named)


def synced_before_the_check(patch: Patch) -> None:
    """A record counts as synced as soon as it is written."""

    def write(self: push._Push, record: Any) -> str:
        name = _write(self, record)
        self.by.repository.index.note_record(name, record, checked=True)
        return name

    patch.setattr(push._Push, "_write", write)


def superseded_before_the_check(patch: Patch) -> None:
    """Earlier records are deleted as soon as the new one is written."""

    def write(self: push._Push, record: Any) -> str:
        name = _write(self, record)
        self._supersede(self._own_records(), name)
        return name

    patch.setattr(push._Push, "_write", write)


def deleted_at_once(patch: Patch) -> None:
    """What no record names is deleted, without a condemnation."""

    def judge(seen: Seen, grace: Grace) -> Verdict:
        verdict = _judge(seen, grace)
        return replace(verdict, delete=(*verdict.delete, *verdict.condemn), condemn=())

    patch.setattr(collect, "judge", judge)


def removed_without_a_mark(patch: Patch) -> None:
    """A removal deletes the records that it sees, and leaves no word."""
    patch.setattr(Repository, "mark_removed", lambda self, backup_id: None)


Story = Callable[[World], None]


def a_writer_sleeps_before_its_commit(world: World) -> None:
    """Its blobs are collected meanwhile."""
    writer, collector = world.machines[:2]
    world.save(writer, (0,), ())
    world.act(writer, "push", "put manifests")
    world.weeks(collector, (4, 2))
    world.act(writer, "push")


def a_writer_sleeps_for_months(world: World) -> None:
    """Even the condemnations are withdrawn when it wakes."""
    writer, collector = world.machines[:2]
    world.save(writer, (0,), ())
    world.act(writer, "push", "put manifests")
    world.weeks(collector, (4, 2, 31))
    world.act(writer, "push")


def a_collector_stands_before_a_deletion(world: World) -> None:
    """While the writer of the blob commits at last."""
    writer, collector = world.machines[:2]
    world.save(writer, (0,), ())
    world.act(writer, "push", "put manifests")
    world.weeks(collector, (4,))
    world.now += 2 * DAY
    world.act(collector, "collect", "delete blobs")
    world.act(writer, "push")
    world.act(collector, "collect")


def a_collector_stands_before_its_first_deed(world: World) -> None:
    """It has seen that nobody names the blob; then somebody does."""
    writer, collector = world.machines[:2]
    world.save(writer, (0,), ())
    world.act(writer, "push", "put manifests")
    world.now += 4 * DAY
    world.act(collector, "collect", "delete blobs")
    world.act(writer, "push")
    world.act(collector, "collect")


def a_condemnation_comes_behind_the_check(world: World) -> None:
    """The blob of a checked record is condemned, and stays."""
    writer, collector = world.machines[:2]
    world.save(writer, (0,), (1,))
    world.act(writer, "push", "put manifests", "text")
    world.now += 4 * DAY
    world.act(collector, "collect", "put gc")
    world.act(writer, "push")
    world.act(collector, "collect")
    world.weeks(collector, (2,))


def another_writer_needs_what_is_condemned(world: World) -> None:
    """It sends the blob again, and forgets the condemned object, which is still named."""
    a_condemnation_comes_behind_the_check(world)
    other = world.machines[1]
    world.act(other, "refresh")
    world.save(other, (0,), ())
    world.act(other, "push")
    world.weeks(other, (2,))


def a_backup_grows_slowly(world: World) -> None:
    """What its second record names is collected before it is written."""
    a_condemnation_comes_behind_the_check(world)
    writer, collector = world.machines[:2]
    world.act(writer, "push", "put manifests", "vision")
    world.weeks(collector, (4, 2))
    world.act(writer, "push")


def a_collector_has_looked_before(world: World) -> None:
    """Records came since."""
    writer, collector = world.machines[:2]
    for blob in range(2):
        world.save(writer, (blob,), ())
        world.act(writer, "push")
        world.act(collector, "collect")
    world.weeks(collector, (4, 2))


def a_listing_breaks_off(world: World) -> None:
    """Behind the first page of records, time and again."""
    writer, collector = world.machines[:2]
    for blob in range(BLOBS):
        world.save(writer, (blob,), ())
    world.act(writer, "push")
    for _ in range(2):
        world.now += 4 * DAY
        world.act(collector, "collect", "list manifests")
        world.step(collector, "collect")
        world.step(collector, "collect", "drop")
        world.act(collector, "collect")


def a_writer_commits_behind_a_removal(world: World) -> None:
    """The user took the backup out, on another machine, while it was being sent."""
    writer, other = world.machines[:2]
    world.save(writer, (0,), (1,))
    world.act(writer, "push", "", "text")
    world.act(writer, "push", "put manifests", "vision")
    world.act(other, "remove", "", world.made[0])
    world.act(writer, "push")


def a_deletion_comes_late(world: World) -> None:
    """The blob was sent again since."""
    writer, slow, quick = world.machines
    world.save(writer, (0,), ())
    world.act(writer, "push")
    world.act(writer, "remove", "", world.made[0])
    world.weeks(quick, (4,))
    world.now += 2 * DAY
    world.act(slow, "collect", "delete blobs")
    world.weeks(quick, (0, 31))
    world.save(writer, (0,), ())
    world.act(writer, "push")
    world.act(slow, "collect")


STORIES: dict[Callable[[Patch], None], Story] = {
    no_check_behind_the_commit: a_writer_sleeps_before_its_commit,
    no_check_of_what_is_reused: a_writer_sleeps_before_its_commit,
    synced_before_the_check: a_writer_sleeps_before_its_commit,
    gone_is_not_seen: a_writer_sleeps_for_months,
    condemned_is_not_seen: a_collector_stands_before_a_deletion,
    condemned_is_acquitted: a_collector_stands_before_a_deletion,
    deleted_at_once: a_collector_stands_before_its_first_deed,
    deleted_without_a_second_look: a_condemnation_comes_behind_the_check,
    index_is_believed: another_writer_needs_what_is_condemned,
    superseded_before_the_check: a_backup_grows_slowly,
    deleted_by_an_old_listing: a_collector_has_looked_before,
    half_a_listing: a_listing_breaks_off,
    removed_without_a_mark: a_writer_commits_behind_a_removal,
    names_of_blobs_are_used_again: a_deletion_comes_late,
}
# Two requests of one kind must fail, or two sleeps follow one another: chance needs more than thousands of walks for it.
RARE = (half_a_listing, superseded_before_the_check)
