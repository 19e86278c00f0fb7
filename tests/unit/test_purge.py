"""What a purge leaves to be done."""

from __future__ import annotations

from pathlib import Path

from support.kept import Kept
from torpor.daemon.purge import Purge
from torpor.daemon.remote import RemoteSide
from torpor.daemon.remote_settings import RemoteSettings
from torpor.daemon.room import open_room
from torpor.daemon.settings import load_settings
from torpor.db.remembered import Remembered


def test_a_copy_in_the_bucket_waits_to_be_taken_out_with_s3_off_as_well(tmp_path: Path) -> None:
    """Else what was purged is back as soon as S3 is on again."""
    kept = Kept(tmp_path, bucket=True)
    with kept.stack:
        side = RemoteSide(kept.home, RemoteSettings(None), kept.catalog, Remembered(kept.catalog.index))
        room = open_room(kept.home, load_settings(), kept.catalog)
        purge = Purge(kept.home, kept.catalog, side, room)
        there, only_here = kept.save("a"), kept.save("b")
        kept.synced(there)
        assert purge.run(only_here.id).in_bucket == "off"
        assert purge.run(there.id).in_bucket == "queued"
        assert kept.waiting() == {(there.id, "")}
        assert not list(kept.catalog.blobs.digests())
