"""A token whose only fault is its age."""

from __future__ import annotations

from kernel.http.problems import TOKEN_EXPIRED
from kernel.identity.errors import TokenError
from kernel.identity.identity import Identity


class TokenExpired(TokenError):
    """Signature and every other claim are good: the session of `identity` may be refreshed."""

    def __init__(self, identity: Identity) -> None:
        super().__init__(TOKEN_EXPIRED)
        self.identity = identity

    def again(self) -> TokenExpired:
        return TokenExpired(self.identity)
