"""The Debian package, in a Debian that runs: installed, used, upgraded, removed and purged, by an ordinary user's service."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from support.clean_root import CleanRoot, why_no_clean_root
from support.waiting import until

ROOT = Path(__file__).parents[2]
FIXTURE = ROOT / "tests" / "fixtures" / "v1" / "spec-8b.qwnbak"
OLD = "0.0.1~test"  # a version that never was
OF_DEVELOPMENT = {"web/README.md", "web/jsconfig.json", "web/package.json"}
DESKTOP = ("desktop-file-utils", "shared-mime-info", "xdg-utils")
DATA = "/home/ann/.local/share/torpor"
# What a library requires, unless for an extra or under a condition, and is not there.
_MISSING = """
import importlib.metadata, re
def normal(name):
    return re.sub("[-_.]+", "-", re.match("[A-Za-z0-9._-]+", name)[0]).lower()
there = list(importlib.metadata.distributions())
required = {normal(line) for each in there for line in each.requires or () if ";" not in line}
print(*sorted(required - {normal(each.metadata["Name"]) for each in there}))
"""
pytestmark = pytest.mark.skipif(why_no_clean_root() is not None, reason=why_no_clean_root() or "")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="torpor-deb-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def package(folder: Path) -> Path:
    """The one that is shipped."""
    return _built(folder)


def _built(folder: Path, umask: int = 0o022, **environment: str) -> Path:
    said = subprocess.run(
        [ROOT / "packaging" / "deb" / "build.sh", sys.executable],
        env={**os.environ, "TORPOR_DEB_OUT": str(folder), **environment},
        umask=umask,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert said.returncode == 0, said
    return Path(said.stdout.strip())


def _older(package: Path, folder: Path) -> Path:
    """The same package, as one of an older version."""
    root, older = folder / "older", folder / package.name.replace(version("torpor"), OLD)
    subprocess.run(["dpkg-deb", "--raw-extract", package, root], check=True)
    control = root / "DEBIAN" / "control"
    control.write_text(control.read_text().replace(f"Version: {version('torpor')}\n", f"Version: {OLD}\n"))
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", root, older], check=True, capture_output=True
    )
    shutil.rmtree(root)
    return older


@pytest.mark.soak
def test_it_is_as_debian_wants_it(package: Path) -> None:
    said = subprocess.run(["lintian", "--fail-on", "error,warning", package], capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (0, "")


@pytest.mark.soak
def test_the_same_sources_give_the_same_files(package: Path, folder: Path) -> None:
    """Bytes, owners, modes and times, whatever the time zone, the umask and the user; but for what names the version."""
    odd = {"TORPOR_DEB_VERSION": OLD, "TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8", "USER": "somebody"}
    other = _built(folder / "odd", 0o077, TORPOR_DEB_PACKED="none", **odd)
    older, newer = _members(other), _members(package)
    differing = {name for name in older.keys() | newer.keys() if older.get(name) != newer.get(name)}
    assert differing == {"./usr/share/doc/torpor/changelog.gz"}
    assert len(newer) > 1000


def test_everything_is_in_it(package: Path) -> None:
    """Each file of each folder of code, and none that is not there."""
    inside = [name.partition("/site-packages/torpor/")[2] for name, (mode, *_) in _members(package).items() if mode]
    folders = {path.parent.name for path in ROOT.glob("*/py.typed")}
    files = {
        p for folder in folders for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }
    there = {path.relative_to(ROOT).as_posix() for path in files} - OF_DEVELOPMENT
    assert {name for name in inside if "." in name.rpartition("/")[2]} == there


def test_its_life(package: Path, folder: Path) -> None:
    with CleanRoot() as root:
        older = _older(package, folder)
        for each in (older, package):
            shutil.copy(each, root.path / "opt")
        old, new = (f"/opt/{each.name}" for each in (older, package))
        _is_installed(root, old)
        _is_whole(root)
        backup = _keeps_a_backup(root)
        _is_upgraded(root, new, backup)
        _is_removed(root)
        _is_purged(root)


def _install(root: CleanRoot, *names: str) -> None:
    root.run("apt-get", "install", "-qq", "-y", "--no-install-recommends", *names, DEBIAN_FRONTEND="noninteractive")


def _is_installed(root: CleanRoot, package: str) -> None:
    """Nothing but the package is named: apt finds what it needs. Nothing starts."""
    assert root.run("sh", "-c", "command -v python3", check=False).returncode != 0
    _install(root, package, *DESKTOP)
    assert _version(root) == OLD
    assert root.run("torpor", "--version", user="bob").stdout.strip() == version("torpor")
    assert _daemons(root) == []
    assert not (root.path / DATA[1:]).exists()


def _is_whole(root: CleanRoot) -> None:
    """What needs the libraries finds them, and these find theirs; the desktop knows our files."""
    parts = "import torpor.daemon.compose, torpor.sync.s3, torpor.tray.drawing, torpor.cli.main, dbus_fast, keyring, pystray"
    root.run("/usr/lib/torpor/bin/python3", "-I", "-c", parts, PYSTRAY_BACKEND="dummy")
    objects = "find /usr/lib/torpor -name '*.so*' -exec ldd {} + | grep 'not found'"
    assert root.run("sh", "-c", objects, check=False).stdout == ""
    assert root.run("/usr/lib/torpor/bin/python3", "-I", "-c", _MISSING).stdout.strip() == ""
    assert _opener(root) == "torpor.desktop"
    entries = ("/usr/share/applications/torpor.desktop", "/usr/share/applications/torpor-tray.desktop")
    assert root.run("desktop-file-validate", *entries).stdout == ""


def _keeps_a_backup(root: CleanRoot) -> str:
    """Ann starts the service that the package brings, and imports a file."""
    root.run("systemctl", "--user", "enable", "--now", "torpor.service", user="ann")
    shutil.copy(FIXTURE, root.path / "opt")
    root.run("torpor", "import", f"/opt/{FIXTURE.name}", "--json", user="ann")
    (backup,) = json.loads(root.run("torpor", "ls", "--json", user="ann").stdout)["backups"]
    root.run("torpor", "verify", backup["id"], user="ann")
    return str(backup["id"])


def _is_upgraded(root: CleanRoot, package: str, backup: str) -> None:
    """What was saved is there, the unit is read again, and the daemon that runs is a new one."""
    before = _main_pid(root)
    unit = root.path / "usr/lib/systemd/user/torpor.service"
    unit.write_text(unit.read_text().replace("Description=", "Description=Older: "))
    root.run("systemctl", "--user", "daemon-reload", user="ann")
    assert "Older" in _shown(root, "Description")
    _install(root, package)
    assert _version(root) == version("torpor")
    until(lambda: _main_pid(root) not in (0, before), "a new daemon")
    assert "Older" not in _shown(root, "Description")
    assert _shown(root, "NeedDaemonReload") == "no"
    root.run("torpor", "status", "--wait", "60", user="ann")
    assert backup in root.run("torpor", "ls", "--json", user="ann").stdout


def _is_removed(root: CleanRoot) -> None:
    """The daemon has ended cleanly, nothing of the package is left, and everything of Ann's is."""
    kept = _stored(root)
    root.run("apt-get", "remove", "-qq", "-y", "torpor", DEBIAN_FRONTEND="noninteractive")
    assert _daemons(root) == []
    assert _shown(root, "Result") == "success"
    for name in ("usr/lib/torpor", "usr/bin/torpor", "usr/lib/systemd/user/torpor.service", "usr/share/doc/torpor"):
        assert not os.path.lexists(root.path / name)
    assert _opener(root) == ""
    assert _stored(root) == kept
    assert (root.path / DATA[1:] / "token").is_file()


