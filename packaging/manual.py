"""The manual page torpor(1), from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator

from command_tree import Argument, Command, Option

_FILES = {
    "~/.local/share/torpor": "The home folder, in which everything lies (TORPOR_HOME names another).",
    "~/.local/share/torpor/config.toml": "Settings, where there are any.",
    "~/.local/share/torpor/logs/daemon.log": "The daemon's log, which rotates.",
    "/usr/lib/systemd/user/torpor.service": "The unit of the daemon, which nothing enables but the user.",
}
_ENVIRONMENT = {
    "TORPOR_HOME": "The home folder.",
    "TORPOR_URL, TORPOR_TOKEN": "A daemon that shares no files with this process: where it listens, and its token.",
    "TORPOR_DEBUG": "If set, defects show where they happened.",
}


def manual(tree: Command, version: str, date: str, statuses: dict[int, str]) -> str:
    """Return the page as roff. `date` is ISO 8601, `statuses` what exit statuses mean."""
    return "\n".join(_lines(tree, version, date, statuses)) + "\n"


def _lines(tree: Command, version: str, date: str, statuses: dict[int, str]) -> Iterator[str]:
    yield f'.TH TORPOR 1 "{date}" "torpor {_text(version)}" "User Commands"'
    yield from (".SH NAME", r"torpor \- put a running multimodal model session to sleep, and wake it again")
    yield from (".SH SYNOPSIS", r".B torpor", r".I COMMAND", r".RI [ OPTION ]...")
    yield from (".SH DESCRIPTION", _text(tree.help))
    yield from (".SH OPTIONS", *_parameters(tree))
    yield ".SH COMMANDS"
    for command in tree.walk():
        if command.words and not command.commands:
            yield from _section(command)
    yield from (".SH EXIT STATUS", *_terms({"0": "Done."} | {str(k): v for k, v in sorted(statuses.items())}))
    yield from (".SH ENVIRONMENT", *_terms(_ENVIRONMENT))
    yield from (".SH FILES", *_terms(_FILES))


def _section(command: Command) -> Iterator[str]:
    call = " ".join(("torpor", *command.words))
    arguments = " ".join(f"\\fI{_text(each.shown)}\\fR" for each in command.arguments)
    yield f".SS {_text(call)} {arguments}".rstrip()
    yield _text(command.help)
    yield from _parameters(command)


def _parameters(command: Command) -> Iterator[str]:
    for argument in command.arguments:
        if argument.help:
            yield from (".TP", f"\\fI{_text(argument.shown)}\\fR", _text(argument.help))
    for option in command.options:
        yield from (".TP", _names(option), _explained(option))


def _names(option: Option) -> str:
    names = ", ".join(f"\\fB{_text(name)}\\fR" for name in option.names)
    return f"{names} \\fI{_text(option.value)}\\fR" if option.value else names


def _explained(option: Option | Argument) -> str:
    default = getattr(option, "default", "")
    return _text(option.help + (f" (Unless given: {default}.)" if default else "")) or r"\&"


def _terms(terms: dict[str, str]) -> Iterator[str]:
    for term, meaning in terms.items():
        yield from (".TP", f"\\fB{_text(term)}\\fR", _text(meaning))


def _text(text: str) -> str:
    """Escape what roff would read as its own."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("~", "\\(ti")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
