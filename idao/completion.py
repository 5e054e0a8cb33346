"""The command table as plain values, and what shells need to complete from it.

The scripts know every command, option and choice when they are made, so that a press of Tab starts no
Python. `man/make` reads the same table.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

from idao.errors import UsageError

SHELLS = ("bash", "zsh", "fish")


class Option(NamedTuple):
    names: tuple[str, ...]
    value: str
    """What a person puts after it, in capitals; empty for a switch."""
    help: str
    choices: tuple[str, ...] = ()


class Argument(NamedTuple):
    shown: str
    """As in a usage line: `[PATH…]`."""
    help: str
    choices: tuple[str, ...] = ()


class Command(NamedTuple):
    words: tuple[str, ...]
    """What is typed after `idao`; empty for `idao` itself."""
    help: str
    arguments: tuple[Argument, ...]
    options: tuple[Option, ...]
    children: tuple[str, ...]
    """Next words, for a command that is a family."""

    @property
    def summary(self) -> str:
        """The first sentence, without its full stop."""
        return " ".join(self.help.split("\n\n")[0].split()).split(". ")[0].rstrip(".")


def table() -> list[Command]:
    """Every command, `idao` itself first, each family before its members."""
    from idao import cli

    names: dict[str, list[str]] = {}
    for flag, (field, _) in cli.GLOBAL_FLAGS.items():
        names.setdefault(field, []).append(flag)
    options = [Option(tuple(names.pop(f)), "", text) for f, text in cli.GLOBAL_FLAGS.values() if f in names]
    options += [Option((flag,), value, text) for flag, (_, value, text) in cli.GLOBAL_VALUES.items()]
    options += [
        Option(("-h", "--help"), "", "what a command does"),
        Option(("-V", "--version"), "", "the version"),
    ]
    found = [Command((), "One command for a personal iDAO.", (), tuple(options), ("help", *cli.FAMILIES))]
    topics = Argument("[COMMAND…|exit-codes]", "what to tell about", ("exit-codes", *cli.FAMILIES))
    found.append(Command(("help",), "Tell what a command does.", (topics,), (), ()))
    for word, family in cli.FAMILIES.items():
        found += _commands((word,), cli.command_of(word), family.help)
    return found


def _commands(words: tuple[str, ...], command: Any, text: str) -> Iterator[Command]:
    children = {n: c for n, c in getattr(command, "commands", {}).items() if not c.hidden}
    params = [p for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
    yield Command(
        words,
        (command.help or text).strip(),
        tuple(_argument(p) for p in params if p.param_type_name == "argument"),
        tuple(_option(p) for p in params if p.param_type_name == "option"),
        tuple(children),
    )
    for name, child in children.items():
        yield from _commands((*words, name), child, child.short_help or "")


def _choices(p: Any) -> tuple[str, ...]:
    """What the type names, or a placeholder that spells all of them out: `yes|no|abstain`."""
    if p.metavar and re.fullmatch(r"[a-z0-9-]+(\|[a-z0-9-]+)+", p.metavar):
        return tuple(p.metavar.split("|"))
    return tuple(str(getattr(c, "value", c)) for c in getattr(p.type, "choices", ()))


def _argument(p: Any) -> Argument:
    shown = p.metavar or p.name.upper() + ("…" if p.nargs == -1 else "")
    bare = p.required or shown.startswith("[")
    return Argument(shown if bare else f"[{shown}]", p.help or "", _choices(p))


def _option(p: Any) -> Option:
    choices = _choices(p)
    value = "" if p.is_flag or p.count else p.metavar or "|".join(choices) or p.name.upper()
    return Option((*p.opts, *p.secondary_opts), value, p.help or "", choices)


def script(shell: str) -> str:
    """What to put into a shell's start file. `UsageError` for a shell that is none of `SHELLS`."""
    if shell not in SHELLS:
        raise UsageError(f"no completion for '{shell}'", hint=f"one of: {', '.join(SHELLS)}")
    commands = table()
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands)


def _choices_of(command: Command) -> list[str]:
    return [c for a in command.arguments for c in a.choices]


def _names(command: Command) -> list[str]:
    return [name for o in command.options for name in o.names]


def _with_value(command: Command) -> list[str]:
    return [name for o in command.options if o.value for name in o.names]