def _is_purged(root: CleanRoot) -> None:
    """Unasked, and asked and refused, it removes nothing of anybody's; agreed to, only what is a user's own."""
    _lay_traps(root)
    root.run("cp", "-a", "/var/lib/dpkg", "/var/cache/debconf", "/opt")
    kept = _stored(root)
    for frontend, answer in (("noninteractive", ""), ("teletype", "no\n"), ("teletype", "\n")):
        done = root.run("dpkg", "--purge", "torpor", stdin=answer, DEBIAN_FRONTEND=frontend)
        assert _stored(root) == kept
        assert DATA in done.stdout + done.stderr  # what it could have removed
        assert root.run("dpkg-query", "-W", "torpor", check=False).returncode != 0
        root.run("cp", "-a", "-T", "/opt/dpkg", "/var/lib/dpkg")
        root.run("cp", "-a", "-T", "/opt/debconf", "/var/cache/debconf")
    done = root.run("dpkg", "--purge", "torpor", stdin="yes\n", DEBIAN_FRONTEND="teletype")
    data = root.path / DATA[1:]
    assert not data.exists(), done.stdout + done.stderr
    assert data.parent.is_dir()
    assert (root.path / "srv/other/share/torpor/store/precious").is_file()


def _lay_traps(root: CleanRoot) -> None:
    """Bob's folder is by a link somebody else's: removing it as root would remove that."""
    root.run("mkdir", "-p", "/srv/other/share/torpor/store")
    root.run("touch", "/srv/other/share/torpor/store/precious")
    root.run("ln", "-s", "/srv/other", "/home/bob/.local", user="bob")


def _members(package: Path) -> dict[str, tuple[object, ...]]:
    stream = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE, check=True).stdout
    with tempfile.TemporaryFile() as file:
        file.write(stream)
        file.seek(0)
        with tarfile.open(fileobj=file) as tar:
            return {each.name: (each.mode, each.uname, each.mtime, each.linkname, _digest(tar, each)) for each in tar}


def _digest(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member) if member.isreg() else None
    return hashlib.sha256(file.read() if file else b"").hexdigest()


def _stored(root: CleanRoot) -> dict[str, str]:
    """Return the digests of Ann's blobs and manifests."""
    folder = root.path / DATA[1:] / "store"
    files = [
        path for kind in ("blobs", "manifests", "sessions") for path in (folder / kind).rglob("*") if path.is_file()
    ]
    assert any(path.suffix == ".qwnbak" for path in files)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _opener(root: CleanRoot) -> str:
    return root.run("xdg-mime", "query", "default", "application/x-qwnbak", user="ann").stdout.strip()


def _shown(root: CleanRoot, name: str) -> str:
    shown = root.run("systemctl", "--user", "show", "torpor.service", "--value", "-p", name, user="ann")
    return shown.stdout.strip()


def _version(root: CleanRoot) -> str:
    return root.run("dpkg-query", "-W", "-f", "${Version}", "torpor").stdout


def _main_pid(root: CleanRoot) -> int:
    return int(_shown(root, "MainPID"))


def _daemons(root: CleanRoot) -> list[str]:
    """Return the command lines of what runs from the package."""
    found = (path.read_bytes().split(b"\0") for path in (root.path / "proc").glob("[0-9]*/cmdline"))
    return [b" ".join(words).decode() for words in found if words[0].startswith(b"/usr/lib/torpor/")]
