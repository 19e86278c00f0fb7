"""Which backup holds the longest prefix: the index proposes, the manifests decide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pytest
from sqlalchemy import func, select
from support.manifests import manifest
from torpor.codec import manifest_file
from torpor.daemon.catalog import Catalog
from torpor.daemon.compose import compose
from torpor.daemon.prefixes import Prefix, longest_prefix
from torpor.daemon.settings import Settings
from torpor.db.schema import block_keys
from torpor.state.manifest import KVCache, KVLayer, KVLayout
from torpor.store.home import Home

LAYOUT = KVLayout("uint8", 1, (KVLayer(1, 1, 1),), block_tokens=2)
NOTHING = Prefix(None, 0)
Add = Callable[..., str]


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with ExitStack() as stack:
        home = Home(tmp_path / "home")
        home.create()
        yield compose(home, Settings(), stack)


@pytest.fixture
def add(catalog: Catalog) -> Add:
    """Commit a backup of some blocks (a letter each: its bytes), of which the first `keyed` carry keys."""
    made = 0

    def commit(blocks: str, keyed: int = 1000) -> str:
        nonlocal made
        made += 1
        refs = []
        for letter in blocks:
            refs.append(catalog.blobs.put(catalog.staging, [memoryview(letter.encode() * 4)], set()).ref)
        kv = KVCache(LAYOUT, 2 * len(blocks), "DynamicCache", tuple(refs), tuple(keys(blocks)[:keyed]))
        backup_id = f"01M81P35719XNDZ4R57NMV{made:04d}"
        one = manifest(id=backup_id, layers={}, kv_cache=kv, tokens=2 * len(blocks), created_at=1e9 + made)
        catalog.commit(backup_id, manifest_file.dump(one))
        return backup_id

    return commit


def keys(blocks: str) -> list[str]:
    return [sha256(blocks[: i + 1].encode()).hexdigest() for i in range(len(blocks))]


def rows(catalog: Catalog) -> int:
    with catalog.index.reading() as connection:
        return connection.scalar(select(func.count()).select_from(block_keys)) or 0


def test_the_longest_one_is_found(catalog: Catalog, add: Add) -> None:
    assert longest_prefix(catalog, keys("abc")) == NOTHING
    assert longest_prefix(catalog, []) == NOTHING
    short, long = add("ab"), add("abcd")
    assert longest_prefix(catalog, keys("abcx")) == Prefix(long, 3)
    assert longest_prefix(catalog, keys("abcdef")) == Prefix(long, 4)
    assert longest_prefix(catalog, keys("axc")) in (Prefix(short, 1), Prefix(long, 1))
    assert longest_prefix(catalog, keys("xbc")) == NOTHING
    assert longest_prefix(catalog, keys("abcd")[1:]) == NOTHING  # a chain begins at the beginning


def test_chains_longer_than_one_statement(catalog: Catalog, add: Add) -> None:
    blocks = "".join(chr(0x4E00 + i) for i in range(1203))
    home = {}
    for length in (499, 500, 501, 1203):
        home[length] = add_long(catalog, blocks[:length], len(home))
    for asked in (499, 500, 501, 1000, 1001, 1203):
        assert longest_prefix(catalog, keys(blocks[:asked] + "x")).blocks == asked


def add_long(catalog: Catalog, blocks: str, number: int) -> str:
    """As `add`, with all blocks of the same bytes: writing a thousand files would take its time."""
    ref = catalog.blobs.put(catalog.staging, [memoryview(b"same")], set()).ref
    kv = KVCache(LAYOUT, 2 * len(blocks), "DynamicCache", (ref,) * len(blocks), tuple(keys(blocks)))
    backup_id = f"01M81P35719XNDZ4R57NMV9{number:03d}"
    one = manifest(id=backup_id, layers={}, kv_cache=kv, tokens=2 * len(blocks), created_at=1e9 + number)
    catalog.commit(backup_id, manifest_file.dump(one))
    return backup_id


def test_bytes_that_are_shared_prove_nothing(catalog: Catalog, add: Add) -> None:
    """A newer backup has the same bytes, and says nothing of what they were computed from."""
    keyed, silent = add("abcdefghij"), add("abcdefghij", 0)
    assert longest_prefix(catalog, keys("abcdefghij")) == Prefix(keyed, 10)
    partly = add("abcdefghij", 4)
    catalog.remove(keyed)
    assert rows(catalog) == 10  # they live as long as their blobs, which the others need
    assert longest_prefix(catalog, keys("abcdefghij")) == Prefix(partly, 4)
    catalog.remove(partly)
    assert longest_prefix(catalog, keys("abcdefghij")) == NOTHING
    catalog.remove(silent)
    assert rows(catalog) == 0


def test_only_blocks_that_are_there_count(catalog: Catalog, add: Add) -> None:
    other, long = add("ab"), add("abcdef")
    refs = manifest_file.load(catalog.manifest_json(long)).kv_cache.blocks  # type: ignore[union-attr]
    catalog.blobs.path(refs[3].digest).unlink()
    assert longest_prefix(catalog, keys("abcdef")) == Prefix(long, 3)
    catalog.blobs.path(refs[0].digest).unlink()
    assert longest_prefix(catalog, keys("abcdef")) == NOTHING
    assert longest_prefix(catalog, keys("ab")) == NOTHING
    assert catalog.index.backup(other).id == other


def test_the_newest_of_equals_is_named(catalog: Catalog, add: Add) -> None:
    ids = [add("abc") for _ in range(6)]
    assert longest_prefix(catalog, keys("abc")) == Prefix(ids[-1], 3)


def test_a_damaged_manifest_is_passed_over(catalog: Catalog, add: Add) -> None:
    sound, damaged = add("abc"), add("abc")
    path = catalog.manifests.path(damaged)
    path.write_bytes(path.read_bytes()[:-3])
    assert longest_prefix(catalog, keys("abc")) == Prefix(sound, 3)
