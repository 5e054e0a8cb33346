"""Reads the TLA+ that `docs/models` uses and makes Python of it: definitions become functions of a state.

No more of the language than those models need: definitions, junction lists, quantifiers, sets, functions,
EXCEPT, primes. What it does not know it refuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

TOKEN = re.compile(
    r"\s+|(?P<t>/\\|\\/|\\A|\\E|\\in|\\cup|\\div|=>|==|\|->|->|<<|>>|<=|>=|\.\.|\[\]|!|[A-Za-z_][A-Za-z_0-9]*'?"
    r"|\d+|[-+*=#<>~(){}\[\],:])"
)
COMMENT = re.compile(r"\(\*.*?\*\)", re.S)
BINARY: list[dict[str, str]] = [
    {"=>": "=>"},
    {"/\\": "and", "\\/": "or"},
    {"=": "==", "#": "!=", "\\in": "in", "<=": "<=", ">=": ">=", "<": "<", ">": ">"},
    {"\\cup": "|"},
    {"..": ".."},
    {"+": "+", "-": "-"},
    {"*": "*", "\\div": "//"},
]
PYTHON = {"None": "NONE"}
"""Names that mean something else in Python."""


@dataclass(frozen=True)
class Token:
    text: str
    line: int
    col: int


class Functions:
    """[A -> B]: only asked whether something is in it."""

    def __init__(self, domain: Any, image: Any) -> None:
        self.domain, self.image = domain, image

    def __contains__(self, f: Any) -> bool:
        return set(f) == set(self.domain) and all(v in self.image for v in f.values())


def except_(f: Any, path: Iterable[Any], value: Any) -> Any:
    first, *rest = path
    return {**f, first: except_(f[first], rest, value) if rest else value}


class Reader:
    """Recursive descent; `limit` is the column of the junction list that an expression stands in."""

    def __init__(self, text: str) -> None:
        plain = COMMENT.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)
        self.tokens: list[Token] = []
        for number, line in enumerate(plain.split("\n")):
            if re.match(r"-{4}|={4}|EXTENDS|THEOREM", line):
                continue
            at = 0
            while at < len(line):
                found = TOKEN.match(line, at)
                if found is None:
                    raise SyntaxError(f"line {number + 1}: {line[at:]!r}")
                if found["t"]:
                    self.tokens.append(Token(found["t"], number, at))
                at = found.end()
        self.at = 0

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead].text if self.at + ahead < len(self.tokens) else ""

    def take(self, wanted: str = "") -> str:
        text = self.peek()
        if wanted and text != wanted:
            raise SyntaxError(f"line {self.tokens[self.at].line + 1}: {text!r} instead of {wanted!r}")
        self.at += 1
        return text

    def ended(self, limit: int) -> bool:
        """Whether the expression ends here: a token not right of its list's bullets, or a new definition."""
        if self.at >= len(self.tokens):
            return True
        token, before = self.tokens[self.at], self.tokens[self.at - 1]
        return token.line != before.line and token.col <= max(limit, 0)

    def definitions(self) -> dict[str, tuple[list[str], str]]:
        """Name -> (parameters, Python)."""
        out: dict[str, tuple[list[str], str]] = {}
        while self.at < len(self.tokens):
            name = self.take()
            if name in ("CONSTANTS", "VARIABLES"):
                self.names()
                continue
            params = []
            if self.peek() == "(":
                self.take()
                params = self.names()
                self.take(")")
            self.take("==")
            if name in ("vars", "Spec", "Next"):
                while not self.ended(0):
                    self.take()
                continue
            out[name] = params, self.expression(-1)
        return out

    def names(self) -> list[str]:
        found = [self.take()]
        while self.peek() == ",":
            self.take()
            found.append(self.take())
        return found

    def expression(self, limit: int, level: int = 0) -> str:
        if self.peek() in ("/\\", "\\/") and level <= 1:
            return self.junctions()
        if level == len(BINARY):
            return self.postfix(limit)
        left = self.expression(limit, level + 1)
        while not self.ended(limit) and self.peek() in BINARY[level]:
            op = BINARY[level][self.take()]
            right = self.expression(limit, level + 1)
            if op == "=>":
                left = f"((not {left}) or {right})"
            elif op == "..":
                left = f"range({left}, {right} + 1)"
            else:
                left = f"({left} {op} {right})"
        return left

    def junctions(self) -> str:
        """A list of bullets in one column."""
        first = self.tokens[self.at]
        word = BINARY[1][first.text]
        items = []
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            if (token.text, token.col) != (first.text, first.col):
                break
            self.take()
            items.append(self.expression(first.col))
        return "(" + f" {word} ".join(items) + ")"

    def postfix(self, limit: int) -> str:
        value = self.atom(limit)
        while not self.ended(limit) and self.peek() == "[":
            self.take()
            value += f"[{self.expression(-1)}]"
            self.take("]")
        return value

    def atom(self, limit: int) -> str:
        token = self.peek()
        if token in ("\\A", "\\E"):
            return self.quantified(limit)
        if token == "~":
            self.take()
            return f"(not {self.postfix(limit)})"
        if token == "(":
            self.take()
            inner = self.expression(-1)
            self.take(")")
            return f"({inner})"
        if token == "{":
            return self.set()
        if token == "[":
            return self.function()
        if token == "UNCHANGED":
            self.take()
            return f"assign({self.take()!r}, None)"
        if token.isdigit():
            return self.take()
        if not re.fullmatch(r"[A-Za-z_]\w*'?", token):
            raise SyntaxError(f"line {self.tokens[self.at].line + 1}: {token!r}")
        self.take()
        if token.endswith("'"):
            self.take("=")
            return f"assign({token[:-1]!r}, {self.expression(limit, 3)})"
        if self.peek() == "(":
            self.take()
            args = [self.expression(-1)]
            while self.peek() == ",":
                self.take()
                args.append(self.expression(-1))
            self.take(")")
            return f"{'len' if token == 'Cardinality' else token}({', '.join(args)})"
        return PYTHON.get(token, token)

    def bounds(self) -> list[tuple[str, str]]:
        out = []
        while True:
            names = self.names()
            self.take("\\in")
            among = self.expression(-1, 3)
            out += [(name, among) for name in names]
            if self.peek() != ",":
                return out
            self.take()

    def quantified(self, limit: int) -> str:
        word = {"\\A": "all", "\\E": "any"}[self.take()]
        bounds = self.bounds()
        self.take(":")
        body = self.expression(limit)
        return f"{word}({body} " + " ".join(f"for {n} in {s}" for n, s in bounds) + ")"

    def set(self) -> str:
        self.take("{")
        if self.peek(1) == "\\in":
            [(name, among)] = self.bounds()
            self.take(":")
            test = self.expression(-1)
            self.take("}")
            return f"frozenset({name} for {name} in {among} if {test})"
        items = [PYTHON.get(name, name) for name in self.names()]
        self.take("}")
        return "frozenset({" + ", ".join(items) + "})"

    def function(self) -> str:
        self.take("[")
        if self.peek(1) == "\\in":
            [(name, among)] = self.bounds()
            self.take("|->")
            value = self.expression(-1)
            self.take("]")
            return "{" + f"{name}: {value} for {name} in {among}" + "}"
        if self.peek(1) == "EXCEPT":
            old = self.take()
            self.take("EXCEPT")
            self.take("!")
            path = []
            while self.peek() == "[":
                self.take()
                path.append(self.expression(-1))
                self.take("]")
            self.take("=")
            value = self.expression(-1)
            self.take("]")
            return f"except_({old}, [{', '.join(path)}], {value})"
        domain = self.expression(-1)
        self.take("->")
        image = self.expression(-1)
        self.take("]")
        return f"Functions({domain}, {image})"


