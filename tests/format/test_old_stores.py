"""Stores that released versions made are read for ever: listed, restored bit for bit, and gone on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.caches import CacheTarget
from support.daemon import Daemon
from support.old_stores import STORES, describe

VERSIONS = sorted(p.name for p in STORES.iterdir())


def test_there_is_a_store_of_a_version() -> None:
    assert "0.1.0" in VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_everything_in_it_comes_back(home: Path, version: str) -> None:
    home.mkdir(mode=0o700)
    shutil.copytree(STORES / version / "store", home / "store")
    expected = json.loads((STORES / version / "expected.json").read_text())
    with Daemon(home) as daemon, daemon.keeper() as keeper:
        listed = keeper.api.backups()
        assert {b.id for b in listed} == set(expected)
        assert all(b.pinned for b in listed)
        for backup_id, wanted in expected.items():
            assert json.loads(json.dumps(describe(keeper, backup_id))) == wanted
        woken = keeper.restore("chat", CacheTarget()).session
        woken.grow(10, 99)
        saved = keeper.save("chat", woken).wait(60)
        again = keeper.restore(saved.id, CacheTarget(), require="full").session
        assert torch.equal(again.cache.layers[1].keys, woken.cache.layers[1].keys)
