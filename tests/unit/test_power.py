"""Heavy work waits on battery, and goes on when the kernel says that the machine was plugged in; nobody polls."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.power import Laptop, Supplies, uevent
from support.pumping import MIB, Bench, add
from support.waiting import until
from torpor.daemon.power import Power
from torpor.daemon.sync_watcher import SyncWatcher
from torpor.db.remembered import Remembered
from torpor.db.standing import standing
from torpor.state.kv_policy import Budget, KVUpload, decide
from torpor.state.power import ON_BATTERY, in_words, is_about_power, on_battery
from torpor.store.power import open_uevents, read_supplies, told_of_power
from torpor.store.sync_choices import SyncChoices

BATTERY, OUTLET = {"type": "Battery", "status": "Discharging"}, {"type": "Mains", "online": "1"}
MOUSE = BATTERY | {"scope": "Device"}


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Laptop]:
    made = Laptop(tmp_path / "power_supply")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("supplies", "expected"),
    [
        ([BATTERY, MOUSE], True),
        ([BATTERY, OUTLET | {"online": "0"}], True),
        ([], False),
        ([MOUSE], False),
        ([OUTLET, BATTERY], False),  # it says so a little later than the outlet
        ([BATTERY, {"type": "USB", "online": "1"}], False),
        ([BATTERY | {"status": "Charging"}], False),
        ([{"type": "Battery"}], False),
    ],
)
def test_a_battery_counts_when_no_outlet_feeds_the_machine(supplies: list[dict[str, str]], expected: bool) -> None:
    assert on_battery(supplies) is expected


def test_supplies_are_read_as_the_kernel_shows_them(tmp_path: Path) -> None:
    supplies = Supplies(tmp_path / "power_supply")
    assert not on_battery(supplies.read())
    supplies.plug(plugged_in=False)
    assert on_battery(supplies.read())
    (supplies.folder / "AC" / "online").unlink()  # it goes while it is read
    assert on_battery(supplies.read())
    assert read_supplies(tmp_path / "none") == []


def test_the_kernel_can_be_heard_and_is_understood() -> None:
    listening = open_uevents()
    assert listening is not None
    told_of_power(listening)  # whatever this machine had to say
    listening.close()
    assert is_about_power(uevent())
    assert not is_about_power(uevent("usb", "power_supply"))
    assert not is_about_power(b"change@/devices/SUBSYSTEM=power_supply\0SUBSYSTEM=power_supply_x\0")


def test_a_plug_is_noticed_by_what_the_kernel_says_and_nothing_else_is_looked_at(laptop: Laptop) -> None:
    power, told = laptop.power, threading.Semaphore(0)
    power.listen(told.release)
    power.start()
    assert (power.on_battery, power.may(), power.why_not()) == (False, True, None)
    laptop.plug(plugged_in=False)
    assert told.acquire(timeout=60)
    assert (power.on_battery, power.may(), power.why_not()) == (True, False, ON_BATTERY)
    looks = laptop.supplies.looks
    laptop.kernel.send(uevent("usb"))
    laptop.kernel.send(uevent("drm"))
    laptop.plug(plugged_in=True)
    assert told.acquire(timeout=60)
    assert power.may()
    assert laptop.supplies.looks == looks + 1
    laptop.kernel.send(uevent(device="BAT0"))  # one per cent more: nobody is told
    until(lambda: laptop.supplies.looks > looks + 1)
    assert not told.acquire(blocking=False)
    power.stop()
    power.stop()


def test_without_the_kernels_word_a_look_tells_too(tmp_path: Path) -> None:
    supplies = Supplies(tmp_path / "power_supply")
    power, told = Power(supplies=supplies.read, uevents=lambda: None), threading.Semaphore(0)
    power.listen(told.release)
    power.start()
    supplies.plug(plugged_in=False)
    power.look()
    power.look()
    assert told.acquire(blocking=False)
    assert not told.acquire(blocking=False)
    power.tells_with(lambda: ["garbage"])
    assert power.waiting() == ["garbage"]
    supplies.plug(plugged_in=True)
    power.look()
    assert power.waiting() == []
    power.stop()


def test_who_says_so_gets_heavy_work_on_battery_too(tmp_path: Path) -> None:
    supplies = Supplies(tmp_path / "power_supply")
    supplies.plug(plugged_in=False)
    power = Power(always=True, supplies=supplies.read, uevents=lambda: None)
    assert (power.on_battery, power.may(), power.why_not()) == (True, True, None)
    power.stop()


def test_only_what_would_have_gone_waits_for_the_mains() -> None:
    cheap = KVUpload(MIB, 100, download_s=9.0, prefill_s=1.0)
    dear = KVUpload(MIB, 100, download_s=1.0, prefill_s=9.0)
    assert decide("auto", dear, Budget(), ON_BATTERY).reason == ON_BATTERY
    assert decide("always", cheap, Budget(), ON_BATTERY).reason == ON_BATTERY
    assert "sooner computed" in decide("auto", cheap, Budget(), ON_BATTERY).reason
    assert decide("never", dear, Budget(), ON_BATTERY).reason == "the policy is `never`"
    assert decide("auto", dear, Budget()).goes


def test_text_and_media_go_on_battery_and_kv_caches_behind_it(laptop: Laptop, tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    waits = laptop.power.why_not
    choices = SyncChoices(kv_policy="always")
    remembered = Remembered(bench.index)
    watcher = SyncWatcher(bench.index, bench.outbox, remembered, lambda: choices, lambda: 1.0, waits=waits)
    bench.told.kept_back = watcher.kept_back  # type: ignore[method-assign]
    laptop.supplies.plug(plugged_in=False)
    laptop.power.look()
    add(bench.index, 1, "s", 1.0, {"media": 20 * MIB, "vision_cache": 20 * MIB, "kv_cache": 90 * MIB})
    assert bench.settle() is None  # nothing wakes it until the plug is put in
    assert bench.remote.pushed == [("1", ("text",)), ("1", ("media",)), ("1", ("vision",))]
    assert bench.remote.left_out[-1] == {"kv": ON_BATTERY}
    with bench.index.reading() as connection:
        assert (standing(connection).waiting, standing(connection).waiting_for_power) == (0, 1)
    laptop.supplies.plug(plugged_in=True)
    laptop.power.look()
    bench.outbox.reconsider()
    assert bench.settle() is None
    assert bench.remote.pushed[-1] == ("1", ("kv",))
    bench.index.close()


def test_it_is_said_in_words() -> None:
    assert in_words(False, ["scrub"]) == "mains"
    assert in_words(True, []) == "battery"
    assert in_words(True, ["scrub"]) == "battery: the scrub waits for mains power"
    assert in_words(True, ["kv"]) == "battery: uploads of KV caches wait for mains power"
    assert in_words(True, ["kv", "scrub", "garbage"]) == (
        "battery: uploads of KV caches, the scrub and collecting on this machine wait for mains power"
    )
