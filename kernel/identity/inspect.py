"""A token field by field: would the gateway accept it, and if not, why. Uses the verifier's own steps."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from kernel.http.problems import TOKEN_ALGORITHM, TOKEN_EXPIRED, TOKEN_KEY_UNKNOWN, TOKEN_SIGNATURE
from kernel.identity.claims import Claims, decode_claims, decode_header
from kernel.identity.errors import TokenError
from kernel.identity.jws import Compact, parse, parse_head
from kernel.identity.keys import ASYMMETRIC, SYMMETRIC
from kernel.identity.policy import CHECKS, Signer, expired
from kernel.identity.tokens import Verifier

_WIDTH = 100
# What a key that is not here might change.
_KEYLESS = (TOKEN_ALGORITHM, TOKEN_KEY_UNKNOWN, TOKEN_SIGNATURE)


class Finding(NamedTuple):
    """One row: `value` is JSON text, shortened; `note` says what is wrong, or the code of the problem."""

    verdict: Literal["ok", "refused", "unknown"]
    field: str
    value: str
    note: str


class Report(NamedTuple):
    """`refusal` is the error a request with this token would get, None when it is accepted; `open`: nobody here can tell."""

    refusal: TokenError | None
    findings: tuple[Finding, ...]
    open: bool = False


def inspect(token: bytes, verifier: Verifier, elsewhere: str = "") -> Report:
    """What `verifier` makes of `token`. Neither signature nor the whole token is part of the report.

    `elsewhere`: who else may vouch for a signature that no key here does, in words; "" for nobody. Revocation and freshness
    are in the store and not known here.
    """
    report = _judge(token, verifier)
    refusal = report.refusal
    if not elsewhere or refusal is None or refusal.kind not in _KEYLESS or not _open(token, verifier):
        return report
    findings = tuple(
        row._replace(verdict="unknown", note=elsewhere) if row.field in ("key", "signature") else row
        for row in report.findings
    )
    # What the token says of itself condemns it whoever signed it.
    condemned = any(row.verdict == "refused" for row in findings)
    return Report(refusal, findings, open=not condemned)


def _open(token: bytes, verifier: Verifier) -> bool:
    """Whether a key that is not here may have the last word: of another algorithm, or one that a key set may yet bring."""
    try:
        compact = parse(token)
        alg = decode_header(parse_head(compact.head)).alg
        known = alg in verifier.keys.algorithms and verifier.may_learn(compact) is None
    except TokenError:
        return False
    return not known and (alg in ASYMMETRIC or alg in SYMMETRIC)


def _judge(token: bytes, verifier: Verifier) -> Report:
    findings: list[Finding] = []
    try:
        verifier.verify(token)
        refusal = None
    except TokenError as error:
        refusal = error
    try:
        compact = parse(token)
        findings.append(Finding("ok", "form", f"{len(token)} bytes, 3 parts", ""))
    except TokenError as error:
        return Report(refusal, (_refused("form", f"{len(token)} bytes", error),))
    key = _signature(compact, verifier, findings)
    signed = findings[-1].verdict == "ok"
    try:
        claims = decode_claims(compact.payload)
    except TokenError as error:
        findings.append(_refused("payload", "", error))
        return Report(refusal, tuple(findings))
    _claims(claims, key, verifier, findings, signed)
    return Report(refusal, tuple(findings))


def _signature(compact: Compact, verifier: Verifier, findings: list[Finding]) -> Signer:
    try:
        header = decode_header(parse_head(compact.head))
    except TokenError as error:
        findings.append(_refused("header", "", error))
        return None
    findings.append(Finding("ok", "header", _text(header), ""))
    try:
        candidates = verifier.candidates(compact)
    except TokenError as error:
        findings.append(_refused("key", _text({"alg": header.alg, "kid": header.kid}), error))
        return None
    findings.append(Finding("ok", "key", ", ".join(key.trust for key in candidates), ""))
    try:
        key = verifier.signer(compact, candidates)
    except TokenError as error:
        findings.append(_refused("signature", "", error))
        return None
    findings.append(Finding("ok", "signature", f"{len(compact.signature)} bytes", f"by key {key.trust}"))
    return key


def _claims(claims: Claims, key: Signer, verifier: Verifier, findings: list[Finding], signed: bool) -> None:
    now = verifier.clock()
    checked = {"subject": ("sub", "user_id", "service")}
    judged: set[str] = set()
    for name, check in CHECKS:
        fields = checked.get(name, (name,))
        judged.update(fields)
        value = _text(
            {field: getattr(claims, field) for field in fields if getattr(claims, field) is not None}
        )
        try:
            check(verifier.policy, claims, key, now)
        except TokenError as error:
            findings.append(_refused(name, value, error))
        else:
            findings.append(_passed(name, value, signed))
    if expired(claims, now):
        late = f"expired {now - claims.exp:.0f} s ago"
        findings.append(_refused("exp", _text(claims.exp), TokenError(TOKEN_EXPIRED, late)))
    else:
        findings.append(_passed("exp", _text(claims.exp), signed, f"{claims.exp - now:.0f} s left"))
    for field in claims.__struct_fields__:
        value = getattr(claims, field)
        if value is not None and field not in judged and field != "exp":
            findings.append(_passed(field, _text(value), signed))


def _passed(field: str, value: str, signed: bool, note: str = "") -> Finding:
    if signed:
        return Finding("ok", field, value, note)
    return Finding("unknown", field, value, note or "not signed by a key known here")


def _refused(field: str, value: str, error: TokenError) -> Finding:
    return Finding("refused", field, value, f"{error.kind.code}: {error.detail}")


def _text(value: Any) -> str:
    """JSON: control characters of a hostile token reach the terminal escaped."""
    text = msgspec.json.encode(value).decode()
    escaped = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)
    return escaped if len(escaped) <= _WIDTH else escaped[: _WIDTH - 3] + "..."


def render(report: Report) -> str:
    """The report as lines of text: verdict, field, value, note."""
    verdict = "accepted" if report.refusal is None else f"refused: {report.refusal.kind.code}"
    if report.open:
        verdict = "unknown"
    rows = [
        f"{row.verdict:8} {row.field:18} {row.value}{'  ' + row.note if row.note else ''}"
        for row in report.findings
    ]
    return "\n".join([verdict, *rows])
