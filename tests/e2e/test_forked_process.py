"""Processes that are forked behind a keeper, as servers and pools of workers fork them: nothing waits for ever."""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon
from torpor.adapters.plain import PlainSession, PlainTarget
from torpor.client import Keeper, LateKeeper
from torpor.state.errors import ForkedProcess, TorporError

PATIENCE_S = 30  # then the child is killed: it hangs


def in_child(call: Callable[[], Any]) -> str:
    """Return what a call comes to in a process that is forked here: the code of an error, or what it returns."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of os.fork beside threads: that is what this is about
        child = os.fork()
    if not child:
        signal.alarm(PATIENCE_S)
        try:
            said = str(call())
        except TorporError as error:
            said = error.code
        except BaseException as error:
            said = repr(error)
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        said = file.read().decode()
    assert os.waitpid(child, 0)[1] == 0, "it never ended"
    return said


def session(text: str) -> PlainSession:
    return PlainSession({"text_context": [{"role": "user", "content": text}]})


def staged(daemon: Daemon) -> list[Path]:
    return sorted((daemon.home / "store" / "staging").iterdir())


def calls(keeper: Keeper) -> dict[str, Callable[[], Any]]:
    return {
        "save": lambda: keeper.save("s", session("child")).wait(),
        "group": lambda: keeper.save_group("g", {"s": session("child")}).wait(),
        "restore": lambda: keeper.restore("s", PlainTarget()),
        "restore a group": lambda: keeper.restore_group("g", {"s": PlainTarget()}),
        "import": lambda: keeper.import_file("/dev/null", "s"),
    }


def test_what_needs_the_threads_of_the_parent_says_so_and_what_to_do(daemon: Daemon) -> None:
    with daemon.keeper() as keeper:
        keeper.save_group("g", {"s": session("one")}).wait(60)
        for name, call in calls(keeper).items():
            assert in_child(call) == "forked-process", name
        with pytest.raises(ForkedProcess) as caught:
            raise ForkedProcess("this keeper")
        assert "connect()" in caught.value.hint
        assert keeper.save("s", session("two")).wait(60)


def test_closing_it_in_a_child_leaves_the_parent_all_that_it_has(daemon: Daemon) -> None:
    with daemon.keeper() as keeper:
        large = session("x" * 100_000)
        keeper.save("s", large).wait(60)
        before = staged(daemon)
        assert before
        assert in_child(keeper.close) == "None"
        assert staged(daemon) == before
        assert keeper.save("s", session("two")).wait(60)
        assert keeper.restore("s", PlainTarget()).mode == "full"


def test_a_lock_that_another_thread_held_at_the_fork_does_not_stop_the_child(daemon: Daemon) -> None:
    with daemon.keeper() as keeper:
        handle = keeper.save("s", session("one"))
        with keeper._saver._lock, keeper.api._lock:  # as a capture and a new connection of other threads would
            assert in_child(keeper.close) == "None"
            assert in_child(lambda: keeper.save("s", session("child"))) == "forked-process"
            assert in_child(handle.wait) == "forked-process"
            assert in_child(lambda: keeper.api.status()["api_version"]) == str(keeper.api.status()["api_version"])
        handle.wait(60)


def test_an_attachment_of_the_parent_stays_when_a_child_ends(daemon: Daemon) -> None:
    class Provider:
        def sessions(self) -> list[str]:
            return ["s"]

    with daemon.keeper() as keeper, keeper.attach(Provider()) as attached:  # type: ignore[arg-type]
        assert attached.wait_connected(30)
        assert in_child(attached.close) == "None"
        assert [each["sessions"] for each in keeper.api.json("GET", "/v1/attached")["processes"]] == [["s"]]


def test_a_keeper_that_was_only_made_before_the_fork_works_in_all_children(daemon: Daemon) -> None:
    with daemon.keeper() as keeper:
        for name in ("a", "b"):
            assert in_child(lambda name=name: keeper.save(name, session(name)).wait(20).session_id) == name
        assert keeper.save("c", session("c")).wait(60)
        assert keeper.restore("a", PlainTarget()).mode == "full"


def test_a_keeper_that_comes_late_connects_anew_in_each_process(daemon: Daemon) -> None:
    with LateKeeper(home=daemon.home) as late:
        late().save("parent", session("parent")).wait(60)
        with late._here.lock:
            assert in_child(lambda: late().save("child", session("child")).wait(20).session_id) == "child"
        assert in_child(late.close) == "None"
        assert late().save("parent", session("parent again")).wait(60)


def _work(home: Path, told: Any) -> None:
    try:
        _shared[0].save("pool", session("worker")).wait()
        told.put("saved")
    except TorporError as error:
        told.put(error.code)


_shared: list[Keeper] = []


def test_a_worker_of_multiprocessing_ends(daemon: Daemon) -> None:
    with daemon.keeper() as keeper, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        keeper.save("s", session("one")).wait(60)
        _shared[:] = [keeper]
        methods = multiprocessing.get_context("fork")
        told = methods.Queue()
        worker = methods.Process(target=_work, args=(daemon.home, told))
        worker.start()
        worker.join(PATIENCE_S)
        if worker.is_alive():
            worker.kill()
        worker.join()
        assert worker.exitcode == 0
        assert told.get(timeout=10) == "forked-process"
    assert keeper._process.is_elsewhere() is False
