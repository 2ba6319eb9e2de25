"""The problems of API keys, part of the catalogue in problems.py."""

from __future__ import annotations

from kernel.http.problem import ProblemKind

API_KEY_MALFORMED = ProblemKind(
    "api-key-malformed",
    401,
    "API key malformed",
    "Send the key in X-API-Key exactly as it was shown, once: its form or its checksum is wrong.",
)
API_KEY_INVALID = ProblemKind(
    "api-key-invalid",
    401,
    "API key not valid",
    "The key is unknown here, was rotated out or revoked; an owner of the tenant can make a new one.",
)
API_KEY_EXPIRED = ProblemKind(
    "api-key-expired", 401, "API key expired", "An owner of the tenant can make a new key."
)
API_KEY_IN_URL = ProblemKind(
    "api-key-in-url",
    400,
    "API key in a URL",
    "Send the key in the header X-API-Key. URLs are stored in histories, logs and Referer headers: rotate this key.",
)
CREDENTIALS_AMBIGUOUS = ProblemKind(
    "credentials-ambiguous",
    400,
    "More than one credential",
    "Send either X-API-Key or a token: whom the request is made for must not depend on who reads it.",
)
ROLE_REQUIRED = ProblemKind(
    "role-required", 403, "Role not sufficient", "Ask somebody with a role that the detail names."
)
API_KEY_SCOPE = ProblemKind(
    "api-key-scope", 403, "Scope missing", "Use a key with the scope that the detail names."
)
API_KEY_REFUSED = ProblemKind(
    "api-key-refused",
    403,
    "Not with an API key",
    "Use a user's token: keys are not taken here, whatever their scopes.",
)
API_KEY_UNKNOWN = ProblemKind(
    "api-key-unknown", 404, "No such API key", "Look the key's id up in the list of the tenant's keys."
)
API_KEY_CONFLICT = ProblemKind(
    "api-key-conflict",
    409,
    "API key cannot be changed so",
    "Look at the key's state in the list of the tenant's keys.",
)
API_KEYS_FULL = ProblemKind(
    "api-keys-full",
    409,
    "Too many API keys",
    "Delete keys that are not used any more: expired ones count, too.",
)
API_KEYS_OFF = ProblemKind(
    "api-keys-off",
    503,
    "API keys not available",
    "The operator sets JWT_SECRET_KEY: with it the gateways mark the keys that they have made.",
)
