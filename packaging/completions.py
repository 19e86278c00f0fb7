"""Completions of shells, from the commands themselves.

They hold every word, and start no process: a key press answers at once.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator

from command_tree import Command, Kind, Option

_BASH = """\
# bash completion for torpor
_torpor() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} at="" i next
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        next="${{at:+$at }}${{COMP_WORDS[i]}}"
        case "$next" in {paths}) at=$next ;; esac
    done
    case "$at|$before" in
        {path_options}) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        {word_options}) return ;;
    esac
    local words="" files=""
    case "$at" in
{cases}
    esac
    if [[ $files && $word != -* ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
    elif [[ $word == -* || $words != -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
    fi
}}
complete -F _torpor torpor
"""

_ZSH = """\
#compdef torpor
# zsh completion for torpor
_torpor() {{
    local at="" i next
    for ((i = 2; i < CURRENT; i++)); do
        next="${{at:+$at }}${{words[i]}}"
        case "$next" in
            {paths}) at=$next ;;
        esac
    done
    local -a below options
    case "$at|${{words[CURRENT-1]}}" in
        {path_options}) _files; return ;;
        {word_options}) return ;;
    esac
    case "$at" in
{cases}
    esac
    if [[ ${{words[CURRENT]}} == -* ]]; then
        _describe option options
    elif (( $#below )); then
        _describe command below
    fi
}}
if [ "$funcstack[1]" = "_torpor" ]; then _torpor "$@"; else compdef _torpor torpor; fi
"""


def bash(tree: Command) -> str:
    """Return what bash-completion reads."""
    return _BASH.format(paths=_paths(tree), cases=_cases(tree, _bash_case), **_valued(tree))


def zsh(tree: Command) -> str:
    """Return the function that zsh loads by its name."""
    return _ZSH.format(paths=_paths(tree), cases=_cases(tree, _zsh_case), **_valued(tree))


def fish(tree: Command) -> str:
    """Return what fish reads."""
    return "\n".join(("# fish completion for torpor", "complete -c torpor -f", *_fish_lines(tree))) + "\n"


def _paths(tree: Command) -> str:
    return " | ".join(shlex.quote(" ".join(each.words)) for each in tree.walk() if each.words)


def _valued(tree: Command) -> dict[str, str]:
    """Return the patterns of a command and an option of it that takes a value, by the kind of value."""

    def patterns(kind: Kind) -> str:
        found = [
            shlex.quote(f"{' '.join(each.words)}|{name}")
            for each in tree.walk()
            for option in each.options
            if option.kind == kind
            for name in option.names
        ]
        return " | ".join(found or ["''"])

    return {"path_options": patterns("path"), "word_options": patterns("word")}


def _cases(tree: Command, case: Callable[[Command], str]) -> str:
    return "\n".join(f"        {shlex.quote(' '.join(each.words))}) {case(each)} ;;" for each in tree.walk())


def _takes_files(command: Command) -> bool:
    return any(each.kind == "path" for each in command.arguments)


def _bash_case(command: Command) -> str:
    below = [each.words[-1] for each in command.commands]
    options = [name for option in command.options for name in option.names]
    files = " files=1" if _takes_files(command) else ""
    return f"words={shlex.quote(' '.join((*below, *options)))}{files}"


def _zsh_case(command: Command) -> str:
    options = " ".join(_described(name, option.help) for option in command.options for name in option.names)
    if _takes_files(command):
        return f"options=({options}); [[ ${{words[CURRENT]}} == -* ]] || {{ _files; return; }}"
    below = " ".join(_described(each.words[-1], each.help) for each in command.commands)
    return f"below=({below}) options=({options})"


def _described(word: str, meaning: str) -> str:
    return shlex.quote(f"{word}:{_first(meaning)}" if meaning else word)


def _first(meaning: str) -> str:
    """Return the first sentence, as a line beside a word."""
    return meaning.split(". ")[0].rstrip(".")


def _fish_lines(tree: Command) -> Iterator[str]:
    for command in tree.walk():
        here = f"-n {shlex.quote(_fish_condition(command))}"
        for below in command.commands:
            yield f"complete -c torpor {here} -a {below.words[-1]} -d {shlex.quote(_first(below.help))}"
        for option in command.options:
            yield f"complete -c torpor {here} {_fish_option(option)}"
        if _takes_files(command):
            yield f"complete -c torpor {here} -F"


def _fish_condition(command: Command) -> str:
    """Return a test that is true where the words of this command were typed, and none of a command below it."""
    seen = [f"__fish_seen_subcommand_from {word}" for word in command.words]
    if command.commands:
        seen.append(f"not __fish_seen_subcommand_from {' '.join(each.words[-1] for each in command.commands)}")
    return "; and ".join(seen)


def _fish_option(option: Option) -> str:
    names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
    values = {"flag": "", "word": " -x", "path": " -r -F"}[option.kind]
    return f"{names}{values} -d {shlex.quote(_first(option.help))}"
