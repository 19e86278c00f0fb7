"""Where a machine keeps its keys: a real keyring backend, or a file that nobody else can read."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import keyring
import keyring.backend
import keyring.backends.fail
import keyring.errors
import orjson
import pytest
from torpor.codec.keys import dump_ring, new_ring, rotated
from torpor.daemon.keys import KeyStore
from torpor.state.errors import KeyMissing, ObjectDamaged, StoreFailed, Timeout, UnsafeHome

RING = new_ring(1_800_000_000.0)
NEWER = rotated(RING, 1_800_000_100.0)


class FolderKeyring(keyring.backend.KeyringBackend):
    """A backend that keeps each secret in a file of a folder."""

    priority = 9.0  # type: ignore[assignment]

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def _path(self, service: str, username: str) -> Path:
        return self.folder / f"{service}.{username}"

    def get_password(self, service: str, username: str) -> str | None:
        path = self._path(service, username)
        return path.read_text() if path.exists() else None

    def set_password(self, service: str, username: str, password: str) -> None:
        self._path(service, username).write_text(password)

    def delete_password(self, service: str, username: str) -> None:
        self._path(service, username).unlink()


class Locked(FolderKeyring):
    """A backend that waits for somebody to type a password."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.opened, self.calls = threading.Event(), 0

    def get_password(self, service: str, username: str) -> str | None:
        self.calls += 1
        self.opened.wait(30)
        return super().get_password(service, username)

    def set_password(self, service: str, username: str, password: str) -> None:
        self.calls += 1
        self.opened.wait(30)
        super().set_password(service, username, password)


class Broken(FolderKeyring):
    def get_password(self, service: str, username: str) -> str | None:
        raise keyring.errors.KeyringError("the secret is s3cret")

    set_password = get_password  # type: ignore[assignment]


class Forgetful(FolderKeyring):
    def set_password(self, service: str, username: str, password: str) -> None:
        pass


class PlainFile(FolderKeyring):
    priority = 0.5  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def _keyring_of_before() -> Iterator[None]:
    before = keyring.get_keyring()
    yield
    keyring.set_keyring(before)


@pytest.fixture
def backend(tmp_path: Path) -> FolderKeyring:
    (tmp_path / "keyring").mkdir()
    made = FolderKeyring(tmp_path / "keyring")
    keyring.set_keyring(made)
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "repo.key"


@pytest.mark.parametrize("storage", ["auto", "keyring"])
def test_a_real_keyring_keeps_it(storage: str, file: Path, backend: FolderKeyring) -> None:
    store = KeyStore(file, storage)  # type: ignore[arg-type]
    assert store.find("R1") == (None, None)
    assert store.save("R1", RING) == "keyring"
    assert not file.exists()
    assert KeyStore(file).find("R1") == (RING, "keyring")
    assert KeyStore(file).load("R2") is None
    assert KeyStore(file, "file").load("R1") is None


def test_a_file_keeps_it_where_that_is_wanted(file: Path, backend: FolderKeyring) -> None:
    store = KeyStore(file, "file")
    assert store.save("R1", RING) == "file"
    assert store.save("R2", NEWER) == "file"
    assert file.stat().st_mode & 0o777 == 0o600
    assert KeyStore(file).find("R1") == (RING, "file")
    assert KeyStore(file).load("R2") == NEWER
    assert list(backend.folder.iterdir()) == []


def test_what_lay_in_the_file_moves_into_the_keyring(file: Path, backend: FolderKeyring) -> None:
    KeyStore(file, "file").save("R1", RING)
    KeyStore(file, "file").save("R2", RING)
    assert KeyStore(file).save("R1", NEWER) == "keyring"
    assert KeyStore(file).find("R1") == (NEWER, "keyring")
    assert KeyStore(file).find("R2") == (RING, "file")
    assert RING.current.secret.hex() in file.read_text()
    assert NEWER.current.secret.hex() not in file.read_text()


