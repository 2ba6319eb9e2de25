"""What `gateway demo` says when everything is up."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from demo.follow import Style
from demo.platform.info import Account, Info
from kernel import __version__
from kernel.routing.platform import ROUTES, SERVICES

_WIDTH = 100


def banner(url: str, redis: str, info: Info, seconds: float, style: Style) -> str:
    """The whole text; `seconds` is how long the start took."""
    return "\n".join(_lines(url, redis, info, seconds, style)) + "\n"


def _lines(url: str, redis: str, info: Info, seconds: float, style: Style) -> Iterator[str]:
    def heading(text: str) -> str:
        return "  " + style("1", text)

    def command(text: str) -> str:
        return "    " + style("32", text)

    owner = info.accounts[0]
    yield ""
    yield f"  {style('1;33', 'Bakery Gateway')} {__version__}  {style('2', f'ready in {seconds:.1f} s')}"
    yield ""
    yield f"    Gateway    {style('1;36', url)}"
    yield f"    Health     {url}/health    Metrics  {url}/metrics    API  {url}/docs"
    yield f"    GraphQL    {url}/graphiql"
    yield f"    Store      redis-cli -u {redis}"
    yield f"    Services   {len(info.urls)} stubs on loopback ports; each offers {style('36', 'echo')} under its prefix"
    yield ""
    yield heading("Routes")
    yield from _routes(style)
    yield ""
    yield heading("Accounts") + style("2", f"   the password of all: {owner.password}")
    yield from (_account(account, style) for account in info.accounts)
    yield ""
    yield heading("Log in")
    body = f'{{"email":"{owner.email}","password":"{owner.password}"}}'
    yield command(f"curl -s {url}/api/v1/auth/login -H 'content-type: application/json' -d '{body}'")
    yield ""
    yield heading("Ask for data") + style("2", "   as the owner; the token is good for 30 minutes")
    yield command(example(url, info.tokens["owner"]))
    yield ""
    yield heading("Watch alerts") + style("2", "   one comes every few seconds")
    yield command(f"{info.page}/#gateway={url}")
    yield command(f"curl -N {url}/api/v1/alerts/stream -H 'Authorization: Bearer {info.tokens['owner']}'")
    yield ""
    yield heading("Send one")
    yield command(alert(url, info))
    yield ""
    yield heading("Train a model over a WebSocket") + style("2", '   then type {"train": "Croissant"}')
    socket = url.replace("http", "ws", 1)
    yield command(f"{_python()} -m websockets '{socket}/api/v1/training/ws?token={info.tokens['owner']}'")
    yield ""
    yield f"  {style('1', 'Ctrl-C')} stops all of it and leaves nothing behind. Requests are shown below."
    yield ""


def _python() -> str:
    """This interpreter, as one would call it from here."""
    return os.path.relpath(sys.executable) if sys.executable.startswith(os.getcwd()) else sys.executable


def example(url: str, token: str) -> str:
    """A command that answers with real data."""
    return f"curl -s '{url}/api/v1/inventory/items?limit=3' -H 'Authorization: Bearer {token}'"


def alert(url: str, info: Info) -> str:
    """A command that sends an alert to the owner's tenant."""
    body = (
        f'{{"tenant_id":"{info.tenants["owner"]}","alert_id":"\'$(date +%s%N)\'","severity":"high",'
        f'"message":"Stock bajo: Mantequilla","timestamp":"\'$(date -u +%FT%TZ)\'"}}'
    )
    return f"curl -s {url}/api/v1/alerts/dispatch -H 'Authorization: Bearer {info.tokens['service']}' -d '{body}'"


def _routes(style: Style) -> Iterator[str]:
    entries = [(f"/api/v1/{prefix}/**", service.name) for service in SERVICES for prefix in service.prefixes]
    rows = -(-len(entries) // 2)
    left = max(len(path) for path, _ in entries[:rows])
    names = max(len(name) for _, name in entries[:rows])
    right = max(len(path) for path, _ in entries[rows:])
    for number in range(rows):
        path, name = entries[number]
        line = f"    {path:<{left}}  {style('36', f'{name:<{names}}')}"
        if number + rows < len(entries):
            path, name = entries[number + rows]
            line += f"    {path:<{right}}  {style('36', name)}"
        yield line.rstrip()
    yield f"    /api/v1/tenants/{{tenant_id}}/inventory/**  {style('2', 'and so on: any service, for one tenant')}"
    public = [row.pattern for row in ROUTES if row.public]
    yield from _wrapped("    Without a token: ", public, style)


def _wrapped(label: str, words: list[str], style: Style) -> Iterator[str]:
    line = ""
    for word in words:
        if line and len(label) + len(line) + len(word) + 1 > _WIDTH:
            yield style("2", (label + line).rstrip())
            label, line = " " * len(label), ""
        line += word + " "
    yield style("2", (label + line).rstrip())


def _account(account: Account, style: Style) -> str:
    note = account.label.replace("_", " ")
    return f"    {account.email:<32} {account.tenant:<22} {account.tier:<13} {style('2', note)}"
