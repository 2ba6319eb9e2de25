"""`.env` files.

    # comment
    export NAME=value            # a comment needs a blank before it
    NAME='literal, may span lines'
    NAME="the same with \\n \\r \\t \\" \\\\ \\$ escapes"

`$` is an ordinary character: nothing is substituted. The last of several lines with one name counts.
"""

from __future__ import annotations

import re

from kernel.config.errors import ConfigError

_ASSIGNMENT = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*")
_SKIPPED = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_PLAIN = re.compile(r"[^\n]*")
_COMMENT = re.compile(r"(?:^|[ \t])#.*")
_QUOTED = {
    "'": re.compile(r"'([^']*)'"),
    '"': re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL),
}
_ESCAPE = re.compile(r'\\([nrt"\\$])')
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}


def parse(text: str) -> tuple[dict[str, str], list[ConfigError]]:
    """The variables of a `.env` file's text, and an error for each line that is none. Never quotes a value."""
    text = text.replace("\r\n", "\n")
    found: dict[str, str] = {}
    errors: list[ConfigError] = []
    at = 0
    while at < len(text):
        skipped = _SKIPPED.match(text, at)
        if skipped:
            at = skipped.end()
            continue
        start = at
        problem = ""
        assignment = _ASSIGNMENT.match(text, at)
        if assignment is None:
            problem = "is not NAME=value (quote a value that spans lines)"
        else:
            at = assignment.end()
            pattern = _QUOTED.get(text[at : at + 1])
            if pattern is None:
                plain = _PLAIN.match(text, at)
                assert plain is not None
                found[assignment[1]] = _COMMENT.sub("", plain[0]).strip()
                at = plain.end() + 1
                continue
            quoted = pattern.match(text, at)
            rest = _SKIPPED.match(text, quoted.end()) if quoted else None
            if quoted and rest:
                value = quoted[1]
                if text[at] == '"':
                    value = _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), value)
                found[assignment[1]] = value
                at = rest.end()
                continue
            problem = "has text after the closing quote" if quoted else "has a quote that is never closed"
        line = text.count("\n", 0, start) + 1
        errors.append(ConfigError(f".env line {line}", problem, "NAME='value'"))
        end = text.find("\n", start)
        at = len(text) if end < 0 else end + 1
    return found, errors