class Model:
    """The definitions of a module as functions, over constants and a state that are set as attributes."""

    def __init__(self, text: str, **constants: Any) -> None:
        self.changes: dict[str, Any] = {}
        self.scope: dict[str, Any] = {
            "except_": except_, "Functions": Functions, "assign": self._assign,
            **{PYTHON.get(name, name): value for name, value in constants.items()},
        }  # fmt: skip
        found = Reader(text).definitions()
        plain = [name for name, (params, _) in found.items() if not params]
        for name, (params, body) in found.items():
            body = re.sub(rf"\b({'|'.join(plain)})\b(?!')", r"\1_()", body)
            if name == "Init":
                # At the start `v = e` says what v is.
                body = re.sub(r"\((\w+) == ", r"assign('\1', ", body)
            if params:
                exec(f"def {name}({', '.join(params)}): return {body}", self.scope)
            else:
                exec(f"def {name}_(): return {body}", self.scope)

    def _assign(self, name: str, value: Any) -> bool:
        if value is not None:
            self.changes[name] = value
        return True

    def set(self, **state: Any) -> None:
        self.scope.update(state)

    def holds(self, name: str) -> bool:
        """Whether a definition without parameters is true of the state."""
        return bool(self.scope[name + "_"]())

    def act(self, name: str, *args: Any) -> dict[str, Any] | None:
        """What an action changes, or None where it cannot be taken."""
        self.changes = {}
        return dict(self.changes) if self.scope[name](*args) else None

    def start(self) -> dict[str, Any]:
        self.changes = {}
        self.scope["Init_"]()
        return dict(self.changes)
