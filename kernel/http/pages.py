"""The small pages that the gateway serves to people: one look, light and dark, nothing from anywhere else."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from html import escape
from string import Template

_STYLE = """
:root{color-scheme:light dark;--ink:#26221c;--paper:#fdfcfa;--faint:#6d665b;--line:#e4ded3;--mark:#f3eee4;--link:#8a4b08}
@media(prefers-color-scheme:dark){:root{--ink:#ece7de;--paper:#1b1916;--faint:#a49c8f;--line:#38332b;--mark:#2a2620;--link:#f0b465}}
*{box-sizing:border-box}
body{font:1rem/1.6 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0 auto;max-width:46rem;
padding:clamp(1.5rem,6vh,5rem) 1.25rem 4rem}
h1{font-size:1.6rem;line-height:1.25;margin:.2rem 0 1rem;text-wrap:balance}
h2{font-size:1rem;margin:2rem 0 .4rem}
p{margin:.4rem 0 0}
a{color:var(--link);text-underline-offset:.2em}
code{font:.9em/1.5 ui-monospace,monospace;background:var(--mark);padding:.1em .35em;border-radius:.25em}
pre{font:.85rem/1.5 ui-monospace,monospace;background:var(--mark);padding:.9rem 1rem;border-radius:.4rem;overflow-x:auto}
pre code{font:inherit;padding:0;background:none}
nav,.faint{color:var(--faint);font-size:.9rem}
ul{list-style:none;padding:0;margin:.4rem 0}
li{border-top:1px solid var(--line);padding:.55rem 0;display:grid;grid-template-columns:minmax(11rem,14rem) 1fr;gap:0 1rem}
li span{color:var(--faint)}
@media(max-width:34rem){li{grid-template-columns:1fr}}
""".strip()
_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>$title</title>
<style>$style</style>
<nav>$above</nav>
<h1>$title</h1>
$body
</html>
""")
_HASH = b64encode(sha256(_STYLE.encode()).digest()).decode()

HEADERS = (
    (b"content-type", b"text/html; charset=utf-8"),
    # SECURITY: the one style sheet is known by its hash; no script, nothing from another host, in no frame.
    (
        b"content-security-policy",
        f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'".encode(),
    ),
    (b"referrer-policy", b"no-referrer"),
)


def page(title: str, body: str, above: str = "") -> bytes:
    """The page. `title` is text; `body` and `above`, what stands over the title, are HTML."""
    return _PAGE.substitute(title=escape(title), style=_STYLE, body=body, above=above).encode()


def links(entries: list[tuple[str, str, str]]) -> str:
    """A list of (address, what it is called, what is there), all text."""
    rows = "\n".join(
        f'<li><a href="{escape(address)}">{escape(name)}</a><span>{escape(about)}</span>'
        for address, name, about in entries
    )
    return f"<ul>\n{rows}\n</ul>"


def wants_html(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether who asks is a browser: its Accept names HTML."""
    return any(name == b"accept" and b"text/html" in value for name, value in headers)
