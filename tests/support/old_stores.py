"""Make the store that is kept of a released version: `python -m support.old_stores`, in tests/.

Run once a release, with that release installed. The store and what must come out of it are committed and never changed.
"""

from __future__ import annotations

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
import torch
from blake3 import blake3
from torpor.adapters.plain import PlainSession, PlainTarget
from torpor.client import Keeper
from torpor.codec import torch_bridge, tree

from support.caches import CacheSession, CacheTarget
from support.daemon import Daemon
from support.plain_states import rich_state

STORES = Path(__file__).parents[1] / "format" / "stores"


def fingerprint_of(value: Any) -> str:
    """A digest over a value's whole structure and bits."""
    encoded = tree.encode(value, torch_bridge.to_leaf)
    leaves = [blake3(leaf.data).hexdigest() for leaf, _ in encoded.pending]
    return blake3(orjson.dumps([encoded.value, leaves])).hexdigest()


def describe(keeper: Keeper, backup_id: str) -> dict[str, Any]:
    """What a backup must still be in any later version."""
    backup = keeper.api.backup(backup_id)
    if backup.session_id == "plain":
        found = fingerprint_of(keeper.restore(backup_id, PlainTarget()).session.state)
    else:
        found = keeper.restore(backup_id, CacheTarget(), require="full").session.digest()
    return {"session_id": backup.session_id, "tokens": backup.tokens, "layers": backup.layers, "content": found}


def make(folder: Path) -> None:
    """Make the store of the installed version in a folder that does not exist."""
    with tempfile.TemporaryDirectory(prefix="torpor-") as home, Daemon(Path(home) / "home") as daemon:
        session = CacheSession()
        with daemon.keeper(clock=iter(range(1_790_000_000, 1_790_001_000)).__next__) as keeper:
            ids = [keeper.save("plain", PlainSession(rich_state())).wait(60).id]
            for step in range(3):
                session.grow(50, step)
                session.note = {"step": step, "text": "á" * 40_000, "tensor": torch.arange(20_000)}
                ids.append(keeper.save("chat", session).wait(60).id)
            for backup_id in ids:
                keeper.api.json("PATCH", f"/v1/backups/{backup_id}", json={"pinned": True})
            expected = {backup_id: describe(keeper, backup_id) for backup_id in ids}
        daemon.stop()
        for part in ("blobs", "manifests", "sessions"):
            shutil.copytree(daemon.home / "store" / part, folder / "store" / part)
    (folder / "expected.json").write_bytes(orjson.dumps(expected, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    make(STORES / version("torpor"))
