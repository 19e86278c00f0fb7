"""The reader in examples/, written from docs/FORMAT.md alone, against what is really written."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.caches import CacheSession
from support.daemon import Daemon
from support.plain_states import bits, rich_state, same
from torpor.adapters.plain import PlainSession

SOURCE = Path(__file__).parents[2] / "examples" / "read_backup.py"


@pytest.fixture(scope="module")
def reader() -> Any:
    spec = importlib.util.spec_from_file_location("read_backup", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["read_backup"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def saved(shared_daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    session = CacheSession(layers=3, heads=2, dim=16)
    session.grow(150, 3)
    folder = tmp_path_factory.mktemp("bundles")
    with shared_daemon.keeper() as keeper:
        found = {"home": shared_daemon.home, "session": session, "folder": folder}
        for name, source in (("plain", PlainSession(rich_state())), ("kv", session)):
            found[name] = keeper.save(f"reader-{name}", source).wait(60).id
            keeper.export(found[name], folder / name, "bundle")
        yield found


def test_it_is_small_and_imports_nothing_of_ours() -> None:
    text = SOURCE.read_text()
    assert len(text.splitlines()) < 150
    assert "torpor" not in text
    modules = re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE)
    import sys

    assert {m for m in modules if m not in sys.stdlib_module_names} == {"lz4", "blake3"}


def opened(reader: Any, saved: dict[str, Any], name: str, where: str) -> Any:
    if where == "store":
        return reader.open_store(saved["home"] / "store", saved[name])
    return reader.open_bundle(saved["folder"] / name)


def as_saved(reader: Any, value: Any) -> Any:
    """Tensors of the reader as torch and numpy have them."""
    if isinstance(value, reader.Tensor):
        if value.kind == "torch":
            raw = torch.frombuffer(bytearray(value.data), dtype=torch.uint8) if value.data else torch.empty(0)
            return (raw.view(getattr(torch, value.dtype)) if value.data else raw).reshape(value.shape)
        array = np.frombuffer(value.data, value.dtype).reshape(value.shape)
        return array[()] if value.kind == "numpy-scalar" else array
    if isinstance(value, dict):
        return {key: as_saved(reader, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(as_saved(reader, item) for item in value)
    return value


@pytest.mark.parametrize("where", ["store", "bundle"])
def test_it_reads_a_plain_state(reader: Any, saved: dict[str, Any], where: str) -> None:
    backup = opened(reader, saved, "plain", where)
    assert backup.manifest["session_id"] == "reader-plain"
    for name, value in rich_state().items():
        assert same(as_saved(reader, backup.layer(name)), value)


@pytest.mark.parametrize("where", ["store", "bundle"])
def test_it_reads_a_kv_cache(reader: Any, saved: dict[str, Any], where: str) -> None:
    backup = opened(reader, saved, "kv", where)
    for i, layer in enumerate(saved["session"].cache.layers):
        assert backup.kv(i) == (bits(layer.keys), bits(layer.values))


def test_it_sees_damage(reader: Any, saved: dict[str, Any], tmp_path: Path) -> None:
    raw = bytearray((saved["folder"] / "kv").read_bytes())
    raw[-3000] ^= 1
    (tmp_path / "bad").write_bytes(raw)
    with pytest.raises(ValueError, match="damaged"):
        reader.open_bundle(tmp_path / "bad").kv(0)
    with pytest.raises(ValueError, match="not a backup id"):
        reader.open_store(saved["home"] / "store", "../../x")
