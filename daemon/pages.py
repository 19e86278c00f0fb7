"""The dashboard and the JavaScript client as they are served: files of the package, the same for everybody.

What a page may do is said with it: it loads nothing from elsewhere, speaks to nobody but this daemon, and nobody frames
it. Nothing here is secret, so no token is asked for; what the page shows comes from routes that ask.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from starlette.responses import FileResponse
from starlette.types import ASGIApp, Receive, Scope, Send

FOLDERS = ("dashboard", "client", "vendor")
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-cache",  # asked for each time, by its ETag: another version of the daemon has other files
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
}


class Pages:
    """ASGI middleware that serves the files of the dashboard and hands all else on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._files = page_files()
        self.paths = frozenset(self._files)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = self._files.get(scope["path"]) if scope["type"] == "http" else None
        if path is None or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        await FileResponse(path, media_type=_TYPES[path.suffix], headers=HEADERS)(scope, receive, send)


def page_files() -> dict[str, Path]:
    """Return what is served, by path; only files of known kinds."""
    root = Path(str(files("torpor.web")))
    found = {
        "/" + path.relative_to(root).as_posix(): path
        for folder in FOLDERS
        for path in sorted((root / folder).rglob("*"))
        if path.suffix in _TYPES and path.is_file()
    }
    index = root / "dashboard" / "index.html"
    return found | ({"/": index} if index.is_file() else {})
