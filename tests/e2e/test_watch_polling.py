"""Watched folders where inotify does not reach: network file systems, and its limits."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.waiting import until
from support.watching import Watching, whole
from torpor.daemon import watch_events


def test_polling_does_without_events(tmp_path: Path) -> None:
    watching = Watching(tmp_path, polling=True).start().watch()
    assert watching.status()["mode"] == "polling"
    assert watching.watches._notifier._reader is None
    (watching.drop / "sub").mkdir()
    for number in (1, 2):
        (watching.drop / "sub" / "a.pt").write_bytes(whole(number))
        assert watching.outcomes(number)[-1] == ("sub/a.pt", "imported")
    watching.stop()


def test_a_network_file_system_is_polled(watching: Watching, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = watching.folder()
    monkeypatch.setattr(folder._tree, "_fs_type_at", lambda path: "fuse.sshfs")
    watching.look()
    assert watching.status()["mode"] == "polling"
    folder._subscription._on_change = lambda folder: None
    (watching.drop / "a.pt").write_bytes(whole(1))
    assert watching.outcomes(1) == [("a.pt", "imported")]
    assert folder._known[str(watching.drop / "a.pt")].signature.inode == 0


@pytest.mark.parametrize(
    ("number", "command"),
    [
        (errno.ENOSPC, "sudo sysctl fs.inotify.max_user_watches="),
        (errno.EMFILE, "sudo sysctl fs.inotify.max_user_instances="),
    ],
)
def test_at_a_limit_of_inotify_a_folder_is_polled_and_the_command_is_told(
    idle: Watching, monkeypatch: pytest.MonkeyPatch, number: int, command: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "injected")

    with monkeypatch.context() as patch:
        if number == errno.EMFILE:
            patch.setattr(watch_events.InotifyFD, "_create_inotify_fd", refuse)
        else:
            patch.setattr(watch_events.InotifyFD, "add_callback", refuse)
        idle.watch()
        status = idle.status()
        assert (status["mode"], status["problem"]["code"]) == ("polling", "watch-limit")
        assert command in status["problem"]["hint"]
        (idle.drop / "a.pt").write_bytes(whole(1))
        assert idle.outcomes(1) == [("a.pt", "imported")]
        (event,) = idle.events("watch-problem")
        assert command in event["detail"]
    idle.watches.rescan()
    until(lambda: idle.status()["mode"] == "inotify", "inotify again")
    assert idle.status()["problem"] is None


def test_the_limit_of_the_kernel_itself(tmp_path: Path) -> None:
    """In a user namespace of its own, whose limit is lowered; the machine's stays as it is."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom support.watching import Watching, whole\n"
        "w = Watching(Path(sys.argv[1]))\n"
        "[(w.drop / name).mkdir() for name in 'abcdef']\n"
        "w.start().watch()\n"
        "s = w.status()\n"
        "(w.drop / 'f' / 'x.pt').write_bytes(whole(1))\n"
        "print(s['mode'], s['problem']['code'], w.outcomes(1))\n"
        "w.stop()\n"
    )
    lowered = 'echo 3 > /proc/sys/user/max_inotify_watches && exec "$@"'
    command = ["unshare", "-Ur", "sh", "-c", lowered, "sh", sys.executable, "-c", script, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "polling watch-limit [('f/x.pt', 'imported')]", done.stderr
