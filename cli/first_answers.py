"""The answers of `torpor init`: from options, from somebody at the terminal, or as proposed. Nothing is changed here.

What is proposed is what is so already, so that Enter at every question, or `--yes`, changes nothing that works.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from ..state.errors import BadInput, Conflict, UnsafeHome
from ..state.quota import in_words
from ..store.files import refuse_foreign_folder
from ..store.home import Home
from ..store.move import check_can_lead
from . import questions
from .first_bucket import Bucket, second_copy
from .standing import Keep, Standing


@dataclass(frozen=True, slots=True)
class Options:
    """What was said on the command line; None where it was not."""

    yes: bool = False
    home: Path | None = None
    quota: str | None = None
    s3: bool | None = None
    s3_values: Mapping[str, str] = field(default_factory=dict, repr=False)
    passphrase: str | None = field(default=None, repr=False)
    untested: bool = False
    keep: Keep | None = None
    tray: bool | None = None


@dataclass(frozen=True, slots=True)
class Answers:
    """Everything that is to be done. `bucket` is None where there is no second copy."""

    home: Home
    quota: str
    bucket: Bucket | None
    keep: Keep
    tray: bool


def gather(options: Options, asking: bool) -> tuple[Standing, Answers]:
    """Return what there is, and what is wanted. Raises: BadInput without a terminal and `--yes`, and every refusal."""
    if not (asking or options.yes):
        raise BadInput(
            "nobody is there to answer three questions", hint="`torpor init --yes` takes what is proposed; see --help."
        )
    home = _home(options, asking)
    named = named_folder(os.environ)
    if Home.at(named).root != home.root:
        check_can_lead(named, home.root)
    os.environ["TORPOR_HOME"] = str(home.root)  # from here on this process speaks of that one
    standing = Standing.of(home, named, os.environ)
    quota = _quota(options, standing, asking)
    bucket = second_copy(
        standing,
        asking,
        wanted=options.s3,
        given=options.s3_values,
        passphrase=options.passphrase,
        untested=options.untested,
    )
    keep = _keep(options, standing, asking)
    return standing, Answers(home, quota, bucket, keep, _tray(options, standing, asking))


def _home(options: Options, asking: bool) -> Home:
    now = Home.from_environment(os.environ)
    if options.home is not None:
        return usable_home(str(options.home), now)
    if not asking:
        return usable_home(str(now.root), now)
    about = "Backups, index, log and settings: one folder of yours, on a disk of this machine."
    questions.head(1, "Where shall everything lie?", about)
    return questions.ask("Folder", str(now.root), lambda text: usable_home(text, now))


def named_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder where everybody looks for the home first, wherever it leads."""
    named = environ.get("TORPOR_HOME")
    folder = Path(named).expanduser() if named else Path(platformdirs.user_data_dir("torpor", appauthor=False))
    return Path(os.path.abspath(folder))


def usable_home(text: str, now: Home) -> Home:
    """Return the home of a folder that can be one.

    Raises: BadInput, Conflict where there is a home already, UnsafeHome, NetworkHome, StoreFailed.
    """
    from ..daemon.mounts import refuse_network_home
    from ..daemon.settings import load_settings

    folder = Path(text).expanduser()
    if not folder.is_absolute() or not text.isprintable():
        raise BadInput(f"{text} is not an absolute path", hint="Write it from / or ~ on.")
    wanted = Home.at(folder)
    if now.store.is_dir() and not _same(wanted.root, now.root):
        raise Conflict(
            f"there is a home already, {now.root}", hint=f"`torpor home move {folder}` moves everything there."
        )
    if named_folder(os.environ) in wanted.root.parents:
        raise BadInput(f"{wanted.root} lies in the folder that would lead to it", hint="Name a folder beside it.")
    if not load_settings().allow_network_home:
        refuse_network_home(wanted.root)
    _refuse_unwritable(wanted.root)
    refuse_foreign_folder(wanted.root)
    if wanted.root.is_dir() and not wanted.store.is_dir() and set(os.listdir(wanted.root)) - _HARMLESS:
        raise UnsafeHome(f"{wanted.root} holds other files", hint="Name a new or empty folder.")
    return wanted


_HARMLESS = {"config.toml", ".env", "token", "moved-to", "earlier-places", "daemon.lock", "logs", "machine-id"}


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _refuse_unwritable(root: Path) -> None:
    if os.path.lexists(root) and (root.is_symlink() or not root.is_dir()):
        raise UnsafeHome(f"{root} is a symbolic link or not a folder", hint="Name a new or empty folder.")
    above = next(folder for folder in (root, *root.parents) if folder.is_dir())
    if not os.access(above, os.W_OK | os.X_OK):
        raise UnsafeHome(f"you may not write in {above}", hint="Name a folder of yours.")
    disk = os.statvfs(above)
    if disk.f_flag & os.ST_RDONLY or not disk.f_blocks:  # as /proc and its like
        raise UnsafeHome(f"{above} is on no disk that can be written", hint="Name a folder on a disk.")


def _quota(options: Options, standing: Standing, asking: bool) -> str:
    if options.quota is not None:
        return usable_quota(options.quota, standing)
    if not asking:
        return usable_quota(standing.quota, standing)
    share = in_words(standing.limits(standing.quota).hard_bytes)
    about = f"{in_words(standing.free_bytes)} of {in_words(standing.disk_bytes)} are free there. "
    about += f"{standing.quota} is {share}; a size such as 200GB will do, too. It is never passed."
    questions.head(2, "How much of that disk may it take?", about)
    return questions.ask("At most", standing.quota, lambda text: usable_quota(text, standing))


def usable_quota(text: str, standing: Standing) -> str:
    """Return a limit that can be meant. Raises: InvalidSettings, BadInput for one that holds nothing."""
    limit = standing.limits(text).hard_bytes
    if limit < 16 << 20:
        raise BadInput(
            f"{text} is {in_words(limit)}: no backup fits in", hint="Write 20% (of the disk), 200GB or 1.5T."
        )
    return text.strip()


def _keep(options: Options, standing: Standing, asking: bool) -> Keep:
    wanted = options.keep
    if wanted == "service" and standing.no_service is not None:
        raise BadInput(
            f"there can be no service: {standing.no_service}", hint="--autostart starts it at login instead."
        )
    if wanted is not None:
        return wanted
    proposed = standing.keep
    if not asking or (standing.is_home and proposed != "no"):
        return proposed
    questions.say("")
    able = "service" if standing.no_service is None else "autostart"
    if able == "autostart" and not standing.desktop:
        return "no"
    how = "as a systemd user service" if able == "service" else "by your desktop's autostart"
    if questions.agree(f"Start the daemon at each login, {how}?", proposed=proposed != "no"):
        return able  # type: ignore[return-value]
    return "no"


def _tray(options: Options, standing: Standing, asking: bool) -> bool:
    if options.tray is not None:
        return options.tray
    if not asking or standing.tray or not standing.desktop:
        return standing.tray
    return questions.agree("Show an icon in the tray at each login?", proposed=False)
