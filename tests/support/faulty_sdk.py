"""An inference process whose disk is faulty: `python -m support.faulty_sdk HOME`, under tests/support/faulty_fs.c.

Reads a line of JSON a command on stdin, and answers with what came of it, in a line of JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from torpor.client import Keeper, connect
from torpor.state.errors import TorporError

from support.caches import CacheSession, CacheTarget

TOKENS = 300


def save(keeper: Keeper, asked: dict[str, Any]) -> dict[str, Any]:
    session = CacheSession()
    session.grow(TOKENS, asked["seed"])
    session.note = {"kv": session.digest(), "seed": asked["seed"]}
    return {"saved": keeper.save(asked["session"], session).wait(60).id}


def restore(keeper: Keeper, asked: dict[str, Any]) -> dict[str, Any]:
    """Restore; whatever the mode is, nothing that is handed over is wrong."""
    found = keeper.restore(asked["ref"], CacheTarget(), require=asked.get("require"))
    digest = found.session.digest()
    assert not found.session.tokens or digest == found.session.note["kv"], "wrong KV"
    return {"mode": found.mode}


def main() -> None:
    with connect(home=sys.argv[1]) as keeper:
        print(json.dumps("ready"), flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            try:
                answer = {"save": save, "restore": restore}[asked["do"]](keeper, asked)
            except TorporError as error:
                answer = {"error": error.code, "detail": error.detail}
            except BaseException as error:
                answer = {"error": "not ours", "detail": repr(error)}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
