"""The user's own systemd, spoken with by `systemctl --user`: whether it is there, and one call with a time limit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping

from ..state.errors import NoServiceManager, ServiceFailed

CALL_S = 30.0


def runtime_folder(environ: Mapping[str, str]) -> str:
    """Return the folder of the user's sockets, also where a shell of `su` or `ssh` was not told of it."""
    return environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"


def why_not(environ: Mapping[str, str]) -> str | None:
    """Say why there is no systemd of this user's own to speak with; None where there is. Nothing is started by that."""
    if sys.platform != "linux":
        return "services are systemd's here, and this is no Linux"
    if shutil.which("systemctl", path=environ.get("PATH")) is None:
        return "systemd is not installed"
    if not os.path.exists(os.path.join(runtime_folder(environ), "systemd", "private")):
        return "no systemd of this user's own is running (as in a container, or behind `su`)"
    return None


def call(environ: Mapping[str, str], *words: str, limit_s: float = CALL_S) -> str:
    """Run `systemctl --user` and return what it prints. Raises: NoServiceManager, ServiceFailed."""
    if (reason := why_not(environ)) is not None:
        raise NoServiceManager(reason)
    told = {**environ, "XDG_RUNTIME_DIR": runtime_folder(environ), "LC_ALL": "C", "SYSTEMD_COLORS": "0"}
    try:
        done = subprocess.run(
            ("systemctl", "--user", "--no-pager", "--no-ask-password", *words),
            env=told,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired as error:
        raise ServiceFailed(f"systemctl {words[0]} has not ended after {limit_s:.0f} s") from error
    except OSError as error:
        raise NoServiceManager(f"systemctl cannot be run: {error.strerror}") from error
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"it ended with status {done.returncode}"
        raise ServiceFailed(f"systemctl {words[0]}: {said[:500]}")
    return done.stdout


def properties(environ: Mapping[str, str], unit: str, *names: str) -> dict[str, str]:
    """Return properties of a unit; of one that does not exist they are empty or say so. Raises: as `call`."""
    lines = call(environ, "show", unit, f"--property={','.join(names)}").splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in lines)}
