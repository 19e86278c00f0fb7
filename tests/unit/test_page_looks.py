"""What is kept in memory of a page's save is what would be read: over every form that a text layer may have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.bucket_daemon import BucketDaemon
from support.manifests import manifest
from torpor.codec import tree
from torpor.daemon.blob_reads import BlobReads
from torpor.daemon.page_looks import KEPT, Looks
from torpor.daemon.page_saves import PageSaves
from torpor.state.page_items import read_item
from ulid import ULID

LONG = "lang und breit 😀 " * 3_000
SAID = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi", "reasoning_content": "Polite."}]
TREE = {"head": "b", "nodes": {"a": {"message": SAID[0]}, "b": {"message": SAID[1], "parent": "a"}}}
LAYERS: dict[str, Any] = {
    "plain": {"conversation": SAID, "thinking": LONG, "tool_calls": [{"x": (1, 2), 3: "y"}]},
    "another key": {"messages": SAID},
    "odd keys": {"conversation": SAID, 7: "seven", "$tensor": "a word"},
    "odd messages": {"conversation": [SAID[0] | {"when": (1, float("inf")), "raw": b"bytes"}, SAID[1]]},
    "long messages": {"conversation": [SAID[0], SAID[1] | {"content": LONG}]},
    "a tuple of messages": {"conversation": tuple(SAID)},
    "a tree of messages": {"conversation": TREE},
    "an answer begun": {"conversation": SAID[:1], "covered": 1, "pending": {"text": "H", "ended": False}},
    "an answer ended": {"conversation": SAID[:1], "covered": 1, "pending": {"text": "Hi", "ended": True}},
    "an answer between": {"conversation": [SAID[0], SAID[0]], "covered": 1, "pending": {"text": "Hi", "ended": True}},
    "nothing": {},
    "nothing of ours": {"conversation": 5},
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BucketDaemon]:
    made = BucketDaemon(tmp_path_factory.mktemp("looks") / "home")
    yield made
    made.close()


def save(daemon: BucketDaemon, session_id: str, layer: Any) -> str:
    """Commit what an inference process would have saved."""
    encoded = tree.encode(layer, lambda value: None)
    for leaf, body in encoded.pending:
        put = [daemon.catalog.blobs.put(daemon.catalog.staging, [piece], set()).ref for piece in tree.chunks(leaf)]
        tree.fill(body, put)
    made = manifest(
        id=str(ULID()), session_id=session_id, layers={"text_context": encoded.value}, kv_cache=None, tokens=0
    )
    daemon.catalog.commit_all([made])
    return made.id


def says(session_id: str, base: str | None, keep: int, *texts: str, **more: Any) -> Any:
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    said = {"id": str(ULID()), "session_id": session_id, "created_at": 2e9, "base": base, "keep": keep}
    return read_item(said | {"messages": messages} | more)


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_kept_is_what_would_be_read(here: BucketDaemon, name: str) -> None:
    session_id = name.replace(" ", "-")
    base = save(here, session_id, LAYERS[name])
    reads = BlobReads(here.catalog, None)
    saves = PageSaves(here.catalog, reads, here.room)
    index = here.catalog.index
    keep = len(saves.look(index.backup(base)).view.conversation)
    for item in (
        says(session_id, base, keep, "More", LONG, draft="and"),
        says(session_id, base, keep, "More", "Ot", partial=True),
        says(session_id, base, keep // 2, "Another way"),
    ):
        made = index.backup(saves.save(item).backup_id)
        kept, read = saves.look(made), Looks(here.catalog, reads).look(made)
        assert kept == read
        assert kept.text is not read.text
        assert kept.view.conversation[:1] == (read.view.conversation[0],)
        assert kept.view.draft == item.draft


def test_only_the_newest_of_a_few_sessions_is_kept(here: BucketDaemon) -> None:
    saves = PageSaves(here.catalog, BlobReads(here.catalog, None), here.room)
    index = here.catalog.index
    names = [f"kept-{number}" for number in range(KEPT + 2)]
    for name in names:
        base = save(here, name, LAYERS["plain"])
        saves.save(says(name, base, 2, "More"))
    first, last = index.newest(names[0]), index.newest(names[-1])
    assert saves.look(first).text is not saves.look(first).text
    assert saves.look(last).text is saves.look(last).text
    older = index.list_backups(session_id=names[-1])[-1]
    assert saves.look(older).manifest.id == older.id


def test_nothing_is_kept_of_what_is_removed(here: BucketDaemon) -> None:
    pages = PageSaves(here.catalog, BlobReads(here.catalog, None), here.room)
    made = pages.save(says("removed", None, 0, "A secret"))
    assert "A secret" in repr(pages._looks._kept)
    here.catalog.remove(made.backup_id)
    assert "A secret" not in repr(pages._looks._kept)
