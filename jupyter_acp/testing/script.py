"""From the text of a prompt to directives: one a line, `/name`, words, and `key=value` for what is optional."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .turn import Turn
from .wire import INVALID_PARAMS, JsonObject, RpcError


class ScriptError(RpcError):
    """The prompt asks for a directive that does not exist, or in a wrong way."""

    def __init__(self, message: str) -> None:
        super().__init__(INVALID_PARAMS, message)


@dataclass(frozen=True, slots=True)
class Arguments:
    """What stands behind the name: `text` without the options before it, `words` without any option."""

    text: str
    words: tuple[str, ...]
    options: Mapping[str, str]

    def word(self, index: int, default: str) -> str:
        """Word `index`, or `default`."""
        return self.words[index] if index < len(self.words) else default

    def number(self, index: int, default: float) -> float:
        """Word `index` as a number."""
        return float(self.word(index, str(default)))

    def count(self, index: int, default: int) -> int:
        """Word `index` as a whole number."""
        return int(self.word(index, str(default)))

    def option(self, key: str, default: str = "") -> str:
        """An option, or `default`."""
        return self.options.get(key, default)

    def seconds(self, key: str, default: float = 0.0) -> float:
        """An option as a number."""
        return float(self.options.get(key, default))


@dataclass(frozen=True, slots=True)
class Directive:
    """One directive: how it is written, what it does."""

    name: str
    usage: str
    help: str
    options: frozenset[str]
    run: Callable[[Turn, Arguments], None]


@dataclass(slots=True)
class Registry:
    """All directives by name."""

    directives: dict[str, Directive] = field(default_factory=dict)

    def directive(
        self, usage: str, *options: str
    ) -> Callable[[Callable[[Turn, Arguments], None]], Callable[[Turn, Arguments], None]]:
        """Register a function as the directive that `usage` begins with; its docstring is the help."""

        def register(run: Callable[[Turn, Arguments], None]) -> Callable[[Turn, Arguments], None]:
            name = usage.split()[0].removeprefix("/")
            help = " ".join((run.__doc__ or "").split())
            self.directives[name] = Directive(name, usage, help, frozenset(options), run)
            return run

        return register

    def parse(self, text: str) -> list[tuple[Directive, Arguments]]:
        """The directives of a prompt, in order; other lines are comments. ScriptError for an unknown one."""
        script = []
        for line in text.splitlines():
            line = line.strip()
            if not line.startswith("/") or line == "/":
                continue
            name, _, rest = line[1:].partition(" ")
            if name not in self.directives:
                raise ScriptError(f"unknown directive /{name}; /help lists them")
            directive = self.directives[name]
            script.append((directive, _arguments(rest.strip(), directive.options)))
        return script


def _arguments(rest: str, known: frozenset[str]) -> Arguments:
    options: dict[str, str] = {}
    text = rest
    while True:
        first, _, after = text.partition(" ")
        key, is_option, value = first.partition("=")
        if not is_option or key not in known or (value[:1] in "\"'" and value):
            break
        options[key] = value
        text = after.lstrip()
    try:
        tokens = shlex.split(rest)
    except ValueError:  # an odd quote in plain text
        tokens = rest.split()
    words = []
    for token in tokens:
        key, is_option, value = token.partition("=")
        if is_option and key in known:
            options[key] = value
        else:
            words.append(token)
    return Arguments(text.replace("\\n", "\n"), tuple(words), options)


def prompt_text(prompt: list[JsonObject]) -> str:
    """What the script is read from: the last text block; those before it may be an older conversation."""
    texts = [block["text"] for block in prompt if block.get("type") == "text"]
    return str(texts[-1]) if texts else ""
