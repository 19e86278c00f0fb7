"""The commands of `torpor` as plain data, read from the command line itself: for the manual and the completions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["flag", "word", "path"]


@dataclass(frozen=True, slots=True)
class Option:
    """One option; `value` is what stands for its value, empty for a flag."""

    names: tuple[str, ...]
    kind: Kind
    value: str
    default: str
    help: str


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument, as a synopsis shows it."""

    shown: str
    kind: Kind
    help: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command, or a group of them; `words` is how it is called, without `torpor`."""

    words: tuple[str, ...]
    help: str
    options: tuple[Option, ...]
    arguments: tuple[Argument, ...]
    commands: tuple[Command, ...]

    def walk(self) -> Iterator[Command]:
        """Yield this command and all below it."""
        yield self
        for each in self.commands:
            yield from each.walk()


def command_tree() -> Command:
    """Return the whole command line of the `torpor` that is installed."""
    import typer
    from torpor.cli.main import app

    return _command(typer.main.get_command(app), ())


def _command(source: Any, words: tuple[str, ...]) -> Command:
    shown = [each for each in source.params if not getattr(each, "hidden", False)]
    below = getattr(source, "commands", {})
    return Command(
        words,
        " ".join((source.help or "").split()),
        tuple(_option(each) for each in shown if each.param_type_name == "option"),
        tuple(_argument(each) for each in shown if each.param_type_name == "argument"),
        tuple(_command(each, (*words, name)) for name, each in below.items() if not each.hidden),
    )


def _kind(parameter: Any) -> Kind:
    if getattr(parameter, "is_flag", False):
        return "flag"
    return "path" if "Path" in str(parameter.type_descriptor.annotation) else "word"


def _option(source: Any) -> Option:
    kind = _kind(source)
    value = "" if kind == "flag" else (source.metavar or source.name.strip("_").replace("_", "-")).upper()
    plain = not callable(source.default) and source.default not in (None, "", (), []) and kind != "flag"
    names = tuple(sorted((*source.opts, *source.secondary_opts), key=lambda name: name.startswith("--")))
    return Option(names, kind, value, str(source.default) if plain else "", " ".join((source.help or "").split()))


def _argument(source: Any) -> Argument:
    name = (source.metavar or source.name.replace("_", "-")).strip("[]").upper()
    name += "..." if source.nargs == -1 else ""
    shown = name if source.required else f"[{name}]"
    return Argument(shown, _kind(source), " ".join((source.help or "").split()))
