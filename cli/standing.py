"""How a machine stands before `torpor init` changes anything: home, disk, second copy, service, autostart."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..desktop import autostart, login_entries, service
from ..desktop.launch import serves
from ..state.quota import Limits, limits_of
from ..store.home import Home

if TYPE_CHECKING:
    from ..daemon.remote_settings import S3Settings

Keep = Literal["service", "autostart", "no"]


@dataclass(frozen=True, slots=True)
class Standing:
    """What there is. `named` is the folder where everybody looks for the home first."""

    home: Home
    named: Path
    is_home: bool
    quota: str
    soft_quota: str
    free_floor: str | None
    disk_bytes: int
    free_bytes: int
    s3: S3Settings | None
    s3_at_home: bool
    s3_values: Mapping[str, str] = field(repr=False)
    service: service.Service
    login_entry: bool
    tray: bool
    desktop: bool

    @classmethod
    def of(cls, home: Home, named: Path, environ: Mapping[str, str]) -> Standing:
        """Look at a home and at this machine. Raises: InvalidSettings, ServiceFailed."""
        from ..daemon.remote_settings import known_values, load_remote_settings
        from ..daemon.settings import load_settings

        settings = load_settings()
        disk = os.statvfs(next(folder for folder in (home.root, *home.root.parents) if folder.is_dir()))
        remote = load_remote_settings(environ, None, home.root)
        return cls(
            home=home,
            named=named,
            is_home=home.store.is_dir(),
            quota=settings.quota,
            soft_quota=settings.soft_quota,
            free_floor=settings.free_floor,
            disk_bytes=disk.f_blocks * disk.f_frsize,
            free_bytes=disk.f_bavail * disk.f_frsize,
            s3=remote.s3,
            s3_at_home=load_remote_settings({}, None, home.root).s3 is not None,
            s3_values=known_values(environ, home.root),
            service=service.status(environ),
            login_entry=_starts(autostart.DAEMON_FILE, home, environ),
            tray=_starts(autostart.TRAY_FILE, home, environ),
            desktop=bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY")),
        )

    @property
    def keep(self) -> Keep:
        """How the daemon is kept running now; on a machine without a home, how it could be."""
        if self.service.enabled and serves(self.service, str(self.home.root)):
            return "service"
        if self.login_entry:
            return "autostart"
        if self.is_home or self.service.reason is not None or self._serves_another:
            return "no"
        return "service"

    @property
    def _serves_another(self) -> bool:
        """Whether the service, of which there is one a user, is that of another home."""
        found = self.service
        return (found.enabled or found.runs) and not serves(found, str(self.home.root))

    @property
    def no_service(self) -> str | None:
        """Say why there can be no service."""
        return self.service.reason

    def limits(self, quota: str) -> Limits:
        """Return what the home may take under a quota. Raises: InvalidSettings."""
        return limits_of(self.disk_bytes, quota, self.soft_quota, self.free_floor)

    def s3_with(self, values: Mapping[str, str]) -> S3Settings:
        """Return the settings that some values are. Raises: InvalidSettings."""
        from ..daemon.remote_settings import settings_of

        return settings_of(values)

    def has_key(self, repository: str | None) -> bool:
        """Tell whether this machine has the keys of a bucket. Raises: UnsafeHome, ObjectDamaged, StoreFailed."""
        from ..daemon.keys import KeyStore
        from ..daemon.settings import load_settings

        if repository is None:
            return False
        return KeyStore(self.home.repo_key, load_settings().key_storage).find(repository)[0] is not None


def _starts(entry_file: str, home: Home, environ: Mapping[str, str]) -> bool:
    return autostart.enabled(entry_file, environ) and login_entries.is_of(entry_file, home, environ)
