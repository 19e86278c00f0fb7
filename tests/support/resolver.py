"""A resolver of our own for a daemon: nobody may change /etc/resolv.conf without being root.

A name is resolved as long as a file exists; it is looked at each time, as a resolver would be asked.
"""

from __future__ import annotations

from pathlib import Path

NAME = "bucket.torpor.test"
_PROGRAM = """
import os, socket
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
        (folder / "sitecustomize.py").write_text(_PROGRAM.format(name=NAME, sign=str(self._sign)))
        self.up()

    @property
    def settings(self) -> dict[str, str]:
        """The environment of a process that asks it."""
        return {"PYTHONPATH": str(self._folder)}

    def up(self) -> None:
        self._sign.touch()

    def down(self) -> None:
        self._sign.unlink()
