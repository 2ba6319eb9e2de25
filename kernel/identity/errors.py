"""Why a token was refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel.http.problems import GatewayError, ProblemKind

if TYPE_CHECKING:
    from kernel.identity.claims import Identity


class TokenError(GatewayError):
    """A token that is not accepted. `kind` names the check that failed, `detail` says what it saw.

    `expired_identity` is set when expiry is the only fault: signature and every other claim are good, so that the
    caller may refresh the session. `kid` is set when the key is unknown, so that the key set may be fetched again.
    """

    def __init__(
        self,
        kind: ProblemKind,
        detail: str = "",
        *,
        expired_identity: Identity | None = None,
        kid: str | None = None,
    ) -> None:
        super().__init__(kind(detail))
        self.expired_identity = expired_identity
        self.kid = kid

    @property
    def kind(self) -> ProblemKind:
        return self.problem.kind

    @property
    def detail(self) -> str:
        return self.problem.detail
