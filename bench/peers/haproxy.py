"""HAProxy three ways: with the gateway's policies, the same with verified tokens remembered, and plain."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import ClassVar

from bench.peers.base import UNLIMITED, Check, Launch, Peer, fill, first_line
from bench.rig import Rig

_VERIFY = """\
  http-request deny deny_status 401 unless {{ var(txn.bearer),jwt_header_query('$.alg') -m str RS256 }}
  http-request deny deny_status 401 unless {{ var(txn.bearer),jwt_verify('RS256',"{key}") -m int 1 }}"""

# HAProxy has no token cache. A stick table can be bent into one: it remembers the digest of a token that passed.
_REMEMBER_TABLE = """\
backend verified
  stick-table type binary len 32 size 100k expire 15m store gpt0"""
_REMEMBER = """\
  http-request track-sc1 var(txn.bearer),sha2(256) table verified
  acl known sc_get_gpt0(1) eq 1
  http-request deny deny_status 401 unless known || {{ var(txn.bearer),jwt_header_query('$.alg') -m str RS256 }}
  http-request deny deny_status 401 unless known || {{ var(txn.bearer),jwt_verify('RS256',"{key}") -m int 1 }}
  http-request sc-set-gpt0(1) 1 unless known"""


class _Haproxy(Peer):
    install = "apt-get install haproxy"

    def available(self) -> bool:
        return shutil.which("haproxy") is not None

    def version(self) -> str:
        found = re.search(r"version (\d+\.\d+\.\d+)", first_line("haproxy", "-v"))
        return found[1] if found else "?"


class HaproxyPlain(_Haproxy):
    name = "haproxy"
    title = "HAProxy, plain proxy"
    does = "no policy, no log"
    checks = Check.ANSWERS | Check.PROXIES

    def launch(self, rig: Rig, directory: Path, port: int, *, limit: int = UNLIMITED) -> Launch:
        config = fill(
            "haproxy-plain.cfg.in", directory / "haproxy.cfg", {"PORT": port, "UPSTREAM": rig.upstream}
        )
        return Launch(["haproxy", "-db", "-f", str(config)])


class HaproxyJwt(_Haproxy):
    name = "haproxy-jwt"
    title = "HAProxy + JWT"
    does = "RS256 verified for every request, exp/iss/type, claims to headers, stick-table limit, access log"
    checks = Check.ANSWERS | Check.PROXIES | Check.POLICIES
    verify: ClassVar[str] = _VERIFY
    table: ClassVar[str] = ""

    def launch(self, rig: Rig, directory: Path, port: int, *, limit: int = UNLIMITED) -> Launch:
        key = directory / "public.pem"
        key.write_text(rig.keys.public_pem)
        config = fill(
            "haproxy.cfg.in",
            directory / "haproxy.cfg",
            {
                "PORT": port,
                "UPSTREAM": rig.upstream,
                "LIMIT": limit,
                "VERIFY": self.verify.format(key=key),
                "VERIFIED_TABLE": self.table,
            },
        )
        return Launch(["haproxy", "-db", "-f", str(config)], access_log=directory / "output.log")


class HaproxyCached(HaproxyJwt):
    name = "haproxy-jwt-cached"
    title = "HAProxy + JWT, remembered"
    does = "as above, but a stick table of token digests spares the second verification of a token (our own trick)"
    verify = _REMEMBER
    table = _REMEMBER_TABLE
