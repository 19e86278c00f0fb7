"""The third question of `torpor init`: a second copy in S3, tried out before anything is written."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ulid import ULID

from ..state.errors import BadInput, KeyMissing, Offline, StoreFailed, Timeout, TorporError, WrongPassphrase
from ..store.files import translated
from . import questions
from .standing import Standing

if TYPE_CHECKING:
    from ..daemon.remote_settings import S3Settings
    from ..daemon.remote_trial import Trial

MAX_SECRET_CHARS = 64 << 10


@dataclass(frozen=True, slots=True)
class Bucket:
    """The second copy as it is to be. `trial` is what trying it showed, None without; `passphrase` is for its key."""

    settings: S3Settings
    trial: Trial | None
    passphrase: str | None = field(default=None, repr=False)


def second_copy(
    standing: Standing,
    asking: bool,
    *,
    wanted: bool | None,
    given: Mapping[str, str],
    passphrase: str | None,
    untested: bool,
) -> Bucket | None:
    """Return the second copy that is wanted, None for none. What is so already is not tried again without being asked.

    Raises: InvalidSettings, KeyMissing, WrongPassphrase, and why the bucket cannot be used.
    """
    if wanted is None and (given or (passphrase is not None and standing.s3 is not None)):
        wanted = True
    if passphrase is not None and (wanted is False or not (wanted or asking)):
        raise BadInput("a passphrase is for a second copy, and there is none", hint="Name its bucket: --s3-bucket.")
    if wanted is None and not asking:
        if standing.s3 is not None and standing.s3_at_home:
            return Bucket(standing.s3, None)
        wanted = standing.s3 is not None
    if asking and wanted is not False and not given:
        about = "Any S3-compatible storage of yours; without it nothing leaves this machine. It can be added later."
        questions.head(3, "A second copy in S3?", about)
        wanted = wanted or questions.agree("S3", proposed=standing.s3 is not None)
        return _ask_bucket(standing, passphrase) if wanted else None
    return _given_bucket(standing, given, passphrase, untested) if wanted else None


def _given_bucket(standing: Standing, given: Mapping[str, str], passphrase: str | None, untested: bool) -> Bucket:
    """Take the bucket of the options. Raises: InvalidSettings, and why it cannot be used."""
    settings = standing.s3_with({**standing.s3_values, **given})
    try:
        trial = None if untested else try_bucket(settings)
    except (Offline, Timeout) as error:  # it may be right, and not reachable from here today
        error.hint = f"{error.hint} `--s3-untested` takes the answers all the same."
        raise
    if trial is not None and trial.encrypted and passphrase is None and not standing.has_key(trial.repository):
        raise KeyMissing(
            "what is in the bucket is encrypted, and this machine does not have the key",
            hint="Give the passphrase with --passphrase-file FILE.",
        )
    return Bucket(settings, trial, _tried_passphrase(standing, settings, trial, passphrase))


def _tried_passphrase(
    standing: Standing, settings: S3Settings, trial: Trial | None, passphrase: str | None
) -> str | None:
    """Return a given passphrase, None where this machine has what it opens. Raises: WrongPassphrase, BadInput."""
    from ..codec.passphrase import check_passphrase

    if passphrase is None:
        return None
    if trial is None or not trial.encrypted:
        check_passphrase(passphrase)
        return passphrase
    _opens(settings, passphrase)
    return None if standing.has_key(trial.repository) else passphrase


def _ask_bucket(standing: Standing, passphrase: str | None) -> Bucket | None:
    """Ask for the bucket until one works, or none is wanted."""
    values = dict(standing.s3_values)
    while True:
        values = _ask_values(values)
        try:
            settings = standing.s3_with(values)
        except TorporError as error:
            questions.trouble(error)
            continue
        tried = _try_aloud(settings)
        if isinstance(tried, TorporError):
            match _after_trouble(tried):
                case "w":
                    return None
                case "k":
                    return Bucket(settings, None, passphrase)
            continue
        if passphrase is not None:
            return Bucket(settings, tried, _tried_passphrase(standing, settings, tried, passphrase))
        return Bucket(settings, tried, _ask_passphrase(standing, settings, tried))


def _ask_values(known: Mapping[str, str]) -> dict[str, str]:
    values = dict(known)
    values["endpoint"] = questions.ask("Address (for AWS: aws)", known.get("endpoint", "aws"), str)
    if values["endpoint"].lower() == "aws":
        values["endpoint"] = ""
        values["region"] = questions.ask("Region", known.get("region") or "us-east-1", str)
    values["bucket"] = questions.ask("Bucket", known.get("bucket", ""), _named)
    values["access_key"] = questions.ask("Access key", known.get("access_key", ""), str)
    if values["access_key"]:
        same = known.get("secret_key") if values["access_key"] == known.get("access_key") else None
        values["secret_key"] = questions.ask_secret("Secret key (not shown)", same) or ""
    return values


def _named(text: str) -> str:
    if not text:
        raise BadInput("the bucket needs a name", hint="It must be there already; your provider lists it.")
    return text


def _try_aloud(settings: S3Settings) -> Trial | TorporError:
    questions.say("     Trying it: list, write, read, delete …", "dim")
    try:
        trial = try_bucket(settings)
    except TorporError as error:
        questions.trouble(error)
        return error
    questions.say(f"     {trial_in_words(trial)}", "green")
    return trial


def _after_trouble(error: TorporError) -> str:
    choices = {"c": "change the answers, or try again", "w": "go on without a second copy"}
    if isinstance(error, (Offline, Timeout)):  # it may be right, and not reachable from here today
        choices["k"] = "keep these answers; what is saved waits here until it can be reached"
    return questions.choose("What now", choices, "c")


def _ask_passphrase(standing: Standing, settings: S3Settings, trial: Trial) -> str | None:
    if standing.has_key(trial.repository):
        return None
    if not trial.encrypted:
        return _new_passphrase()
    while True:
        passphrase = questions.ask_secret("It is encrypted. Its passphrase")
        try:
            _opens(settings, passphrase or "")
            return passphrase
        except WrongPassphrase as error:
            questions.trouble(error)


def _new_passphrase() -> str | None:
    from ..codec.passphrase import check_passphrase

    questions.say("     A passphrase encrypts everything before it leaves. Who loses it loses the second copy.", "dim")
    while True:
        typed = questions.ask_secret("Passphrase (Enter: not encrypted)")
        if not typed:
            return None
        try:
            check_passphrase(typed)
            if questions.ask_secret("Once more") == typed:
                return typed
            raise BadInput("the two passphrases are not the same", hint="Type it again.")
        except BadInput as error:
            questions.trouble(error)


def try_bucket(settings: S3Settings) -> Trial:
    """Do once what the second copy does there. Raises: as daemon/remote_trial.py."""
    from ..daemon.remote_trial import try_out

    try:
        return try_out(settings, time.time, lambda: str(ULID()))
    except Offline as error:
        if error.hint == Offline.default_hint:  # which comforts those whose backups wait
            error.hint = "Check the address, and whether this machine is online. Nothing was changed."
        raise


def _opens(settings: S3Settings, passphrase: str) -> None:
    from ..daemon.remote_trial import opens

    opens(settings, passphrase)


def trial_in_words(trial: Trial) -> str:
    """Say what trying a bucket showed."""
    said = "It works: listed, wrote, read and deleted an object."
    if trial.repository is not None:
        said += f" It holds repository {trial.repository[:8]}…{', encrypted' if trial.encrypted else ''}."
    if not trial.conditional_put:
        said += " It lacks conditional writes, so each new name is looked up first."
    if abs(trial.ahead_s) > 60:
        said += f" Its clock is {abs(trial.ahead_s):.0f} s {'ahead of' if trial.ahead_s > 0 else 'behind'} this one's."
    return said


def secrets_from(file: str, count: int) -> list[str]:
    """Return the first lines of a file, or of stdin for `-`. Raises: BadInput, StoreFailed."""
    try:
        with translated("read", file):
            if file == "-":
                text = sys.stdin.read(MAX_SECRET_CHARS)
            else:
                with Path(file).open(encoding="utf-8") as source:
                    text = source.read(MAX_SECRET_CHARS)
    except UnicodeDecodeError as error:
        raise BadInput(f"{file} is not text in UTF-8") from error
    except StoreFailed as error:
        error.hint = "Name a file that you may read."
        raise
    lines = text.splitlines()[:count]
    if len(lines) < count or not all(lines):
        raise BadInput(f"{file} has something in fewer than its first {count} lines")
    return lines
