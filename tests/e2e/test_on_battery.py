"""A real daemon on a laptop that is plugged in and out: in a network of its own, where the kernel tells what a test says.

The folder of supplies lies over the system's, in a mount namespace; no privilege is needed for either.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.commands import as_json, run
from support.daemon import Daemon
from support.power import INJECT, Supplies, uevent
from support.s3_servers import Place
from support.second_copy import machine
from support.waiting import until
from test_sync import save, sync
from torpor.state.power import ON_BATTERY
from torpor.store.power import SUPPLIES

OVER_SUPPLIES = 'mount --bind "$1" /sys/class/power_supply && shift && exec "$@"'


def laptop(daemon: Daemon, supplies: Supplies, *namespaces: str) -> Daemon:
    """Let a daemon run where these supplies are the machine's."""
    daemon.prefix = ("unshare", "-rm", *namespaces, "sh", "-c", OVER_SUPPLIES, "sh", str(supplies.folder))
    return daemon


@pytest.fixture
def supplies(tmp_path: Path) -> Supplies:
    if not SUPPLIES.is_dir():
        pytest.skip("this kernel knows of no supplies")
    tried = subprocess.run(["unshare", "-rmn", "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"not permitted: {tried.stderr.strip()}")
    return Supplies(tmp_path / "power_supply")


def test_a_daemon_hears_of_the_plug_from_the_kernel(supplies: Supplies, home: Path) -> None:
    with laptop(Daemon(home), supplies, "-n") as daemon, daemon.keeper() as keeper:
        pid = daemon.listening["pid"]

        def power() -> Any:
            return keeper.api.status()["power"]

        def plug(*, plugged_in: bool) -> None:
            supplies.plug(plugged_in=plugged_in)
            inside = ["nsenter", f"--target={pid}", "--user", "--net", "--preserve-credentials"]
            subprocess.run([*inside, sys.executable, "-c", INJECT], input=uevent(), check=True)

        on_mains = {"on_battery": False, "always": False, "waiting": [], "reason": None}
        assert power() == on_mains
        after = keeper.api.status()["summary"]
        assert after["on_battery"] is False
        plug(plugged_in=False)
        until(lambda: power()["on_battery"], power)
        assert power()["reason"] == ON_BATTERY
        assert keeper.api.status()["summary"]["on_battery"] is True
        assert "power        battery" in run(home, "status")
        plug(plugged_in=True)
        until(lambda: power() == on_mains, power)
        assert daemon.signal(signal.SIGTERM) == 0


def test_kv_caches_stay_here_on_battery_until_somebody_asks(supplies: Supplies, home: Path, weed_room: Place) -> None:
    supplies.plug(plugged_in=False)
    with laptop(machine(home, weed_room), supplies) as daemon:
        save(daemon, "s")
        until(lambda: sync(daemon)["held"] and sync(daemon)["last_synced_at"], lambda: sync(daemon))
        found = sync(daemon)
        assert [(each["stage"], each["error"]) for each in found["held"]] == [("kv", ON_BATTERY)]
        assert found["state"] == "idle"
        status = as_json(home, "status")
        assert status["power"]["waiting"] == ["kv"]
        assert status["summary"]["sentence"].endswith("; 1 KV cache waits for mains power")
        assert status["summary"]["level"] == "ok"
        assert "battery: uploads of KV caches wait for mains power" in run(home, "status")
        assert "on battery" in run(home, "sync", "status")
        as_json(home, "sync", "now")
        until(lambda: not sync(daemon)["held_count"] and not sync(daemon)["waiting_count"], lambda: sync(daemon))
        assert as_json(home, "status")["power"]["waiting"] == []
