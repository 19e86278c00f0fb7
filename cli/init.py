"""`torpor init`: three questions, everything set up, and a sample that was saved, woken and compared."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ..state.errors import BadInput, MissingExtra
from ..state.quota import in_words
from . import output, questions
from .first_answers import Answers, Options, gather
from .first_bucket import secrets_from, trial_in_words
from .output import console, duration, show, size
from .setting_up import Done, carry_out
from .standing import Keep, Standing
from .visible import plain

_ENDED = 130


def init(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take what is proposed, and ask nothing.")] = False,
    home: Annotated[Path | None, typer.Option(help="Where everything is to lie: a new or empty folder.")] = None,
    quota: Annotated[
        str | None, typer.Option(help="What it may take: a share of the disk (20%) or a size (200GB).")
    ] = None,
    s3: Annotated[bool | None, typer.Option("--s3/--no-s3", help="A second copy in S3, or none.")] = None,
    s3_endpoint: Annotated[str | None, typer.Option(help="Its address; none for AWS.")] = None,
    s3_bucket: Annotated[str | None, typer.Option(help="The bucket, which is there already.")] = None,
    s3_keys_file: Annotated[
        str | None, typer.Option(help="Read access key and secret key from the first two lines of a file; - is stdin.")
    ] = None,
    s3_region: Annotated[str | None, typer.Option(help="The region, where the storage wants one.")] = None,
    s3_prefix: Annotated[str | None, typer.Option(help="A folder in the bucket.")] = None,
    s3_untested: Annotated[bool, typer.Option("--s3-untested", help="Write the answers without trying them.")] = False,
    passphrase_file: Annotated[
        str | None, typer.Option(help="Encrypt the second copy with the passphrase in a file's first line.")
    ] = None,
    service: Annotated[
        bool | None, typer.Option("--service/--no-service", help="Start the daemon at each login by systemd.")
    ] = None,
    autostart: Annotated[
        bool, typer.Option("--autostart", help="Start it by the desktop's autostart, where there is no systemd.")
    ] = False,
    tray: Annotated[bool | None, typer.Option("--tray/--no-tray", help="Show an icon in the tray at login.")] = None,
    sample: Annotated[bool, typer.Option("--sample/--no-sample", help="Save a small sample and wake it.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Set Torpor up: where everything lies, how much disk it may take, a second copy or not; then prove that it works.

    Nothing is changed before the last answer. Run again, it proposes what is so, and changes only what you say.
    Keys and passphrases are read from files, from S3_ACCESS_KEY and S3_SECRET_KEY, or typed; a command line is for all
    to see.
    """
    given = {"endpoint": s3_endpoint, "bucket": s3_bucket, "region": s3_region, "prefix": s3_prefix}
    if s3_keys_file is not None:
        given["access_key"], given["secret_key"] = secrets_from(s3_keys_file, 2)
    options = Options(
        yes=yes,
        home=home,
        quota=quota,
        s3=s3,
        s3_values=_values(given, s3),
        passphrase=None if passphrase_file is None else secrets_from(passphrase_file, 1)[0],
        untested=s3_untested,
        keep=_keep(service, autostart),
        tray=tray,
    )
    asking = not (yes or as_json) and questions.can_ask()
    tell = output.errors if as_json else output.console  # a program that reads stdout gets JSON, or nothing
    standing, answers = _answers(options, asking, tell)
    if asking:
        questions.say("")
    try:
        done = carry_out(standing, answers, with_sample=sample)
    except KeyboardInterrupt:
        _say(tell, "Ended half way. What was done is whole; `torpor init` goes on with the rest.")
        raise typer.Exit(_ENDED) from None
    show(_as_json(standing, answers, done), as_json, lambda: Group(*_lines(standing, answers, done)))


def _values(given: dict[str, str | None], s3: bool | None) -> dict[str, str]:
    values = {name: value for name, value in given.items() if value is not None}
    if values and s3 is False:
        raise BadInput("--no-s3 and an --s3 option contradict each other", hint="Leave one of them out.")
    return values


def _keep(service: bool | None, autostart: bool) -> Keep | None:
    if autostart:
        if service:
            raise BadInput("--service and --autostart both start it at login", hint="Leave one of them out.")
        return "autostart"
    return None if service is None else "service" if service else "no"


def _say(tell: Console, text: str) -> None:
    tell.print(plain(text, "yellow"), soft_wrap=True)


