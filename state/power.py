"""Where the machine's power comes from, and what waits while it comes from a battery. Pure.

| work | on battery |
|---|---|
| uploads of KV caches, plain copies | wait: they are large, and can be computed again |
| scrub, collecting (here and in the bucket), merging of the search | wait: nobody needs them today |
| saves, restores, text, media, embeddings; retention, room | go on |
| whatever somebody asks for (`torpor verify`, `torpor gc`, `torpor sync now`) | is done |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

ON_BATTERY = "on battery: it goes on mains power"  # the reason that is shown with what waits
NAMES = {
    "kv": "uploads of KV caches",
    "scrub": "the scrub",
    "garbage": "collecting on this machine",
    "bucket": "collecting in the bucket",
    "search": "merging the search",
}
_OUTLETS = ("Mains", "USB", "Wireless")


def on_battery(supplies: Iterable[Mapping[str, str]]) -> bool:
    """Tell whether a machine runs on its battery, by what the kernel says of its supplies.

    The battery of a mouse (`scope` is `Device`) says nothing of the machine.
    Source: Documentation/ABI/testing/sysfs-class-power of Linux.
    """
    own = [each for each in supplies if each.get("scope") != "Device"]
    if any(each.get("type") in _OUTLETS and each.get("online") == "1" for each in own):
        return False
    return any(each.get("type") == "Battery" and each.get("status") == "Discharging" for each in own)


def is_about_power(message: bytes) -> bool:
    """Tell whether a message of the kernel (a uevent) is of a power supply: fields that end with NUL.

    Source: Documentation/core-api/kobject.rst and lib/kobject_uevent.c of Linux.
    """
    return b"SUBSYSTEM=power_supply" in message.split(b"\0")


def in_words(on_battery: bool, waiting: Sequence[str]) -> str:
    """Say where the power comes from, and what waits for the mains, by its names."""
    if not on_battery:
        return "mains"
    words = [NAMES.get(each, each) for each in waiting]
    if not words:
        return "battery"
    listed = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
    return f"battery: {listed} {'wait' if len(words) > 1 or waiting[0] == 'kv' else 'waits'} for mains power"
