"""A resolver of our own for a daemon: nobody may change /etc/resolv.conf without being root.

A name is resolved as long as a file exists; it is looked at each time, as a resolver would be asked. The daemon is
`torpor` with this module before it, which can be forked like any other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

NAME = "bucket.torpor.test"
_PROGRAM = """
import os, socket
from torpor.cli.entry import main
_asked = socket.getaddrinfo
def getaddrinfo(host, *arguments, **options):
    if host != {name!r}:
        return _asked(host, *arguments, **options)
    if not os.path.exists({sign!r}):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return _asked("127.0.0.1", *arguments, **options)
socket.getaddrinfo = getaddrinfo
"""


class Resolver:
    """Resolves NAME to the loopback while it is up."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder, self._sign = folder, folder / "up"
        self.module = f"asks_{folder.name.replace('-', '_')}"
        (folder / f"{self.module}.py").write_text(_PROGRAM.format(name=NAME, sign=str(self._sign)))
        self.up()

    @property
    def starts_as(self) -> dict[str, Any]:
        """How a daemon starts that asks it: of the options of `Daemon`."""
        return {"module": self.module, "folders": (str(self._folder),)}

    def up(self) -> None:
        self._sign.touch()

    def down(self) -> None:
        self._sign.unlink()
