"""`gateway completion`: what a shell completes, made from the commands' own parsers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import NamedTuple

from kernel.cli import parser

SHELLS = ("bash", "zsh", "fish")


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = """\
Print a script that has the shell complete commands, options and their values. It is made from this version's commands:
make it anew after an update, or at every start of the shell, as below."""
    parser.epilog = """\
examples:
  eval "$(gateway completion bash)"                                   # in ~/.bashrc
  eval "$(gateway completion zsh)"                                    # in ~/.zshrc, after compinit
  gateway completion fish > ~/.config/fish/completions/gateway.fish
"""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))


def run(args: argparse.Namespace) -> int:
    make = {"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell]
    sys.stdout.write("\n".join(make(list(nodes()))) + "\n")
    return 0


class Word(NamedTuple):
    """A word that may come, and what it is."""

    word: str
    about: str


class Option(NamedTuple):
    """An option; `values` are all it takes, `file` tells that it takes a path, `takes` that it takes anything at all."""

    names: tuple[str, ...]
    about: str
    values: tuple[str, ...]
    file: bool
    takes: bool


class Node(NamedTuple):
    """What may come after `path`: a command, or an action of one."""

    path: tuple[str, ...]
    words: tuple[Word, ...]
    options: tuple[Option, ...]


def nodes() -> Iterator[Node]:
    """All commands and actions, the program itself first."""
    yield from _nodes(parser(), ())


def _nodes(command: argparse.ArgumentParser, path: tuple[str, ...]) -> Iterator[Node]:
    words: list[Word] = []
    options: list[Option] = []
    below: dict[str, argparse.ArgumentParser] = {}
    # argparse has no other way to ask what it was told.
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            below = action.choices
            words += [Word(each.dest, each.help or "") for each in action._choices_actions]
        elif action.option_strings:
            options.append(_option(action))
        else:
            words += [Word(str(choice), "") for choice in action.choices or ()]
    yield Node(path, tuple(words), tuple(options))
    for name, sub in below.items():
        yield from _nodes(sub, (*path, name))


def _option(action: argparse.Action) -> Option:
    return Option(
        names=tuple(action.option_strings),
        about=action.help or "",
        values=tuple(map(str, action.choices or ())),
        file=action.metavar == "FILE",
        takes=action.nargs != 0,
    )


def _plain(text: str) -> str:
    """`text` for between single quotes, in all three shells."""
    return (
        text.replace("'", "")
        .replace("\\", "")
        .replace(":", ",")
        .replace("%%", "%")
        .replace("[", "(")
        .replace("]", ")")
    )


def _walk(found: list[Node]) -> str:
    """A `case` pattern for every place below the program."""
    return "|".join(f"'{' '.join(node.path)}'" for node in found if node.path)


def _bash(found: list[Node]) -> Iterator[str]:
    yield "_gateway() {"
    yield "  local path='' word cur=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}"
    yield '  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do'
    yield f'    case "${{path:+$path }}$word" in {_walk(found)}) path="${{path:+$path }}$word" ;; esac'
    yield "  done"
    yield '  case "$path $previous" in'
    for node in found:
        for option in node.options:
            cases = "|".join(f"'{' '.join(node.path)} {name}'" for name in option.names)
            if option.values:
                yield f"    {cases}) COMPREPLY=($(compgen -W '{' '.join(option.values)}' -- \"$cur\")); return ;;"
            elif option.file:
                yield f'    {cases}) COMPREPLY=($(compgen -f -- "$cur")); return ;;'
            elif option.takes:
                yield f"    {cases}) COMPREPLY=(); return ;;"
    yield "  esac"
    yield '  case "$path" in'
    for node in found:
        words = [word for word, _ in node.words] + [name for option in node.options for name in option.names]
        yield f"    '{' '.join(node.path)}') COMPREPLY=($(compgen -W '{' '.join(words)}' -- \"$cur\")) ;;"
    yield "  esac"
    yield "}"
    yield "complete -o filenames -F _gateway gateway"


def _zsh(found: list[Node]) -> Iterator[str]:
    yield "#compdef gateway"
    yield "_gateway() {"
    yield "  local at='' word previous=${words[CURRENT-1]}"
    yield "  local -a offered"
    yield '  for word in "${(@)words[2,CURRENT-1]}"; do'
    yield f'    case "${{at:+$at }}$word" in {_walk(found)}) at="${{at:+$at }}$word" ;; esac'
    yield "  done"
    yield '  case "$at $previous" in'
    for node in found:
        for option in node.options:
            cases = "|".join(f"'{' '.join(node.path)} {name}'" for name in option.names)
            if option.values:
                yield f"    {cases}) compadd -- {' '.join(option.values)}; return ;;"
            elif option.file:
                yield f"    {cases}) _files; return ;;"
            elif option.takes:
                yield f"    {cases}) return ;;"
    yield "  esac"
    yield '  case "$at" in'
    for node in found:
        told = [f"'{word}:{_plain(about)}'" for word, about in node.words]
        told += [f"'{name}:{_plain(option.about)}'" for option in node.options for name in option.names]
        yield f"    '{' '.join(node.path)}') offered=({' '.join(told)}) ;;"
    yield "  esac"
    yield "  _describe gateway offered"
    yield "}"
    yield "compdef _gateway gateway"


def _fish(found: list[Node]) -> Iterator[str]:
    yield "complete -c gateway -f"
    for node in found:
        if node.path:
            seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in node.path)
            actions = " ".join(word for word, _ in node.words)
            words_when = f"{seen}; and not __fish_seen_subcommand_from {actions}" if actions else seen
        else:
            seen = words_when = "__fish_use_subcommand"
        for word, about in node.words:
            yield f"complete -c gateway -n '{words_when}' -a {word} -d '{_plain(about)}'"
        for option in node.options:
            flags = " ".join(
                f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names
            )
            takes = " -r" if option.takes else ""
            if option.file:
                takes += " -F"
            elif option.values:
                takes += f" -a '{' '.join(option.values)}'"
            yield f"complete -c gateway -n '{seen}' {flags}{takes} -d '{_plain(option.about)}'"