def _option_choices(commands: list[Command]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(quoted path and option, what may follow) of each option that has choices."""
    for c in commands:
        for o in c.options:
            if o.choices:
                yield from ((shlex.quote(" ".join([*c.words, name])), o.choices) for name in o.names)


# The walk is the same in every shell: skip options and their values, and go down while the word is a
# child. It leaves `at` (the path so far) and `before` (the option that waits for its value, or
# nothing); `down` are the next commands, `words` or `more` the choices of an argument.

_BASH = r"""# idao completion for bash: idao completion bash > ~/.local/share/bash-completion/completions/idao
_idao() {
    local cur=${COMP_WORDS[COMP_CWORD]} at='' before='' word down words options valued i
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        _idao_at "$at"
        if [[ -n $before ]]; then before=''
        elif [[ " $valued " == *" $word "* ]]; then before=$word
        elif [[ " $down " == *" $word "* ]]; then at="${at:+$at }$word"
        fi
    done
    _idao_at "$at"
    if [[ -n $before ]]; then words=$(_idao_choices "$at" "$before"); options=''
    elif [[ $cur == -* ]]; then words=$options
    else words="$down $words"
    fi
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    [[ ${#COMPREPLY[@]} -gt 0 ]] || compopt -o default 2> /dev/null
}
_idao_at() {
    case $1 in
%(at)s
    *) down='' words='' options='' valued='' ;;
    esac
    options="$options %(globals)s" valued="$valued %(valued)s"
}
_idao_choices() {
    case "$1 $2" in
%(choices)s
    esac
}
complete -F _idao idao
"""


def _bash(commands: list[Command]) -> str:
    at = [
        f"    {shlex.quote(' '.join(c.words))})"
        f" down='{' '.join(c.children)}' words='{' '.join(_choices_of(c))}'"
        f" options='{' '.join(_names(c))}' valued='{' '.join(_with_value(c))}' ;;"
        for c in [commands[0]._replace(options=()), *commands[1:]]
    ]
    return _BASH % {
        "at": "\n".join(at),
        "choices": "\n".join(f"    {key}) echo '{' '.join(c)}' ;;" for key, c in _option_choices(commands)),
        "globals": " ".join(_names(commands[0])),
        "valued": " ".join(_with_value(commands[0])),
    }


_ZSH = r"""#compdef idao
# idao completion for zsh: idao completion zsh > "${fpath[1]}/_idao"
_idao() {
    local at='' before='' word i
    local -a down more options valued choices
    for ((i = 2; i < CURRENT; i++)); do
        word=${words[i]}
        _idao_at "$at"
        if [[ -n $before ]]; then before=''
        elif (( ${valued[(Ie)$word]} )); then before=$word
        elif (( ${down[(I)${(b)word}:*]} )); then at="${at:+$at }$word"
        fi
    done
    _idao_at "$at"
    if [[ -n $before ]]; then
        _idao_choices "$at" "$before"
        if (( $#choices )); then compadd -a choices; else _files; fi
    elif [[ ${words[CURRENT]} == -* ]]; then _describe option options
    elif (( $#down )); then _describe command down
    elif (( $#more )); then compadd -a more; _files
    else _files
    fi
}
_idao_at() {
    down=() more=() options=() valued=()
    case $1 in
%(at)s
    esac
    options+=(%(globals)s) valued+=(%(valued)s)
}
_idao_choices() {
    choices=()
    case "$1 $2" in
%(choices)s
    esac
}
if [[ $funcstack[1] == _idao ]]; then _idao "$@"; else compdef _idao idao; fi
"""


def _zsh(commands: list[Command]) -> str:
    summaries = {c.words: c.summary for c in commands}

    def described(name: str, text: str) -> str:
        return shlex.quote(name + ":" + text.replace(":", r"\:").split("\n")[0])

    def options(c: Command) -> str:
        return " ".join(described(n, o.help) for o in c.options for n in o.names)

    def children(c: Command) -> str:
        return " ".join(described(w, summaries.get((*c.words, w), "")) for w in c.children)

    at = [
        f"    {shlex.quote(' '.join(c.words))}) down=({children(c)}) more=({' '.join(_choices_of(c))})"
        f" options=({options(c)}) valued=({' '.join(_with_value(c))}) ;;"
        for c in [commands[0]._replace(options=()), *commands[1:]]
    ]
    return _ZSH % {
        "at": "\n".join(at),
        "choices": "\n".join(
            f"    {key}) choices=({' '.join(c)}) ;;" for key, c in _option_choices(commands)
        ),
        "globals": options(commands[0]),
        "valued": " ".join(_with_value(commands[0])),
    }


_FISH = r"""# idao completion for fish: idao completion fish > ~/.config/fish/completions/idao.fish
function __idao_at
    set -l at
    set -l before
    for word in (commandline -opc)[2..-1]
        if test -n "$before"
            set before
        else if contains -- "$at $word" $__idao_valued; or contains -- " $word" $__idao_valued
            set before $word
        else if contains -- (string trim -- "$at $word") $__idao_paths
            set at (string trim -- "$at $word")
        end
    end
    test "$at" = "$argv[1]"
end
set -g __idao_paths %(paths)s
set -g __idao_valued %(valued)s
%(lines)s
"""


def _fish(commands: list[Command]) -> str:
    summaries = {c.words: c.summary for c in commands}
    lines = []
    for c in commands:
        where = f"-n {shlex.quote('__idao_at ' + shlex.quote(' '.join(c.words)))}" if c.words else ""
        here = where or "-n '__idao_at \"\"'"
        for word in (*c.children, *_choices_of(c)):
            text = summaries.get((*c.words, word), "")
            lines.append(f"complete -c idao -f {here} -a {shlex.quote(word)} -d {_fish_text(text)}")
        for o in c.options:
            lines.append(f"complete -c idao {where} {_fish_option(o)} -d {_fish_text(o.help)}")
    return _FISH % {
        "paths": " ".join(shlex.quote(" ".join(c.words)) for c in commands if c.words),
        "valued": " ".join(shlex.quote(f"{' '.join(c.words)} {n}") for c in commands for n in _with_value(c)),
        "lines": "\n".join(lines),
    }


def _fish_option(o: Option) -> str:
    names = [f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in o.names]
    value = ["-x", f"-a {shlex.quote(' '.join(o.choices))}"] if o.choices else ["-r"] if o.value else []
    return " ".join(names + value)


def _fish_text(text: str) -> str:
    return "'" + text.split("\n")[0].replace("\\", "\\\\").replace("'", "\\'") + "'"
