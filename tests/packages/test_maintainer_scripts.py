"""The package's scripts, which root runs: no user of the machine can hold them up."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "packaging" / "deb"
_SYSTEMCTL = """#!/bin/sh
case "$1" in
list-units) echo "user@1000.service loaded active running User Manager" ;;
*) echo "$*" >>"$0.log"; exec sleep 600 ;;
esac
"""
_TIMEOUT = '#!/bin/sh\nshift\nexec /usr/bin/timeout 1 "$@"\n'  # nobody waits that long here
_ALONE = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && exec env DEBIAN_HAS_FRONTEND=1 DEBCONF_REDIR=1 "


@pytest.mark.parametrize(("script", "words"), [("prerm", "remove"), ("postinst", "configure 1.0")])
def test_a_service_manager_that_never_answers_holds_no_package_up(tmp_path: Path, script: str, words: str) -> None:
    for name, text in (
        ("systemctl", _SYSTEMCTL),
        ("timeout", _TIMEOUT),
        *((each, "#!/bin/sh\n") for each in ("py3compile", "py3clean")),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    command = f"{_ALONE} PATH={tmp_path}:/usr/bin:/bin sh {SCRIPTS / script} {words} 3>&1"
    began = time.monotonic()
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began >= 1, "it never came to ask that manager"
    assert "--machine=1000@" in (tmp_path / "systemctl.log").read_text()
