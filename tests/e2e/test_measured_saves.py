"""What the benches count, on a real daemon: bytes of saves that grow, of forks, and of what stands beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.daemon import Daemon
from torpor.measure import dedupe, growth, stall, text_save
from torpor.measure.settings import Settings
from torpor.measure.workload import BLOCK_TOKENS, TOKEN_BYTES, load

SLACK = 128 << 10  # token ids, the state of the random numbers, the manifest


def test_each_message_is_saved_and_as_many_bytes_written_beside_it(daemon: Daemon, tmp_path: Path) -> None:
    samples = text_save.Samples()
    with daemon.keeper() as keeper, text_save.floor_in(tmp_path / "floor") as floor:
        text_save.converse(keeper, floor, "talk", 4, samples)
        rows = floor.database.execute("SELECT count(*) FROM saves").fetchone()
        assert len(keeper.api.backups(session_id="talk")) == 4
    assert [len(each) for each in (samples.save_s, samples.file_s, samples.row_s, samples.written)] == [4] * 4
    assert rows == (4,)
    assert samples.written == sorted(set(samples.written))
    sizes = [(tmp_path / "floor" / f"talk-{number}").stat().st_size for number in range(4)]
    assert sizes[1:] == [samples.written[1], samples.written[1], samples.written[3]]


def test_forks_write_their_own_tokens_and_the_old_partial_block(daemon: Daemon) -> None:
    samples = dedupe.Samples(tokens=2 * BLOCK_TOKENS + BLOCK_TOKENS // 2, forks=2)
    with daemon.keeper() as keeper:
        dedupe.fork_all(keeper, load(), samples)
        kept = [keeper.manifest(name)[1].kv_cache for name in ("forked", "forked-0", "forked-1")]
    blobs = {ref.digest: ref.size_bytes for kv in kept if kv is not None for ref in kv.blocks}
    again = dedupe.MORE_TOKENS + BLOCK_TOKENS // 2
    assert sum(blobs.values()) == (samples.tokens + samples.forks * again) * TOKEN_BYTES
    assert all(again * TOKEN_BYTES < written < again * TOKEN_BYTES + SLACK for written in samples.written)


def test_a_session_grows_by_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(growth, "FEW_LATER_SAVES", 2)
    figures = growth.measure(Settings(tmp_path, quick=True, sizes=(2 * BLOCK_TOKENS,)))
    of_bytes = next(figure for figure in figures if figure.name.endswith(": bytes"))
    assert of_bytes.met()
    assert of_bytes.baseline == [96 * TOKEN_BYTES] * 2
    assert {figure.against for figure in figures if figure.faster_at_least} == set()
    said = "".join(capfd.readouterr())
    assert all(f"{name} is not installed: left out" in said for name in ("restic", "borg", "kopia"))
    assert list(tmp_path.iterdir()) == []


def test_a_stall_is_taken_of_every_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall, "STEPS_ALONE", 3)
    monkeypatch.setattr(stall, "FEW_LATER_SAVES", 2)
    figures = stall.measure(Settings(tmp_path, quick=True, sizes=(BLOCK_TOKENS,)))
    assert [len(figure.ours) for figure in figures[:3]] == [stall.FEW_FIRST_SAVES, 2, 1]
    assert figures[2].ours == [max(figures[1].ours)]  # the 99th hundredth of two
    assert all(figure.ratio() for figure in figures[3:])
