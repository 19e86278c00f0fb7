"""Damage on a real daemon's disk: found by `torpor verify`, healed from a file in a watched folder, survived by kills."""

from __future__ import annotations

from pathlib import Path

from support.commands import as_json
from support.daemon import Daemon
from support.plain_states import rich_state
from support.waiting import until
from torpor.adapters.plain import PlainSession


def test_a_blob_is_healed_from_an_export_in_a_watched_folder(home: Path, tmp_path: Path) -> None:
    drop = tmp_path / "drop"
    drop.mkdir()
    with Daemon(home, watch=str(drop)) as daemon, daemon.keeper() as keeper:
        backup = keeper.save("s", PlainSession(rich_state())).wait()
        keeper.export(backup.id, drop / "copy.qwnbak")
        until(lambda: keeper.api.status()["watches"][0]["files"], "the import")
        for number, blob in enumerate(daemon.blob_files()):
            blob.write_bytes(bytes(blob.stat().st_size) if number % 2 else b"")
        found = as_json(home, "verify", backup.id)
        assert (found["healed"] > 0, found["damaged"]) == (True, 0)  # one import heals all that the file holds
        assert found["backups"][0]["state"] == "sound"
        events = {event["kind"] for event in daemon.request("GET", "/v1/events").json()["events"]}
        assert "blob-healed" in events
        (drop / "copy.qwnbak").unlink()
        first = daemon.blob_files()[0]
        first.write_bytes(b"x")
        daemon.kill()
    with Daemon(home, watch=str(drop)) as daemon, daemon.keeper() as keeper:
        found = as_json(home, "verify", "--all", status=7)
        assert (found["damaged"], [each["id"] for each in found["backups"]]) == (1, [backup.id])
        daemon.kill()
    with Daemon(home) as daemon:
        (row,) = daemon.request("GET", "/v1/backups").json()["backups"]
        assert row["damaged_bytes"] > 0
        assert as_json(home, "verify", backup.id, status=7)["backups"] == found["backups"]
        assert daemon.stop() == 0
