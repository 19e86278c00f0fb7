"""Batteries and outlets as the kernel shows them, in a folder, and what it says when they change."""

from __future__ import annotations

import socket
from pathlib import Path

from torpor.daemon.power import Power
from torpor.store.power import read_supplies

CHANGED = "change@/devices/pnp/{0}\0ACTION=change\0DEVPATH=/devices/pnp/{0}\0SUBSYSTEM={1}\0SEQNUM=7\0"


def uevent(subsystem: str = "power_supply", device: str = "AC") -> bytes:
    """What the kernel says when a device changed."""
    return CHANGED.format(device, subsystem).encode()


class Supplies:
    """A laptop's folder, laid out as /sys/class/power_supply; it is plugged in at first."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.looks = folder, 0
        for name, kind in (("AC", "Mains"), ("BAT0", "Battery")):
            (folder / name).mkdir(parents=True)
            (folder / name / "type").write_text(f"{kind}\n")
        self.plug(plugged_in=True)

    def plug(self, *, plugged_in: bool) -> None:
        """Put the plug in, or pull it."""
        (self.folder / "AC" / "online").write_text(f"{plugged_in:d}\n")
        (self.folder / "BAT0" / "status").write_text("Charging\n" if plugged_in else "Discharging\n")

    def read(self) -> list[dict[str, str]]:
        """Look, and count that."""
        self.looks += 1
        return read_supplies(self.folder)


class Laptop:
    """A machine with a plug, and what the daemon knows of it."""

    def __init__(self, folder: Path, *, always: bool = False) -> None:
        self.supplies = Supplies(folder)
        heard, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        heard.setblocking(False)
        self.power = Power(always=always, supplies=self.supplies.read, uevents=lambda: heard, settle_s=0.0)

    def plug(self, *, plugged_in: bool) -> None:
        """Put the plug in, or pull it; the kernel says so."""
        self.supplies.plug(plugged_in=plugged_in)
        self.kernel.send(uevent())

    def close(self) -> None:
        self.power.stop()
        self.kernel.close()


# Injects a uevent of a power supply into its network namespace; the kernel hands it on as one of its own.
INJECT = """
import socket, struct, sys
body = sys.stdin.buffer.read()
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15) as kernel:
    kernel.sendto(struct.pack("=IHHII", 16 + len(body), 16, 1, 0, 0) + body, (0, 0))
"""
