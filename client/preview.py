"""What a state file holds, for who decides whether to import it: all of it is read and checked, and none is kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blake3 import blake3

from ..codec.bundle import blob_refs
from ..codec.describe import describe
from ..codec.glimpse import glimpse
from ..state.errors import SessionNotFound
from ..state.glimpse import one_line
from ..state.ids import parse_session_id
from ..state.manifest import BlobRef, Manifest
from ..state.watching import Signature
from .api import Api
from .blob_access import BlobAccess
from .importing import known_backup, lacking
from .opened_file import Opened, Place, opened
from .transfer import FileFormat, Progress, no_progress

LINES_SHOWN = 4  # the newest messages
NAME_CHARS = 120
# Whether the store has the very backup: not at all, with all of its blobs, or without some, which would come back.
Standing = Literal["new", "known", "incomplete"]


@dataclass(frozen=True, slots=True)
class Line:
    """One message: who said it, and how it begins."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Shelf:
    """What the store has of it. `backups` counts those of the session; `new_bytes` are what an import would write."""

    standing: Standing
    backups: int
    new_bytes: int


@dataclass(frozen=True, slots=True)
class Preview:
    """A file that can be imported. `saved` when it is a backup as Torpor saved it, rather than a state to make one of.

    `state_bytes` are its tensors, media and KV cache, unpacked; `shelf` is None where no daemon was asked.
    """

    format: FileFormat
    size_bytes: int
    saved: bool
    session_id: str
    backup_id: str
    created_at: float
    model_name: str | None
    layers: tuple[str, ...]
    messages: int
    images: int
    videos: int
    tokens: int
    tensors: int
    state_bytes: int
    lines: tuple[Line, ...]
    shelf: Shelf | None
    seen: Signature
    digest: str  # of the file's bytes: what is imported on a word is this, and nothing else


class Previewer:
    """Looks at files for the store of a daemon; without one, at the files alone."""

    def __init__(
        self, api: Api | None = None, blobs: BlobAccess | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._api, self._blobs, self._clock = api, blobs, clock

    def look(
        self,
        path: str | Path,
        session_id: str | None = None,
        progress: Progress = no_progress,
        *,
        follow: bool = True,
        expected: Signature | None = None,
        name: str | None = None,
    ) -> Preview:
        """Read a file as an import would, to the last byte. The arguments are those of `opened`.

        Raises: what `opened` raises; Conflict where the store has another backup of the same id.
        """
        if session_id is not None:
            parse_session_id(session_id)
        with opened(path, progress, follow=follow, expected=expected, name=name) as file:
            place = file.place(session_id, self._clock())
            layers = file.source.layers(_named)
            file.check_unchanged()
        manifest = file.source.manifest or Manifest(place.backup_id, place.session_id, 0.0, "plain", layers)
        return _preview(file, place, manifest, self._shelf(place, manifest))

    def _shelf(self, place: Place, manifest: Manifest) -> Shelf | None:
        if self._api is None or self._blobs is None:
            return None
        known = known_backup(self._api, place)
        refs = {ref.digest: ref.size_bytes for ref in blob_refs(manifest)}
        missing = self._blobs.missing(blob_refs(manifest))
        standing: Standing = "new"
        if known is not None:
            standing = "incomplete" if lacking(self._api, self._blobs, known) else "known"
        new_bytes = 0 if standing == "known" else sum(refs[digest] for digest in missing)
        return Shelf(standing, self._backups(place.session_id), new_bytes)

    def _backups(self, session_id: str) -> int:
        assert self._api is not None
        try:
            return int(self._api.timeline(session_id, limit=1)["total"])
        except SessionNotFound:
            return 0


def _named(chunk: memoryview) -> BlobRef:
    """Name a chunk as the store would, and forget it."""
    return BlobRef(blake3(chunk).hexdigest(), chunk.nbytes)


def _preview(file: Opened, place: Place, manifest: Manifest, shelf: Shelf | None) -> Preview:
    found, seen = describe(manifest), glimpse(manifest)
    return Preview(
        format=file.kind,
        size_bytes=file.seen.size_bytes,
        saved=file.source.manifest is not None,
        session_id=place.session_id,
        backup_id=place.backup_id,
        created_at=file.own_time(),
        model_name=_model_name(manifest.layers.get("metadata")),
        layers=manifest.present_layers(),
        messages=len(found.messages),
        images=max(sum(each.images for each in found.messages), seen.media),
        videos=sum(each.videos for each in found.messages),
        tokens=manifest.tokens,
        tensors=sum(leaf.kind == "tensor" for leaf in found.stored),
        state_bytes=sum(leaf.size_bytes for leaf in found.stored) + (0 if found.kv is None else found.kv.size_bytes),
        lines=tuple(Line(each.role, one_line(each.text)) for each in found.messages[-LINES_SHOWN:]),
        shelf=shelf,
        seen=file.seen,
        digest=file.digest,
    )


def _model_name(metadata: Any) -> str | None:
    name = metadata.get("model_name") if isinstance(metadata, dict) else None
    return one_line(name, NAME_CHARS) if isinstance(name, str) else None
