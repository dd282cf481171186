"""An agent's words made fit to be shown. Pure functions; the rule: nothing an agent writes may act.

JupyterLab does not sanitise the outputs of a cell that was run in this session, so the Markdown that goes into a
notebook must be harmless by itself: no HTML, no script address, no picture that is fetched (its address could carry
away what the agent has read).
"""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Final

_CONTROL: Final = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
_FENCE: Final = re.compile(r"[ \t]*(`{3,}(?=[^`]*$)|~{3,})[ \t]*([\w+#.-]*)")
_CODE_SPAN: Final = re.compile(r"(?<![\\`])(`+)(?!`)([^\n]*?[^`\n])\1(?!`)")
_SCRIPT: Final = re.compile(r"(javascript|vbscript)(\\?\s*:)", re.IGNORECASE)
_TAG: Final = re.compile(r"<[A-Za-z/!?]")
_SPECIAL: Final = re.compile(r"[\\`*_{}\[\]()#+.!|~$:<>&\"'-]")
_ALLOWED_FORMAT: Final = frozenset("\u200d\ufe0f")  # joiner and emoji presentation: parts of ordinary emoji


def printable(text: str) -> str:
    """`text` without terminal control sequences; line ends and tabs stay."""
    return _CONTROL.sub("", text.replace("\r\n", "\n"))


def visible(text: str) -> str:
    """`text` with everything that hides or reorders itself spelt out, such as ``⟨U+202E⟩``: what is approved must be
    what is read."""
    return "".join(f"⟨U+{ord(c):04X}⟩" if _hides(c) else c for c in text)


def _hides(char: str) -> bool:
    if char.isascii():
        return char not in "\n\t" and not char.isprintable()
    category = unicodedata.category(char)
    # format and private use characters, unusual spaces, and the letters that are blank: Hangul fillers, braille blank
    hidden = category in {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"} or char in "\u115f\u1160\u2800\u3164\uffa0"
    return hidden and char not in _ALLOWED_FORMAT


def markdown(text: str) -> str:
    """`text`, which an agent wrote as Markdown, as Markdown that cannot act in a trusted notebook."""
    blocks: list[str] = []
    prose: list[str] = []
    lines = iter(printable(text).split("\n"))
    for line in lines:
        fence = _FENCE.fullmatch(line)
        if fence is None:
            prose.append(line)
            continue
        marker, language = fence.groups()
        indent = len(line) - len(line.lstrip())
        code: list[str] = []
        for inner in lines:
            stripped = inner.strip()
            if len(stripped) >= len(marker) and set(stripped) == {marker[0]}:
                break
            code.append(inner[indent:] if inner[:indent].isspace() else inner)
        blocks += [_prose("\n".join(prose)), _code("\n".join(code), language)]
        prose = []
    blocks.append(_prose("\n".join(prose)))
    return "\n\n".join(block for block in blocks if block)


def entities(text: str) -> str:
    """`text` so that it stands for itself in Markdown and in HTML alike."""
    return _SPECIAL.sub(lambda match: f"&#{ord(match.group())};", text)


def _code(code: str, language: str) -> str:
    if _TAG.search(code) or _SCRIPT.search(code):
        # a fence that a reader of Markdown takes to end early would set its content free
        return f"<pre><code>{entities(code)}</code></pre>"
    longest = max(map(len, re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"


def _prose(text: str) -> str:
    parts = []
    end = 0
    for span in _CODE_SPAN.finditer(text):
        parts += [_plain(text[end : span.start()]), _span(span)]
        end = span.end()
    return "".join([*parts, _plain(text[end:])]).strip("\n")


def _span(span: re.Match[str]) -> str:
    code = span.group(2)
    return f"<code>{entities(code.strip(' '))}</code>" if re.search(r"[<&:!\[]|``", code) else span.group()


def _plain(text: str) -> str:
    text = html.escape(text, quote=False)
    # a quotation stays one
    text = re.sub(r"(?m)^([ \t]*(?:&gt; ?)+)", lambda match: match.group().replace("&gt;", ">"), text)
    # references: their titles may swallow the start of a code block. Runs of backticks: they could begin one
    text = text.replace("]:", "]&#58;").replace("![", "&#33;[")
    text = re.sub(r"`{3,}|~{3,}", lambda match: entities(match.group()), text)
    return _SCRIPT.sub("\\1\u200b\\2", text)
