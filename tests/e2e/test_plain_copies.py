"""`remote_format = "v1"`: every backup also lies in the bucket as one plain file that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from support.daemon import Daemon
from support.s3_servers import Place
from support.waiting import until
from torpor.adapters.plain import PlainSession, PlainTarget

STATE: dict[str, Any] = {
    "metadata": {"model_name": "qwen3-vl-8b-instruct"},
    "vision_cache": {"image_embeddings": [torch.arange(4096, dtype=torch.float32).reshape(1, 64, 64).half()]},
    "text_context": {"conversation": [{"role": "user", "content": "Was steht auf dem Beleg?"}]},
    "config_snapshot": {"temperature": 0.7},
}


def copies(place: Place) -> set[str]:
    found = place.client().list_objects_v2(Bucket=place.bucket, Prefix="backups/")
    return {each["Key"] for each in found.get("Contents", [])}


def test_other_tools_read_the_copies(home: Path, weed: Place, tmp_path: Path) -> None:
    settings = weed.settings | {"TORPOR_REMOTE_FORMAT": "v1"}
    with Daemon(home) as daemon, daemon.keeper() as keeper:
        before = keeper.save("before", PlainSession(STATE)).wait(60).id  # the option is set later
        secret = keeper.save("secret", PlainSession(STATE)).wait(60).id
        keeper.api.json("PUT", "/v1/sessions/secret/no-sync", json={"no_sync": True})
        daemon.stop()
    with Daemon(home, settings=settings) as daemon, daemon.keeper() as keeper:
        saved = keeper.save("chat", PlainSession(STATE)).wait(60).id
        wanted = {f"backups/{each}.qwnbak" for each in (before, saved)}
        until(lambda: copies(weed) == wanted, lambda: (copies(weed), keeper.api.json("GET", "/v1/sync")))
        file = tmp_path / "copy.qwnbak"
        weed.client().download_file(weed.bucket, f"backups/{saved}.qwnbak", str(file))
        read = keeper.restore(keeper.import_file(file, session_id="again").backup.id, PlainTarget()).session.state
        assert torch.equal(read["vision_cache"]["image_embeddings"][0], STATE["vision_cache"]["image_embeddings"][0])
        assert read["text_context"] == STATE["text_context"]
        daemon.request("DELETE", f"/v1/backups/{saved}?purge=true").raise_for_status()
        until(lambda: f"backups/{saved}.qwnbak" not in copies(weed), lambda: keeper.api.json("GET", "/v1/sync"))
        assert f"backups/{secret}.qwnbak" not in copies(weed)
