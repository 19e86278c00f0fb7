"""Bundles: one backup in one file, its manifest and then its blobs, as a tar of one fixed shape.

    qwen-state-v2/manifest.qwnbak      the manifest file, as in a store
    qwen-state-v2/blobs/<digest>       every blob once, in the order in which the manifest first names them
    1024 zero bytes

Any tar program opens it. A reader takes only this shape: the header of each member follows from the manifest, so it is
compared and never interpreted, and no name in the file becomes a path.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from blake3 import blake3

from ..state.errors import FileDamaged, InvalidFile, InvalidManifest, ManifestDamaged, NewerFormat, TooLarge
from ..state.manifest import BlobRef, Manifest, manifest_blobs
from . import manifest_file
from .leaves import ReadBlob
from .state_file import MAX_MANIFEST_BYTES, load_checked

FOLDER = "qwen-state-v2"
MANIFEST_NAME = f"{FOLDER}/manifest.qwnbak"
BLOCK_BYTES = 512
_END = bytes(2 * BLOCK_BYTES)
_MAX_MEMBER_BYTES = 1 << 30  # of a blob, as the API takes it; what a tar header can say ends at 8 GiB


def header(name: str, size_bytes: int) -> bytes:
    """Return the one header that a member of this name and size has: ustar, mode 0600, all else zero."""
    if size_bytes > _MAX_MEMBER_BYTES:
        raise TooLarge(f"{name[-16:]} has {size_bytes} bytes (at most {_MAX_MEMBER_BYTES})")
    info = tarfile.TarInfo(name)
    info.size, info.mode = size_bytes, 0o600
    return info.tobuf(tarfile.USTAR_FORMAT)


def _padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % BLOCK_BYTES)


def blob_refs(manifest: Manifest) -> list[BlobRef]:
    """Return a manifest's blobs, each once, in the order of a bundle."""
    return [BlobRef(digest, size) for digest, (size, _) in manifest_blobs(manifest).items()]


def write_bundle(raw: bytes, read: ReadBlob) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a bundle; `raw` is the manifest's JSON. Raises: InvalidManifest, and what `read` raises."""
    return write_in_pieces(raw, lambda ref: (read(ref),))


def write_in_pieces(
    raw: bytes, read: Callable[[BlobRef], Iterable[bytes | memoryview]]
) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a bundle, of blobs that are read piece by piece. Raises: as `write_bundle`."""
    packed = manifest_file.pack(raw)
    yield header(MANIFEST_NAME, len(packed))
    yield packed + _padding(len(packed))
    for ref in blob_refs(manifest_file.load(raw)):
        yield header(f"{FOLDER}/blobs/{ref.digest}", ref.size_bytes)
        yield from read(ref)
        yield _padding(ref.size_bytes)
    yield _END


def size_of_bundle(raw: bytes) -> int:
    """Return how many bytes a bundle has. Raises: InvalidManifest."""
    members = [len(manifest_file.pack(raw)), *(ref.size_bytes for ref in blob_refs(manifest_file.load(raw)))]
    return sum(BLOCK_BYTES + size + len(_padding(size)) for size in members) + len(_END)


def is_bundle(head: bytes) -> bool:
    """Tell whether a file that starts so is a bundle of this version. Raises: NewerFormat."""
    name = head[:100].rstrip(b"\0")
    if head[257:262] != b"ustar" or not name.startswith(b"qwen-state-v"):
        return False
    if name != MANIFEST_NAME.encode():
        raise NewerFormat(f"the bundle holds {name.decode('latin-1')[:60]!r}, this version reads {FOLDER}")
    return True


class Bundle:
    """A bundle that is read from its start: first its manifest, checked, then its blobs in order.

    Raises: FileDamaged, InvalidFile, TooLarge.
    """

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file, self._left = file, size_bytes
        packed = self._manifest()
        try:
            self.raw = manifest_file.unpack(packed, MAX_MANIFEST_BYTES)
            self.manifest = load_checked(self.raw)
            self._refs = blob_refs(self.manifest)
        except ManifestDamaged as error:
            raise FileDamaged(error.detail) from error
        except InvalidManifest as error:
            raise InvalidFile(error.detail) from error

    def _manifest(self) -> bytes:
        head = self._take(BLOCK_BYTES)
        digits = head[124:135]
        size = int(digits, 8) if digits.isdigit() and not set(digits) & set(b"89") else -1
        if not 0 < size <= MAX_MANIFEST_BYTES or head != header(MANIFEST_NAME, size):
            raise InvalidFile("the bundle does not begin with a manifest")
        return self._data(MANIFEST_NAME, size)

    def blobs(self) -> Iterator[tuple[BlobRef, memoryview]]:
        """Yield every blob with its bytes, verified. Raises: FileDamaged, InvalidFile."""
        for ref in self._refs:
            name = f"{FOLDER}/blobs/{ref.digest}"
            if self._take(BLOCK_BYTES) != header(name, ref.size_bytes):
                raise InvalidFile(f"where blob {ref.digest[:16]}… should stand there is something else")
            data = self._data(name, ref.size_bytes)
            if blake3(data).hexdigest() != ref.digest:
                raise FileDamaged(f"blob {ref.digest[:16]}… does not match its digest")
            yield ref, memoryview(data)
        if self._take(len(_END)) != _END or self._file.read(1):
            raise FileDamaged("the bundle does not end where its manifest says")

    def _data(self, name: str, size_bytes: int) -> bytes:
        data = self._take(size_bytes)
        padding = _padding(size_bytes)
        if self._take(len(padding)) != padding:
            raise FileDamaged(f"the padding behind {name[-24:]} is not empty")
        return data

    def _take(self, count: int) -> bytes:
        if count > self._left:  # known before any memory is taken
            raise FileDamaged("the bundle ends early")
        data = self._file.read(count)
        if len(data) != count:
            raise FileDamaged("the bundle ends early")
        self._left -= count
        return data
