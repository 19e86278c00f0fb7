"""Files in and out, for odd states, odd names, races, and files that were made to do harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.daemon import Daemon
from support.states import same
from torpor.adapters.plain import PlainSession, PlainTarget
from torpor.client.transfer import ExportFormat
from torpor.codec import manifest_file
from torpor.codec.safetensors_file import write_safetensors
from torpor.state.errors import FileDamaged, InvalidFile, TooLarge, UnsupportedState
from torpor.state.manifest import Manifest

ODD: dict[str, Any] = {
    "a long format": {"metadata": {"format": "x" * 3000, "model_name": "m"}},
    "a format of all kinds": {
        "metadata": {"version": (1,), "format": {1: torch.arange(3), "b": b"\0"}, "timestamp": 1}
    },
    "a format like a tensor": {"metadata": {"format": {"shape": [1], "dtype": "int8", "data": "", "compressed": True}}},
    "keys in another order": {"metadata": {"timestamp": 3.5, "other": 1, "model_name": "m"}},
    "a key that is a long text": {"metadata": {"k": {"y" * 40_000: 1, 2: 3}}},
    "a tensor far down": {"vision_cache": {"a" * 400: {"b" * 400: {"é" * 400: torch.ones(3)}}}},
}


@pytest.mark.parametrize("kind", ["v1", "safetensors"])
@pytest.mark.parametrize("name", ODD)
def test_an_odd_state_comes_back(shared_daemon: Daemon, tmp_path: Path, name: str, kind: ExportFormat) -> None:
    with shared_daemon.keeper() as keeper:
        keeper.save("odd", PlainSession(ODD[name])).wait(60)
        keeper.export("odd", tmp_path / "f", kind)
        keeper.import_file(tmp_path / "f", "odd-again")
        assert same(keeper.restore("odd-again", PlainTarget()).session.state, ODD[name])
        for backup in (*keeper.api.backups(session_id="odd"), *keeper.api.backups(session_id="odd-again")):
            keeper.api.call("DELETE", f"/v1/backups/{backup.id}")


def test_a_key_that_v1_cannot_carry_is_named(shared_daemon: Daemon, tmp_path: Path) -> None:
    with shared_daemon.keeper() as keeper:
        keeper.save("long-key", PlainSession({"metadata": {"k": {"y" * 1500: 1}}})).wait(60)
        with pytest.raises(UnsupportedState, match="/metadata/k") as caught:
            keeper.export("long-key", tmp_path / "f", "v1")
        assert "bundle" in caught.value.hint
        assert not list(tmp_path.iterdir())


def test_strict_v1_says_that_the_format_was_replaced(shared_daemon: Daemon, tmp_path: Path) -> None:
    with shared_daemon.keeper() as keeper:
        keeper.save("named", PlainSession({"metadata": {"format": "mine"}})).wait(60)
        done = keeper.export("named", tmp_path / "f", "v1", strict=True)
        assert done.losses.changed == {"/metadata/format": "became qwen-state/v1"}


def test_a_long_name_of_another_program_is_refused(shared_daemon: Daemon, tmp_path: Path) -> None:
    save_file({"x" * 2000: torch.ones(1)}, tmp_path / "f.safetensors")
    with shared_daemon.keeper() as keeper, pytest.raises(TooLarge):
        keeper.import_file(tmp_path / "f.safetensors")


@pytest.mark.parametrize("where", ["beside data", "inside a body", "as a key"])
def test_a_file_cannot_name_a_blob_that_it_does_not_hold(shared_daemon: Daemon, tmp_path: Path, where: str) -> None:
    """The store may have it, from another session."""
    with shared_daemon.keeper() as keeper:
        secret = "secret " * 10_000
        backup = keeper.save("victim", PlainSession({"text_context": {"s": secret}})).wait(60)
        ref = keeper.manifest(backup.id)[1].layers["text_context"]["s"]["$text"]
        blob = {"blocks": ref["blocks"], "size_bytes": ref["size_bytes"]}
        node = {
            "beside data": {"$text": {"size_bytes": 1, "data": "YQ==", "blocks": ref["blocks"]}},
            "inside a body": {"$bytes": {"size_bytes": 1, "data": "YQ==", "more": {"$text": blob}}},
            "as a key": {"$map": [[{"$text": blob}, 1]]},
        }[where]
        made = Manifest("01M81P35719XNDZ4R57NMV6DYZ", "thief", 1.0, "plain", {"metadata": {"x": node}})
        pieces = write_safetensors(manifest_file.dump(made), lambda _: memoryview(b""))
        (tmp_path / "f").write_bytes(b"".join(pieces))
        with pytest.raises((InvalidFile, FileDamaged)):
            keeper.import_file(tmp_path / "f")
