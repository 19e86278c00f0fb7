"""The formats that can be imported, each behind one port."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, BinaryIO, Protocol

from ..codec.bundle import Bundle
from ..codec.leaves import LeafBuilder
from ..codec.pt_file import open_pt
from ..codec.safetensors_file import SafetensorsFile
from ..codec.state_file import session_in, time_in
from ..codec.v1_read import V1File
from ..state.errors import InvalidFile
from ..state.manifest import BlobRef, Manifest
from .transfer import FileFormat

Put = Callable[[memoryview], BlobRef]


class Source(Protocol):
    """A file whose structure has been read and checked. Its own time is in seconds since the epoch.

    `manifest` is set when the file is a whole backup.
    """

    @property
    def manifest(self) -> Manifest | None:
        """The manifest of a whole backup."""
        ...

    @property
    def created_at(self) -> float | None:
        """The time that the file claims."""
        ...

    @property
    def session_id(self) -> str | None:
        """The session that the file claims."""
        ...

    @property
    def ours(self) -> bool:
        """Whether Torpor wrote the file, so that its time is when the state was captured."""
        ...

    def layers(self, put: Put) -> dict[str, Any]:
        """Store the leaves and return the layers. May be called once."""
        ...


def open_source(kind: FileFormat, file: BinaryIO, size_bytes: int, stack: ExitStack) -> Source:
    """Read the structure of a file. Raises: FileDamaged, InvalidFile, TooLarge, UnsupportedState, MissingExtra."""
    file.seek(0)
    if kind == "v1":
        return _V1Source(V1File(file))
    if kind == "bundle":
        return _Whole(Bundle(file, size_bytes))
    if kind == "pt":
        return _Loaded(stack.enter_context(open_pt(file, size_bytes)))
    found = SafetensorsFile(file, size_bytes)
    return _Foreign(found) if found.manifest is None else _Whole(found)


class _V1Source:
    manifest: Manifest | None = None

    def __init__(self, file: V1File) -> None:
        self._file, self.created_at, self.session_id = file, file.created_at, file.session_id
        self.ours = file.ours

    def layers(self, put: Put) -> dict[str, Any]:
        return {name: value for name, value in self._file.layers(LeafBuilder(put)).items()}  # noqa: C416  (other key type)


class _Foreign:
    """A safetensors file of another program: its tensors by name, and what its header says of itself."""

    manifest: Manifest | None = None
    created_at: float | None = None
    session_id: str | None = None
    ours = False

    def __init__(self, file: SafetensorsFile) -> None:
        self._file = file

    def layers(self, put: Put) -> dict[str, Any]:
        return self._file.layers(LeafBuilder(put))


class _Blobs(Protocol):
    @property
    def manifest(self) -> Manifest | None: ...

    def blobs(self) -> Iterator[tuple[BlobRef, memoryview]]: ...


class _Whole:
    """A whole backup: a bundle, or a safetensors file of ours."""

    ours = True

    def __init__(self, file: _Blobs) -> None:
        assert file.manifest is not None
        self._file = file
        self.manifest: Manifest | None = file.manifest
        self.created_at: float | None = file.manifest.created_at
        self.session_id: str | None = file.manifest.session_id

    def layers(self, put: Put) -> dict[str, Any]:
        for ref, data in self._file.blobs():
            if put(data) != ref:
                raise InvalidFile(f"blob {ref.digest[:16]}… is not what it was a moment ago")
        assert self.manifest is not None
        return dict(self.manifest.layers)


class _Loaded(_Whole):
    """A plain state that another process loaded: a bundle, but not a backup yet."""

    ours = False

    def __init__(self, file: Bundle) -> None:
        super().__init__(file)
        own = file.manifest.layers.get("metadata")
        about = own if isinstance(own, dict) else {}
        self.manifest, self._layers = None, dict(file.manifest.layers)
        self.created_at, self.session_id = time_in(about.get("timestamp")), session_in(about.get("session_id"))

    def layers(self, put: Put) -> dict[str, Any]:
        for _, data in self._file.blobs():
            put(data)
        return self._layers