@pytest.mark.parametrize("backend_class", [keyring.backends.fail.Keyring, Broken, Forgetful, PlainFile])
def test_without_a_real_keyring_it_is_the_file(
    backend_class: type, file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    made = backend_class(tmp_path) if issubclass(backend_class, FolderKeyring) else backend_class()
    keyring.set_keyring(made)
    store = KeyStore(file)
    assert store.save("R1", RING) == "file"
    assert store.find("R1") == (RING, "file")
    assert store.load("R2") is None
    assert RING.current.secret.hex() not in caplog.text
    assert "s3cret" not in caplog.text


def test_a_demanded_keyring_is_not_replaced_by_a_file(file: Path, tmp_path: Path) -> None:
    for made in (keyring.backends.fail.Keyring(), Broken(tmp_path), Forgetful(tmp_path)):
        keyring.set_keyring(made)
        with pytest.raises(StoreFailed) as caught:
            KeyStore(file, "keyring").save("R1", RING)
        assert "s3cret" not in caught.value.detail
        assert not file.exists()
    keyring.set_keyring(PlainFile(tmp_path))  # the user's own choice
    assert KeyStore(file, "keyring").save("R1", RING) == "keyring"


def test_a_locked_keyring_holds_nobody_up(file: Path, tmp_path: Path) -> None:
    locked = Locked(tmp_path)
    keyring.set_keyring(locked)
    store = KeyStore(file, deadline_s=0.1)
    begun = time.monotonic()
    with pytest.raises(KeyMissing, match="did not answer"):
        store.load("R1")
    with pytest.raises(KeyMissing, match="still does not answer"):  # so no second question is asked
        store.load("R1")
    assert store.find("R1") == (None, None)
    assert locked.calls == 1
    assert not store.in_file("R1")
    assert store.save("R1", RING) == "file"
    assert store.in_file("R1")
    assert store.load("R1") == RING
    with pytest.raises(Timeout, match="keyring"):
        KeyStore(file, "keyring", deadline_s=0.1).save("R2", RING)
    assert time.monotonic() - begun < 5
    locked.opened.set()
    deadline = time.monotonic() + 10
    while (found := store.save("R3", RING)) != "keyring" and time.monotonic() < deadline:
        pass
    assert found == "keyring"
    assert store.find("R3") == (RING, "keyring")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_can_read_is_refused(mode: int, file: Path) -> None:
    store = KeyStore(file, "file")
    store.save("R1", RING)
    os.chmod(file, mode)
    with pytest.raises(UnsafeHome, match="others"):
        store.load("R1")
    with pytest.raises(UnsafeHome):
        store.save("R1", NEWER)
    os.chmod(file, 0o400)
    assert store.load("R1") == RING


def test_what_is_no_file_is_refused(file: Path, tmp_path: Path) -> None:
    KeyStore(tmp_path / "elsewhere", "file").save("R1", RING)
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeHome, match="link"):
        KeyStore(file, "file").load("R1")
    for make in (os.mkdir, os.mkfifo):
        file.unlink() if file.is_symlink() else file.rmdir()
        make(file, 0o700)
        with pytest.raises(UnsafeHome, match="not a file"):
            KeyStore(file, "file").load("R1")


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b'{"format":"torpor-keys/v2","rings":{}}', b'{"format":"torpor-keys/v1","rings":{"R1":5}}'],
)
def test_a_damaged_file_is_named_and_never_overwritten(raw: bytes, file: Path) -> None:
    file.write_bytes(raw)
    os.chmod(file, 0o600)
    store = KeyStore(file, "file")
    for attempt in (lambda: store.load("R1"), lambda: store.save("R1", RING)):
        with pytest.raises(ObjectDamaged, match="damaged"):
            attempt()
    assert file.read_bytes() == raw


def test_a_damaged_ring_in_the_file_is_named(file: Path) -> None:
    file.write_bytes(orjson.dumps({"format": "torpor-keys/v1", "rings": {"R1": "{}", "R2": dump_ring(RING).decode()}}))
    os.chmod(file, 0o600)
    with pytest.raises(ObjectDamaged):
        KeyStore(file, "file").load("R1")
    assert KeyStore(file, "file").load("R2") == RING
