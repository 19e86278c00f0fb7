"""Answer with a file that is open already: what was checked is what is sent, whatever its path has become."""

from __future__ import annotations

import os
from typing import Any

from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send


class OpenFileResponse(FileResponse):
    """Sends, by ranges if asked, what a descriptor refers to, and closes it."""

    def __init__(self, fd: int, **options: Any) -> None:
        self._fd = fd
        super().__init__(f"/proc/self/fd/{fd}", **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            os.close(self._fd)
