"""What a page saved by itself wakes in a real model: from the KV cache of the backup that it goes on from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.daemon import Daemon
from support.pictures import png
from support.switching import ASK, chat, kv, model_a, model_b, options, shown, target_of, write
from torpor.adapters.transformers import Media, TransformersSession
from torpor.client import Keeper
from torpor.state.page_view import page_message
from ulid import ULID


@pytest.fixture(scope="module")
def keeper(shared_daemon: Daemon) -> Any:
    with shared_daemon.keeper() as keeper:
        yield keeper


def said(session_id: str, base: str | None, keep: int, *messages: Any, **more: Any) -> dict[str, Any]:
    made = {"id": str(ULID()), "session_id": session_id, "created_at": 1.0, "base": base, "keep": keep}
    return made | {"messages": list(messages)} | more


def save(daemon: Daemon, item: dict[str, Any]) -> str:
    body = {"session_id": item["session_id"], "small": True, "state": item}
    answer = daemon.request("POST", "/api/backup/create", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["backup_id"])


def talked(keeper: Keeper, name: str) -> tuple[TransformersSession, str]:
    """A chat with an image and one answer, saved whole."""
    session = chat(model_a(), ASK)
    write(session, "A sun.", end=True)
    session.finish()
    return session, keeper.save(name, session).wait(60).id


def test_a_page_goes_on_from_the_kv_cache_of_its_base(shared_daemon: Daemon, keeper: Keeper) -> None:
    live, first = talked(keeper, "page-kv")
    question = {"role": "user", "content": "Sure? 😀"}
    begun = said("page-kv", first, 2, question, {"role": "assistant", "content": "Quite s"}, partial=True, draft="And")
    made = save(shared_daemon, begun)

    foreseen = shared_daemon.request("GET", f"/api/backup/plan/{made}").json()
    assert (foreseen["mode"], foreseen["base_id"], foreseen["exact"]) == ("prefix", first, False)
    assert foreseen["tokens_reused"] == live.token_ids.shape[-1] - 1
    woken = keeper.restore("page-kv", target_of(model_a()))
    assert (woken.mode, woken.plan.base_id, woken.backup.id) == ("prefix", first, made)
    assert woken.plan.tokens_reused == live.token_ids.shape[-1] - 1
    assert woken.session.conversation == [*live.conversation, question]
    assert [m.data for m in woken.session.media] == [m.data for m in live.media]  # nothing is asked for again

    live.say(question)  # and so it would have gone on without a break
    write(live, "Quite s")
    torch.manual_seed(9)
    live.generate(**options(model_a()))
    woken.session.prefill()
    assert all(map(torch.equal, kv(woken.session, 60), kv(live, 60)))
    torch.manual_seed(9)
    woken.session.generate(**options(model_a()))
    assert woken.session.token_ids.tolist() == live.token_ids.tolist()
    answer = woken.session.finish()
    assert answer["content"].startswith("Quite s")

    later = keeper.save("page-kv", woken.session).wait(60)
    assert later.parent_id == made
    late = shared_daemon.request("POST", "/api/backup/drain", json={"pending": [begun | {"id": str(ULID())}]}).json()
    assert [d["kind"] for d in late["drained"]] == ["small"]  # the draft alone, behind the answer that has come since
    found = shared_daemon.request("GET", "/api/backup/restore/page-kv?text=1").json()
    assert (found["conversation"][-1], found["draft"], found["partial"]) == (page_message(answer), "And", False)
    late = shared_daemon.request("POST", "/api/backup/drain", json={"pending": [begun | {"id": str(ULID())}]}).json()
    assert [d["kind"] for d in late["drained"]] == ["unchanged"]


def test_pages_that_save_one_behind_the_other(shared_daemon: Daemon, keeper: Keeper) -> None:
    live, base = talked(keeper, "page-chain")
    texts = ("Sure?", "Quite sure.", "And the sky?", "Blue.")
    first = base
    for n, text in enumerate(texts):
        message = {"role": ("user", "assistant")[n % 2], "content": text}
        base = save(shared_daemon, said("page-chain", base, 2 + n, message))
    woken = keeper.restore("page-chain", target_of(model_a()))
    assert (woken.mode, woken.plan.base_id) == ("prefix", first)
    assert [m["content"] for m in woken.session.conversation[2:]] == list(texts)
    other = keeper.restore("page-chain", target_of(model_b()))
    assert other.mode == "media"
    assert "And the sky?" in shown(other.session)
    assert [m.data for m in other.session.media] == [m.data for m in live.media]


def test_a_save_of_a_page_that_is_removed_takes_no_kv_cache_along(shared_daemon: Daemon, keeper: Keeper) -> None:
    live, first = talked(keeper, "page-gap")
    between = save(shared_daemon, said("page-gap", first, 2, {"role": "user", "content": "Sure?"}))
    made = save(shared_daemon, said("page-gap", between, 3, {"role": "assistant", "content": "Quite."}))
    keeper.api.remove(between)
    woken = keeper.restore("page-gap", target_of(model_a()))
    assert (woken.mode, woken.plan.base_id, woken.backup.id) == ("prefix", first, made)
    assert woken.plan.tokens_reused == live.token_ids.shape[-1] - 1
    assert any(f"{between} is gone" in note for note in woken.plan.notes)


def test_a_page_that_went_another_way_keeps_the_picture(shared_daemon: Daemon, keeper: Keeper) -> None:
    """The first question is asked in other words, with the same picture; the KV cache does not fit, and is not used."""
    live, first = talked(keeper, "page-edit")
    edited = {"role": "user", "content": [{"type": "image", "index": 0}, {"type": "text", "text": "Which colour?"}]}
    save(shared_daemon, said("page-edit", first, 0, edited))
    woken = keeper.restore("page-edit", target_of(model_a()))
    assert (woken.mode, woken.plan.base_id) == ("media", None)
    assert any("another one" in note for note in woken.plan.notes)
    assert [m.data for m in woken.session.media] == [m.data for m in live.media]
    assert "Which colour?" in shown(woken.session)


def test_a_picture_that_no_backup_has(shared_daemon: Daemon, keeper: Keeper) -> None:
    """A page that closed before its server had the picture: its place stays, and the model is told that it is gone."""
    _, first = talked(keeper, "page-lost")
    lost = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "And this one?"}]}
    save(shared_daemon, said("page-lost", first, 2, lost))
    woken = keeper.restore("page-lost", target_of(model_a()))
    assert woken.mode in ("prefix", "media", "text-only")
    assert "And this one?" in shown(woken.session)


def test_pictures_come_back_to_the_page(shared_daemon: Daemon, keeper: Keeper) -> None:
    raw = png(24)
    session = chat(model_a(), ASK, media=[Media(raw, "image/png")])
    made = keeper.save("page-pictures", session).wait(60).id
    found = shared_daemon.request("GET", "/api/backup/restore/page-pictures?text=1").json()
    assert found["images"] == [{"index": 0, "media_type": "image/png", "size_bytes": len(raw)}]
    assert found["conversation"] == [page_message(ASK)]
    picture = shared_daemon.request("GET", f"/api/backup/media/{made}/0")
    assert (picture.content, picture.headers["content-type"]) == (raw, "image/png")
    assert picture.headers["x-content-type-options"] == "nosniff"
    assert shared_daemon.request("GET", f"/api/backup/media/{made}/1").status_code == 404
