"""What the kernel says of batteries and outlets, and that it has something new to say of them."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

from ..state.power import is_about_power

SUPPLIES = Path("/sys/class/power_supply")
_NAMES = ("type", "online", "status", "scope")
_UEVENTS, _FROM_KERNEL = 15, 1  # NETLINK_KOBJECT_UEVENT of linux/netlink.h, and its group that needs no udev
_LONGEST = 8192  # of a message; the kernel's are below 2 KiB


def read_supplies(folder: Path = SUPPLIES) -> list[dict[str, str]]:
    """Return what is known of each supply; a machine that has no such folder has no battery."""
    found: list[dict[str, str]] = []
    with suppress(OSError):
        for supply in sorted(folder.iterdir()):
            values: dict[str, str] = {}
            for name in _NAMES:
                with suppress(OSError):
                    values[name] = (supply / name).read_text(errors="replace").strip()
            found.append(values)
    return found


def open_uevents() -> socket.socket | None:
    """Open a socket on which the kernel tells of devices; None where that is not to be had.

    Anybody may open one. In a container the kernel says nothing on it.
    """
    family = getattr(socket, "AF_NETLINK", None)
    if family is None:
        return None
    try:
        found = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _UEVENTS)
    except OSError:
        return None
    try:
        found.bind((0, _FROM_KERNEL))
    except OSError:
        found.close()
        return None
    return found


def told_of_power(uevents: socket.socket) -> bool:
    """Read away all messages that came, and tell whether one of them was of a power supply."""
    found = False
    try:
        while message := uevents.recv(_LONGEST):
            found = found or is_about_power(message)
    except BlockingIOError:
        return found
    except OSError:  # more came than the system kept
        return True
    return found
