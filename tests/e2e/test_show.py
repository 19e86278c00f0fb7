"""`show`, `diff` and the API behind them, over real backups: what is shared, where it lies, what changed."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.caches import CacheSession
from support.commands import as_json, run
from support.daemon import Daemon
from torpor.adapters.plain import PlainSession
from torpor.client import Keeper
from torpor.state.errors import error_classes

BLOCK = 64 * 3 * 2 * 2 * 8 * 2  # tokens x layers x (K, V) x heads x dim x bfloat16


def turns(count: int) -> list[dict[str, Any]]:
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": f"turn {i}\nmore of it"} for i in range(count)]


@pytest.fixture
def keeper(daemon: Daemon) -> Iterator[Keeper]:
    with daemon.keeper() as opened:
        yield opened


@pytest.fixture
def ids(keeper: Keeper) -> list[str]:
    """Three saves of one growing session: 70, 140 and 210 tokens, 0, 15 and 30 messages."""
    session, found = CacheSession(), []
    for step in range(3):
        session.grow(70, step)
        session.note = {"step": step, "messages": turns(15 * step)}
        found.append(keeper.save("chat-42", session).wait(60).id)
    return found


def save(keeper: Keeper, session_id: str, **layers: Any) -> str:
    return keeper.save(session_id, PlainSession(layers)).wait(60).id


def test_the_blobs_of_a_growing_session_are_shared(daemon: Daemon, ids: list[str]) -> None:
    found = daemon.request("GET", f"/v1/backups/{ids[2]}/blobs").json()
    kv = found["blobs"]
    assert [b["size_bytes"] for b in kv] == [BLOCK, BLOCK, BLOCK, BLOCK * 18 // 64]
    assert [b["shared_with"] for b in kv] == [2, 1, 0, 0]
    for blob in kv:
        assert blob["present"]
        assert blob["layer"] == "kv_cache"
        assert Path(blob["path"]).is_absolute()
        assert Path(blob["path"]).stat().st_size == blob["size_bytes"]
        assert Path(blob["path"]) in daemon.blob_files()
    sharing = found["sharing"]
    rows = [(row["id"], row["session_id"], row["blobs"], row["bytes"]) for row in sharing["backups"]]
    assert rows == [(ids[1], "chat-42", 2, 2 * BLOCK), (ids[0], "chat-42", 1, BLOCK)]
    own = sum(b["size_bytes"] for b in kv[2:])
    assert (sharing["others"], sharing["shared_bytes"], sharing["own_bytes"]) == (2, 2 * BLOCK, own)


def test_blobs_of_backups_that_are_not_there(daemon: Daemon, ids: list[str]) -> None:
    missing = daemon.request("GET", "/v1/backups/01M81P35719XNDZ4R57NMV6DYZ/blobs")
    assert (missing.status_code, missing.json()["code"]) == (404, "backup-not-found")
    assert daemon.request("GET", "/v1/backups/..%2f..%2fetc/blobs").status_code in (404, 422)
    assert daemon.request("GET", f"/v1/backups/{ids[0]}/blobs", token="wrong").status_code == 401


def test_at_most_twenty_sharers_are_named(daemon: Daemon, keeper: Keeper) -> None:
    for number in range(23):
        last = save(keeper, f"s{number}", vision_cache={"e": torch.zeros(10_000)})
    sharing = daemon.request("GET", f"/v1/backups/{last}/blobs").json()["sharing"]
    assert (len(sharing["backups"]), sharing["others"]) == (20, 22)
    text = run(daemon.home, "show", last)
    assert "with 22 other backups" in text
    assert "and 17 more" in text
    assert "and 2 more" in run(daemon.home, "show", last, "--all")


def test_show_as_json_holds_everything(daemon: Daemon, ids: list[str]) -> None:
    found = as_json(daemon.home, "show", "chat-42")
    assert found["id"] == ids[2]
    assert found["parent_id"] == ids[1]
    assert found["kv_cache"] == {"tokens": 210, "blocks": 4, "dtype": "bfloat16"}
    assert {layer["name"] for layer in found["layers_detail"]} == {"text_context", "tokens", "kv_cache"}
    assert [m["text"] for m in found["messages"]] == [f"turn {i}…" for i in range(30)]
    assert found["messages"][0]["path"] == "text_context.note.messages[0]"
    served = daemon.request("GET", f"/v1/backups/{ids[2]}/blobs").json()
    assert (found["blobs"], found["sharing"]) == (served["blobs"], served["sharing"])
    for key in ("session_id", "omitted", "fingerprint", "tensors", "values", "traces", "bytes_total"):
        assert key in found


def test_show_for_a_person(daemon: Daemon, ids: list[str]) -> None:
    text = run(daemon.home, "show", ids[2])
    for line in ("210 tokens in 4 blocks", "3 layers x 2 heads x 8", "30 messages", "10 earlier (--all)",
                 "shares 24.0 KiB with 2 other backups", "4 blobs in "):  # fmt: skip
        assert line in text
    assert "user: turn 10…" in text
    assert "assistant: turn 9…" not in text
    assert ids[0] in text
    assert "assistant: turn 9…" in run(daemon.home, "show", ids[2], "--all")


def test_show_lists_the_first_blobs_and_all_when_asked(daemon: Daemon, keeper: Keeper) -> None:
    last = save(keeper, "s", vision_cache={"e": [torch.full((20_000,), float(i)) for i in range(25)]})
    paths = [str(path) for path in daemon.blob_files()]
    assert len(paths) == 25
    short, full = run(daemon.home, "show", last), run(daemon.home, "show", last, "--blobs")
    assert sum(path in short for path in paths) == 5
    assert all(f"{path}\n" in full for path in paths)  # in one piece, so that it can be copied
    assert "and 20 more (--blobs)" in short
    assert "vision_cache.e[24]" not in short
    last_path = Path(as_json(daemon.home, "show", last)["blobs"][-1]["path"])
    assert str(last_path) not in short
    last_path.unlink()
    assert str(last_path) in run(daemon.home, "show", last)  # what is missing comes first
    every = run(daemon.home, "show", last, "--all")
    assert "vision_cache.e[24]" in every
    assert all(path in every for path in paths)


def test_tensors_stand_with_their_place(daemon: Daemon, keeper: Keeper) -> None:
    state = {"vision_cache": {"small": torch.zeros(2, 3), "large": torch.zeros(3 << 20), "raw": b"abc"}}
    save(keeper, "s", **state)
    found = as_json(daemon.home, "show", "s")
    small, large = found["tensors"]
    assert (small["path"], small["dtype"], small["shape"], small["blobs"]) == (
        "vision_cache.small",
        "float32",
        [2, 3],
        [],
    )
    assert (large["size_bytes"], len(large["blobs"])) == (12 << 20, 3)
    assert set(large["blobs"]) <= {b["digest"] for b in found["blobs"]}
    text = run(daemon.home, "show", "s")
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("vision_cache.")}
    assert lines["vision_cache.small"].split() == [
        "vision_cache.small",
        "float32[2,",
        "3]",
        "24",
        "B",
        "in",
        "manifest",
    ]
    assert f"{large['blobs'][0][:12]} and 2 more" in lines["vision_cache.large"]
    assert "bytes[3]" in lines["vision_cache.raw"]


@pytest.mark.parametrize("damage", ["gone", "short"])
def test_a_blob_that_is_missing_or_cut_is_not_present(daemon: Daemon, ids: list[str], damage: str) -> None:
    before = as_json(daemon.home, "show", ids[2])["blobs"]
    assert "missing" not in run(daemon.home, "show", ids[2])
    path = Path(before[3]["path"])
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    after = as_json(daemon.home, "show", ids[2])["blobs"]
    assert [b["present"] for b in after] == [True, True, True, False]
    text = run(daemon.home, "show", ids[2])
    assert ", 1 missing" in text
    (line,) = (line for line in text.splitlines() if "MISSING" in line)
    assert line.endswith(str(path))


HOSTILE = "\x1b]0;pwned\x07\x1b[2J\x9b1m\u202eevil [bold]b[/bold] [/] :smile:"


def hostile_state(**more: Any) -> dict[str, Any]:
    conversation = [{"role": "user", "content": f"{HOSTILE}\nsecond line"}, {"role": HOSTILE, "content": "x"}]
    return {
        "metadata": {"model_name": HOSTILE},
        "text_context": {"conversation": conversation, "thinking": HOSTILE, HOSTILE: b"x"},
        "config_snapshot": {HOSTILE: HOSTILE, **more},
    }


def test_hostile_text_is_written_out(daemon: Daemon, keeper: Keeper) -> None:
    first = save(keeper, "hostile", metadata={"model_name": "m"}, config_snapshot={"k": HOSTILE + "1"})
    second = save(keeper, "hostile", **hostile_state(k=HOSTILE + "2"))
    for words in (["show", second], ["show", second, "--all"], ["diff", first, second], ["diff", second, first]):
        text = run(daemon.home, *words)
        assert {c for c in text if unicodedata.category(c) in ("Cc", "Cf")} == {"\n"}
        assert "\\u202eevil [bold]b[/bold] [/] :smile:" in text.replace("\n", "")
    assert as_json(daemon.home, "show", second)["messages"][0]["text"] == HOSTILE + "…"


def test_diff_of_a_growing_session(daemon: Daemon, ids: list[str]) -> None:
    found = as_json(daemon.home, "diff", ids[0], "chat-42")
    assert (found["a"], found["b"], found["same"]) == (ids[0], ids[2], False)
    assert found["kv"] | {"layout_a": "", "layout_b": ""} == {
        "tokens_a": 70, "tokens_b": 210, "blocks_same": 1, "tokens_same": 64, "layout_a": "", "layout_b": "",
    }  # fmt: skip
    assert (found["messages_same"], len(found["messages_added"]), found["messages_removed"]) == (0, 30, [])
    assert found["shared_bytes"] == BLOCK
    assert found["fingerprint"] == {}
    text = run(daemon.home, "diff", ids[1], ids[2])
    for line in ("15 messages at the head the same", "+ message assistant: turn 15…", "~ text_context.note.step 1 -> 2",
                 "~ tokens 141 -> 211", "KV: 128 of 140 -> 210 tokens (2 blocks) the same", "24.0 KiB in both"):  # fmt: skip
        assert line in text
    assert "turn 14…" not in text


def test_diff_of_settings_and_layers(daemon: Daemon, keeper: Keeper, ids: list[str]) -> None:
    save(keeper, "a", config_snapshot={"temperature": 0.7}, metadata={})
    save(keeper, "b", config_snapshot={"temperature": 0.9}, vision_cache={"e": torch.zeros(2)})
    text = run(daemon.home, "diff", "a", "b")
    for line in ("- layer metadata", "+ layer vision_cache", "~ config_snapshot.temperature 0.7 -> 0.9"):
        assert f"{line}\n" in text
    assert "~ fingerprint weights same -> unknown\n" in run(daemon.home, "diff", "chat-42", "a")


def test_diff_of_a_backup_with_itself(daemon: Daemon, ids: list[str]) -> None:
    assert as_json(daemon.home, "diff", "chat-42", ids[2])["same"]
    text = run(daemon.home, "diff", "chat-42", ids[2])
    assert "Both hold the same." in text
    assert not any(line.startswith(("+", "-", "~")) for line in text.splitlines())


def test_diff_of_many_changes_is_cut_unless_all_are_asked_for(daemon: Daemon, keeper: Keeper) -> None:
    save(keeper, "a", config_snapshot={f"k{i}": 0 for i in range(60)})
    save(keeper, "b", config_snapshot={f"k{i}": 1 for i in range(60)})
    assert "and 20 more (--all)" in run(daemon.home, "diff", "a", "b")
    assert run(daemon.home, "diff", "a", "b", "--all").count("0 -> 1") == 60
    assert len(as_json(daemon.home, "diff", "a", "b")["changes"]) == 60


@pytest.mark.parametrize(
    ("words", "status"),
    [(["diff", "nope", "chat-42"], 3), (["diff", "chat-42", "nope"], 3), (["diff", "a/b", "chat-42"], 2), (["diff", "chat-42"], 2)],
    ids=str,
)  # fmt: skip
def test_failures_of_diff(daemon: Daemon, ids: list[str], words: list[str], status: int) -> None:
    problem = as_json(daemon.home, *words, status=status)
    assert error_classes()[problem["code"]].exit_code == status


def test_a_long_message_shows_its_first_line(daemon: Daemon) -> None:
    """Its text lies in blobs; the beginning is read, and where it is gone that is said instead."""
    conversation = [{"role": "user", "content": "Dear page,\n" + "more of it " * 5000}]
    with daemon.keeper() as keeper:
        keeper.save("long", PlainSession({"text_context": {"messages": conversation}})).wait(60)
    assert as_json(daemon.home, "show", "long")["messages"][0]["text"] == "Dear page,…"
    assert "user: Dear page," in run(daemon.home, "show", "long")
    for blob in daemon.blob_files():
        blob.unlink()
    assert "user: (text of 55011 bytes)" in run(daemon.home, "show", "long")