def _answers(options: Options, asking: bool, tell: Console) -> tuple[Standing, Answers]:
    """Ask. Whoever ends it here has changed nothing."""
    try:
        from ..daemon.remote_trial import CONNECT_S  # noqa: F401  (whether it can be imported)
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{error.name} is not installed: pip install 'torpor[daemon]'") from error
    if asking:
        questions.tell(
            "Torpor keeps your model sessions safe on this machine. Three questions; Enter takes what stands in "
            "brackets, Ctrl-C ends it. Nothing is changed before the last answer."
        )
    try:
        return gather(options, asking)
    except (KeyboardInterrupt, EOFError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second one would cut off what is said now
        tell.print()
        _say(tell, "Ended; nothing was changed.")
        raise typer.Exit(_ENDED) from None


def _as_json(standing: Standing, answers: Answers, done: Done) -> dict[str, Any]:
    bucket, key, sample = answers.bucket, done.key, done.sample
    trial = None if bucket is None else bucket.trial
    return {
        "home": str(answers.home.root),
        "quota": answers.quota,
        "quota_bytes": standing.limits(answers.quota).hard_bytes,
        "s3": None
        if bucket is None
        else {
            "endpoint": bucket.settings.endpoint,
            "bucket": bucket.settings.bucket,
            "prefix": bucket.settings.prefix,
            "tried": trial is not None,
            "conditional_put": None if trial is None else trial.conditional_put,
            "repository": None if trial is None else trial.repository,
            "encrypted": key is not None or (trial is not None and trial.encrypted),
            "key_kept_in": None if key is None else key["kept_in"],
        },
        "daemon": {
            "way": done.way,
            "at_login": answers.keep,
            "pid": done.status["pid"],
            "url": done.status["url"],
            "restarted": done.restarted,
        },
        "tray": answers.tray,
        "changed": done.changed,
        "sample": None
        if sample is None
        else {
            "backup_id": sample.backup_id,
            "saved_anew": sample.saved_anew,
            "bytes_total": sample.bytes_total,
            "seconds": sample.seconds,
            "in_bucket": sample.in_bucket,
            "waits_for": sample.waits_for,
        },
        "overruled": _overruled(),
    }


def _overruled() -> list[str]:
    """Name variables of this shell that go before what was written, for a daemon that is started here by hand."""
    names = ("PERSISTENCE_BACKEND", "S3_ENDPOINT", "S3_BUCKET", "S3_ACCESS_KEY", "S3_SECRET_KEY", "QUOTA")
    return [f"{prefix}{name}" for name in names for prefix in ("TORPOR_", "") if os.environ.get(f"{prefix}{name}")]


def _lines(standing: Standing, answers: Answers, done: Done) -> Iterator[Text | Table]:
    yield _line("home", str(answers.home.root) + ("" if "home" in done.changed else " (as it was)"))
    if "place" in done.changed:
        yield _line("", f"{standing.named} leads there: every command and program finds it")
    limits = standing.limits(answers.quota)
    left = f"{in_words(limits.floor_bytes)} are always left to others"
    yield _line("disk", f"at most {answers.quota}, {in_words(limits.hard_bytes)}; {left}")
    yield from _bucket_lines(answers, done)
    yield _line("daemon", f"{_WAYS[done.way]} (process {done.status['pid']}){', started again' * done.restarted}")
    yield _line("", _LOGINS[answers.keep])
    if answers.tray:
        yield _line("tray", "an icon at each login; now: `torpor tray`")
    if "menu" in done.changed:
        yield _line("menu", "Torpor is in it, and a double click on a .qwnbak file shows what it is")
    yield from _sample_lines(done)
    if names := _overruled():
        yield plain(f"{', '.join(names)} in this shell go before these settings for a daemon that it starts.", "yellow")
    yield plain("")
    yield plain(
        "`torpor open` shows the dashboard, `torpor doctor` looks at everything, `torpor init` changes answers."
    )


_WAYS = {"service": "runs as a systemd user service", "process": "runs by itself, also when this terminal closes"}
_LOGINS = {
    "service": "starts at each login; `torpor service status` shows it",
    "autostart": "starts at each login, by an entry in ~/.config/autostart",
    "no": "does not start by itself after a reboot: `torpor init --service`, or `torpor serve`",
}


def _bucket_lines(answers: Answers, done: Done) -> Iterator[Table]:
    bucket = answers.bucket
    if bucket is None:
        yield _line("second copy", "none: nothing leaves this machine")
        return
    yield _line("second copy", f"{bucket.settings.bucket} at {bucket.settings.endpoint or 'AWS'}")
    if bucket.trial is not None:
        yield _line("", trial_in_words(bucket.trial))
    if done.key is not None:
        kept = "the keyring" if done.key["kept_in"] == "keyring" else "repo.key, a file of yours alone"
        yield _line("encryption", f"on; this machine keeps the key in {kept}")
        yield _line("", "write it down: `torpor key show --recovery`")


def _sample_lines(done: Done) -> Iterator[Table]:
    sample = done.sample
    if sample is None:
        return
    what = "saved, woken, compared and read from the disk" if sample.saved_anew else "woken, compared and read again"
    yield _line("sample", f"{what}: {size(sample.bytes_total)} in {duration(sample.seconds)}")
    if sample.in_bucket:
        yield _line("", "and it is in the bucket")
    elif sample.in_bucket is False:
        yield _line("", f"not in the bucket yet: {sample.waits_for}")


def _line(name: str, text: str) -> Table:
    """Lay out one line; what does not fit goes on below its own beginning."""
    line = Table.grid(padding=(0, 1, 0, 0))
    line.add_column(width=1)
    line.add_column(width=11)
    line.add_column(overflow="fold")
    line.add_row(plain(_mark() if name else "", "green"), plain(name, "bold"), plain(text))
    return line


def _mark() -> str:
    try:
        "✓".encode(console.encoding)
    except UnicodeEncodeError:
        return "+"
    return "✓"
