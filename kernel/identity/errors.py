"""Why a token was refused."""

from __future__ import annotations

from kernel.http.problems import GatewayError, ProblemKind


class TokenError(GatewayError):
    """A token that is not accepted. `kind` names the check that failed, `detail` says what it saw."""

    def __init__(self, kind: ProblemKind, detail: str = "") -> None:
        super().__init__(kind(detail))

    def again(self) -> TokenError:
        """The same refusal, of another request: without this one's traceback and what that holds on to."""
        return TokenError(self.kind, self.detail)

    @property
    def kind(self) -> ProblemKind:
        return self.problem.kind

    @property
    def detail(self) -> str:
        return self.problem.detail


def challenge(error: str, description: str) -> tuple[tuple[bytes, bytes], ...]:
    """The `WWW-Authenticate` of a refused token (RFC 6750 section 3)."""
    value = b'%b, error="%b", error_description="%b"' % (REALM, error.encode(), description.encode())
    return ((b"www-authenticate", value),)


# RFC 9110 section 15.5.2: a 401 says how to authenticate.
REALM = b'Bearer realm="bakery-gateway"'
