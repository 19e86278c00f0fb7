"""Mistakes that the model of tests/stateful/test_collection.py must find, each planted into the real code."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import pytest
from torpor.state import collection
from torpor.state.collection import Grace, Seen, Verdict
from torpor.state.errors import Offline
from torpor.state.remote import RemoteObject
from torpor.sync import collect, push
from torpor.sync.collect import Collector
from torpor.sync.presence import Presence

from support.remote_world import World

Patch = pytest.MonkeyPatch
_doomed, _write, _named, _run = Presence.doomed, push._Push._write, Collector._named, Collector.run
_judge = collection.judge


def no_check_behind_the_commit(patch: Patch) -> None:
    """What is reused is looked at before the commit, and nothing is behind it."""
    drop = push._Push._drop_doomed

    def only_before(self: push._Push) -> None:
        if not self.written:
            drop(self)

    patch.setattr(push._Push, "_drop_doomed", only_before)


def no_check_of_what_is_reused(patch: Patch) -> None:
    """What the index knows is believed."""
    patch.setattr(Presence, "doomed", lambda self, objects: (set(), set()))


def gone_is_not_seen(patch: Patch) -> None:
    """Condemnations are read, and no object is looked up."""
    patch.setattr(Presence, "_gone", lambda self, objects: set())


def condemned_is_not_seen(patch: Patch) -> None:
    """Objects are looked up, and condemnations are not read."""

    def doomed(self: Presence, objects: Collection[RemoteObject]) -> tuple[set[str], set[str]]:
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
    """What records name is listed once by each machine, and remembered."""
    remembered: dict[tuple[int, str], tuple[int, set[str]]] = {}
    worlds: list[Any] = []

    def named(self: Collector, progress: Any) -> tuple[int, set[str]]:
        worlds.append(self._bucket.server)  # type: ignore[attr-defined]
        key = (id(self._bucket.server), self._repository.machine)  # type: ignore[attr-defined]
        if key not in remembered:
            remembered[key] = _named(self, progress)
        return remembered[key]

    patch.setattr(Collector, "_named", named)


def records_listed_first(patch: Patch) -> None:
    """Records are listed before the condemnations."""

    def condemned(self: Collector) -> dict[str, float]:
        self.__dict__["early"] = _named(self, collect.no_progress)
        return _condemned(self)

    patch.setattr(Collector, "_condemned", condemned)
    patch.setattr(Collector, "_named", lambda self, progress: self.__dict__["early"])


_condemned = Collector._condemned


def deleted_without_a_second_look(patch: Patch) -> None:
    """What is condemned for long enough is deleted, named or not."""

    def judge(seen: Seen, grace: Grace) -> Verdict:
        return _judge(replace(seen, named=set(seen.named) - seen.condemned.keys()), grace)

    patch.setattr(collect, "judge", judge)


def half_a_listing(patch: Patch) -> None:
    """A listing that fails midway is taken for the whole."""
    listing = collect.Repository.read_all

    def named(self: Collector, progress: Any) -> tuple[int, set[str]]:
        names: list[str] = []
        try:
            names.extend(info.name for info in self._bucket.list("manifests/"))
        except Offline:
            pass
        found = listing(self._repository, names)
        return 0, {each.name for _, r in found if not isinstance(r, Exception) for each in r.objects.values()}

    def list_what_comes(self: Any, prefix: str) -> Any:
        try:
            yield from original(self, prefix)
        except Offline:
            if prefix != "manifests/":
                raise

    from support.stepping import SteppedBucket

    original = SteppedBucket.list
    patch.setattr(SteppedBucket, "list", list_what_comes)


def index_is_believed(patch: Patch) -> None:
    """What records name is taken out of the index, which forgets objects that are not to be reused."""

    def named(self: Collector, progress: Any) -> tuple[int, set[str]]:
        self._repository.refresh()
        return 0, set(self._repository.index.known)  # type: ignore[attr-defined]

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


BUGS: tuple[Callable[[Patch], None], ...] = (
    no_check_behind_the_commit,
    no_check_of_what_is_reused,
    gone_is_not_seen,
    condemned_is_not_seen,
    condemned_is_acquitted,
    names_of_blobs_are_used_again,
    deleted_by_an_old_listing,
    records_listed_first,
    deleted_without_a_second_look,
    half_a_listing,
    index_is_believed,
    synced_before_the_check,
    superseded_before_the_check,
    deleted_at_once,
)
