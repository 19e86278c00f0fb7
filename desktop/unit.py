"""The systemd unit of the daemon: its text, and what quoting a path needs in it.

Everything that a *user's* manager can keep a service to is in it; what it cannot is left out knowingly:

- `IPAddressDeny` and `DevicePolicy` want BPF, which only the system has;
- `ProtectProc`, `PrivatePIDs` and `ProcSubset` want a /proc of its own; `ProtectHostname`, `ProtectClock` and
  `CapabilityBoundingSet` guard what no user may change anyway;
- `PrivateTmp` would hide files in /tmp that somebody wants imported or watched; `ProtectHome` those at home;
- `PrivateNetwork` and `RestrictNetworkInterfaces` would take away 127.0.0.1 and the bucket;
- `MemoryDenyWriteExecute` is what libraries that make code at run time break on, torch in the import worker first.

What wants a mount namespace of its own (the read-only file system and its kind) needs a user namespace first, and that
is not to be had everywhere; a service that asks for one in vain does not start. So it is said whether to ask: the unit
without it keeps the filter of system calls, the limits and the priorities.

Source: systemd.service(5), systemd.exec(5), systemd.resource-control(5), as of version 252; seen with 252.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..state.errors import BadInput

UNIT = "torpor.service"
WATCHDOG_S = 180
STOP_S = 90  # connections that are busy get 30 s of it, chores 10 s
DEFAULT_HOME = "%h/.local/share/torpor"  # of a unit that is for every user of a machine
# Exit statuses that another start does not change: settings, a refused home, a daemon that runs, what is missing.
FINAL_STATUSES = (2, 4, 5, 6, 9)

_TEXT = """\
[Unit]
Description=Torpor keeps backups of model sessions
Documentation=man:torpor(1)
StartLimitIntervalSec=15min
StartLimitBurst=5

[Service]
Type=notify
NotifyAccess=main
ExecStartPre=+mkdir -p -m 0700 -- {home_quoted}
ExecStart={command}
Environment={environment}
WorkingDirectory=-{home_plain}
UMask=0077
WatchdogSec={watchdog_s}
TimeoutStartSec=infinity
TimeoutStopSec={stop_s}
Restart=on-failure
RestartSec=5
RestartPreventExitStatus={final}
# Its log is logs/daemon.log in its home, which rotates; the journal has what goes wrong before that is open.
StandardInput=null
StandardOutput=null
StandardError=journal

# Others go first.
Nice=5
IOSchedulingClass=idle
CPUWeight=20
MemoryHigh=15%
MemoryMax=25%
TasksMax=512
OOMPolicy=continue
LimitCORE=0

{isolation}NoNewPrivileges=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM

[Install]
WantedBy=default.target
"""

_ISOLATION = """\
# It writes in its home, and nowhere else but for what is temporary.
PrivateUsers=yes
ProtectSystem=strict
ReadWritePaths={home_quoted} -/tmp -/var/tmp -%h/.aws/sso/cache
PrivateDevices=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
"""


def unit_text(command: Sequence[str], home: str | None = None, *, isolated: bool = False) -> str:
    """Return the unit that runs a command (`torpor serve`) on a home; without one, on every user's default home.

    `isolated` is for where users may have namespaces. Raises: BadInput for a path that no unit can hold.
    """
    for each in (*command, home or ""):
        _check(each)
    folder = DEFAULT_HOME if home is None else _escaped(home)
    return _TEXT.format(
        isolation=_ISOLATION.format(home_quoted=_quoted(folder)) if isolated else "",
        command=" ".join(_argument(each) for each in command),
        environment=_quoted(f"TORPOR_HOME={folder}"),
        home_quoted=_quoted(folder),
        home_plain=folder,
        watchdog_s=WATCHDOG_S,
        stop_s=STOP_S,
        final=" ".join(str(status) for status in FINAL_STATUSES),
    )


def _check(value: str) -> None:
    """Refuse what systemd would misread: controls end a line, and what is not UTF-8 is left out."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadInput("a path that is not UTF-8 cannot stand in a unit", hint="Choose another folder.") from None
    if any(ord(char) < 32 or ord(char) == 127 for char in value) or value != value.strip():
        raise BadInput(f"{value!r} cannot stand in a unit", hint="Choose a folder without line breaks or outer spaces.")


def _escaped(value: str) -> str:
    """Keep a percent sign from being read as a specifier."""
    return value.replace("%", "%%")


def _quoted(value: str) -> str:
    """Write a value as one word, its specifiers as they are."""
    if value and not any(char in " \"'\\;#" for char in value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _argument(value: str) -> str:
    """Write an argument of a command line, in which a dollar begins a variable."""
    return _quoted(_escaped(value).replace("$", "$$"))
