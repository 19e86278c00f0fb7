"""What the service manager is told: that the daemon is ready, how it is, that it is alive, that it ends.

Source: sd_notify(3): datagrams of `NAME=value` lines to the socket that `NOTIFY_SOCKET` names.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass

log = logging.getLogger("torpor.service")


@dataclass(frozen=True, slots=True)
class Notifier:
    """Speaks to a service manager; without an address to nobody. `watchdog_s` is None where nobody asks for signs."""

    address: str | None = None
    watchdog_s: float | None = None

    def tell(self, **values: str) -> None:
        """Send values in one datagram. Who does not listen is not waited for."""
        if self.address is None:
            return
        text = "\n".join(f"{name}={' '.join(value.split())}" for name, value in values.items())
        name = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as out:
                out.sendto(text.encode(errors="replace"), name)
        except OSError as error:
            log.warning("the service manager cannot be told %s: %s", ", ".join(values), error.strerror)


def from_environment(environ: MutableMapping[str, str], pid: int) -> Notifier:
    """Return what the service manager of this process listens to. Its variables go, so that no child takes them over.

    A period that is meant for another process, or that is no number, is none.
    """
    address, period, meant = (environ.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"))
    if not address.startswith(("/", "@")):
        return Notifier()
    if not period.isascii() or not period.isdigit() or meant not in ("", str(pid)):
        return Notifier(address)
    return Notifier(address, int(period) / 1e6 or None)
