"""kill -9 in the middle of a page's drain: the page sends it again, and every state is there once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from support.daemon import Daemon
from ulid import ULID

LONG = "a long answer " * 5_000  # lies in a blob


def item(number: int, *texts: str) -> dict[str, Any]:
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    made = {"id": str(ULID()), "session_id": "page", "created_at": 1e9 + number, "base": None, "keep": 0}
    return made | {"messages": messages}


@pytest.mark.parametrize("point", ["blob.replaced", "manifest.replaced:2", "index.committed:2"])
def test_what_was_not_acknowledged_is_sent_again(home: Path, point: str) -> None:
    pending = [item(0, "Tell me"), item(1, "Tell me", LONG)]
    with Daemon(home, crash_at=point) as first:
        with pytest.raises(httpx.HTTPError):
            first.request("POST", "/api/backup/drain", json={"pending": pending}, timeout=20)
        first.join()
    with Daemon(home) as second:
        told = second.request("POST", "/api/backup/drain", json={"pending": pending}).json()
        assert told["refused"] == []
        assert [each["id"] for each in told["drained"]] == [each["id"] for each in pending]
        rows = second.request("GET", "/v1/backups").json()["backups"]
        assert {row["id"] for row in rows} <= {each["id"] for each in pending}
        assert len(rows) == len({row["id"] for row in rows})
        found = second.request("GET", "/api/backup/restore/page?text=1").json()
        assert [message["content"] for message in found["conversation"]] == ["Tell me", LONG]
