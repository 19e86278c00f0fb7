"""A disk that is full: a real file system of a few MiB, mounted in a namespace of the test's own.

The scenario runs in a process of its own (this file, as a script), because a mount namespace is a process's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SIZE_MIB = 24


def test_a_full_disk_is_a_typed_error_and_changes_nothing(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size={SIZE_MIB}m tmpfs "$1" && exec "$2" "$3" "$1"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([*command, sys.executable, __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["blobs", "small", "manifest", "start", "again"]


def scenario(place: Path) -> None:
    import pytest
    from support.caches import CacheSession, CacheTarget
    from support.daemon import Daemon
    from torpor.state.errors import StoreFull

    home, filler = place / "home", place / "filler"

    def files() -> set[str]:
        return {str(p) for p in (home / "store").rglob("*") if p.is_file() and p.name != "lock"}

    settings = {"TORPOR_QUOTA": "1G", "TORPOR_FREE_FLOOR": "0"}  # the disk itself is what ends
    with Daemon(home, settings=settings) as daemon, daemon.keeper() as keeper:
        kept = CacheSession(layers=4, heads=4, dim=64)
        kept.grow(1000, 1)  # 4 MiB
        backup = keeper.save("kept", kept).wait(60)

        def sound(*texts: str | None) -> None:
            """Everything is there that was; of what failed, the text where it was kept."""
            assert {b.id for b in keeper.api.backups()} == {backup.id, *texts} - {None}
            for text in filter(None, texts):
                assert keeper.restore(text, CacheTarget()).mode == "embeddings"
            assert keeper.restore("kept", CacheTarget(), require="full").session.digest() == kept.digest()

        # 1. The blobs do not fit.
        large = CacheSession(layers=4, heads=4, dim=64)
        large.grow(8000, 2)
        texts: list[str | None] = []
        for asks in (True, False):  # without asking, as when others fill the disk meanwhile
            before = files()
            with daemon.keeper() as saver:
                if not asks:
                    saver.desk.unasked_bytes = 1 << 60
                with pytest.raises(StoreFull) as caught:
                    saver.save("large", large).wait(60)
            assert "torpor rm" in caught.value.hint
            texts.append(caught.value.kept)
            assert texts[-1] is not None
            assert {Path(f).name for f in files() - before} <= {f"{texts[-1]}.qwnbak"}
            sound(*texts)
        print("blobs")

        # 2. Nothing fits any more, not even what is small.
        fill(filler)
        small = CacheSession()
        small.grow(500, 3)
        with pytest.raises(StoreFull) as caught:
            keeper.save("small", small).wait(60)
        assert caught.value.kept is None
        sound(*texts)
        print("small")

        # 3. The blobs fit, the manifest or the index does not.
        for _ in range(40):  # each try that fails keeps its text, which takes room too
            os.truncate(filler, max(filler.stat().st_size - 400_000, 0))
            try:
                keeper.save("small", small).wait(60)
            except StoreFull as error:
                texts.append(error.kept)
                sound(*texts)
                continue
            break
        else:
            raise AssertionError("no save within 16 MB of room")
        assert {b.session_id for b in keeper.api.backups()} == {"kept", "large", "small"}
        print("manifest")
        daemon.stop()

    # 4. A daemon that starts on a full disk says so; what is there stays.
    fill(filler)
    other = Daemon(place / "other").start()
    assert other.join() == 8, (other.listening, other.output())
    assert other.listening["code"] == "store-full"
    other.errors.close()
    print("start")

    # 5. With room again everything goes on.
    filler.unlink()
    with Daemon(home, settings=settings) as daemon, daemon.keeper() as keeper:
        assert keeper.restore("kept", CacheTarget(), require="full").session.digest() == kept.digest()
        assert keeper.restore("small", CacheTarget(), require="full").session.digest() == small.digest()
        small.grow(100, 4)
        keeper.save("small", small).wait(60)
        print("again")


def fill(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


if __name__ == "__main__":
    scenario(Path(sys.argv[1]))
