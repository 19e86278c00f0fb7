"""How a restore begins: what it asks for, when it looks at the model, and which of two errors is told."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.daemon import Daemon
from torpor.adapters.plain import PlainSession, PlainTarget
from torpor.client import opening
from torpor.client.api import Api
from torpor.client.wire import Question
from torpor.state.errors import InvalidId, SessionNotFound, UnsupportedState
from torpor.state.plan import TargetState
from torpor.state.rates import KINDS, rate_key

STATE = {"metadata": {"a": [1, "总额"]}}


class Known(PlainTarget):
    """A target that is known already, and notes when it was looked at."""

    familiar = True

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.looks = fails, 0

    def is_familiar(self) -> bool:
        return self.familiar

    def describe(self) -> TargetState:
        self.looks += 1
        if self.fails:
            raise UnsupportedState("this model cannot be described")
        return super().describe()


class New(Known):
    """One whose description may take minutes."""

    familiar = False


@pytest.fixture
def keeper(shared_daemon: Daemon) -> Any:
    with shared_daemon.keeper() as keeper:
        keeper.save("opened", PlainSession(STATE)).wait(60)
        yield keeper


@pytest.mark.parametrize(("target", "looks_before"), [(Known(), 1), (New(), 0)])
def test_one_question_is_asked_before_a_known_target_is_looked_at_and_answered_behind(
    keeper: Any, monkeypatch: pytest.MonkeyPatch, target: Known, looks_before: int
) -> None:
    asked, looks = list[str](), list[int]()
    real, answered = Api._sent, Question.answer

    def sent(api: Api, what: str, send: Callable[[Any], Any]) -> Any:
        asked.append(what)
        return real(api, what, send)

    def answer(question: Question) -> Any:
        looks.append(target.looks)
        return answered(question)

    monkeypatch.setattr(Api, "_sent", sent)
    monkeypatch.setattr(Question, "answer", answer)
    assert keeper.restore("opened", target).session.state == STATE
    assert looks[0] == looks_before
    assert target.looks == 1
    assert [what for what in asked if what.startswith("GET")] == ["GET /v1/backups/opened/opened?rates=true"]


def test_the_first_plan_has_the_rates_that_came_with_its_one_question(
    shared_daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, real = list[str](), Api._sent

    def sent(api: Api, what: str, send: Callable[[Any], Any]) -> Any:
        asked.append(what)
        return real(api, what, send)

    with shared_daemon.keeper() as keeper:
        keeper.save("timed", PlainSession({"metadata": {"a": "x" * 50_000}})).wait(60)  # which lies in a blob
        rows = [[1 << 10, 0.5, 0, ""], [1 << 30, 2.5, 0, ""]]
        for kind in KINDS:
            keeper.memory.put("rate", rate_key(kind, PlainTarget().describe().fingerprint), rows)
    with shared_daemon.keeper() as keeper, monkeypatch.context() as patch:
        patch.setattr(keeper._rates, "take", lambda remembered: None)
        by_questions = keeper.plan("timed", PlainTarget())
        rates = keeper._rates.rates(PlainTarget().describe())
        assert set(rates.fitted) == set(KINDS)
    monkeypatch.setattr(Api, "_sent", sent)
    with shared_daemon.keeper() as keeper:
        del asked[:]
        assert keeper.plan("timed", PlainTarget()) == by_questions
        assert by_questions.estimated_s
        assert keeper._rates.rates(PlainTarget().describe()) == rates
        assert keeper.plan("timed", PlainTarget()) == by_questions
    assert asked == ["GET /v1/backups/timed/opened?rates=true", "GET /v1/backups/timed/opened"]


@pytest.mark.parametrize("target", [Known(fails=True), New(fails=True)])
def test_what_is_wrong_with_the_backup_is_told_first(keeper: Any, target: Known) -> None:
    with pytest.raises(SessionNotFound):
        keeper.restore("nobody", target)
    with pytest.raises(InvalidId):
        keeper.restore("../x", target)
    assert target.looks == target.familiar
    with pytest.raises(UnsupportedState, match="cannot be described"):
        keeper.restore("opened", target)


def test_a_daemon_that_is_older_is_asked_as_it_knows(keeper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = keeper.manifest("opened")
    monkeypatch.setattr(opening, "_path", lambda ref, rates: f"/v1/backups/{ref}/unheard-of")
    assert keeper.manifest("opened") == expected
    assert keeper.restore("opened", Known()).session.state == STATE
    with pytest.raises(SessionNotFound):
        keeper.restore("nobody", Known())


def test_questions_that_nobody_waits_for_take_no_place(keeper: Any) -> None:
    for _ in range(150):  # there are places for 100
        with keeper.api.asking("/v1/backups/opened/opened"):
            pass
    with keeper.api.asking("/v1/backups/opened/opened") as answer:
        assert answer().is_success


def test_a_daemon_that_ends_behind_the_question_is_asked_again(daemon: Daemon) -> None:
    with daemon.keeper() as keeper:
        keeper.save("opened", PlainSession(STATE)).wait(60)
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGSTOP)
        with keeper.api.asking("/v1/backups/opened/opened") as answer:
            daemon.kill()
            with Daemon(daemon.home):
                assert answer().is_success


def test_nobody_waits_for_what_the_daemon_is_told(keeper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told, go = list[str](), threading.Event()

    def waits(name: str) -> Callable[..., None]:
        def tell(*arguments: Any) -> None:
            assert go.wait(60)
            told.append(name)

        return tell

    for name in ("note_used", "restored"):
        monkeypatch.setattr(keeper.api, name, waits(name))
    monkeypatch.setattr(keeper._rates, "note", waits("note"))
    try:
        assert keeper.restore("opened", Known()).session.state == STATE
        assert told == []
    finally:
        go.set()
    keeper._threads.shutdown()
    assert sorted(told) == ["note", "note_used", "restored"]


def test_it_takes_the_scope_of_a_manifest(keeper: Any, shared_daemon: Daemon) -> None:
    made = shared_daemon.request("POST", "/v1/tokens", json={"label": "saves", "scopes": ["save"]}).json()
    for path, status in (("", 200), ("/manifest", 403), ("/opened", 403)):
        answer = shared_daemon.request(
            "GET", f"/v1/backups/{keeper.api.backup('opened').id}{path}", token=made["token"]
        )
        assert answer.status_code == status
