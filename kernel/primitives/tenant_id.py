"""Tenant ids: one spelling each, from the moment a tenant is named.

An id is up to 64 letters, digits, `-` and `_`. One that is a UUID means the same in any case (RFC 9562 section 4; iOS and
.NET write it in capitals), so it is folded to lower case. Whatever else reads as a UUID where services are lenient (Python's
`uuid.UUID` does not care where the dashes are) is refused: 32 hexadecimal digits with other dashes or none, and by its
characters what stands in braces or begins with `urn:uuid:`. Ids that are no UUID stay as they are, their case counts.

SECURITY: locks, freshness, limits and demo marks are keys made of the id. A second spelling that a service takes for the same
tenant would be a way around all of them.
"""

from __future__ import annotations

import re

from kernel.primitives.api_key import PREFIX

# Of ids as they come; `canonical` judges the rest.
PATTERN = r"\A[A-Za-z0-9_-]{1,64}\Z"
_FORM = re.compile(PATTERN)
_UUID = re.compile(r"[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}")
_DIGITS = re.compile(r"[0-9A-Fa-f]{32}")
# The base64url of `{"`: the header and the payload of every token; and what API keys begin with.
_TOKEN = re.compile(r"(?:eyJ|" + PREFIX + r")[A-Za-z0-9_-]{4,}")


def canonical(given: str) -> str:
    """The one spelling of the tenant that `given` names. Raises ValueError, which says what is wrong without quoting it."""
    if _FORM.fullmatch(given) is None:
        raise ValueError("A tenant id has 1 to 64 letters, digits, '-' and '_'")
    if _UUID.fullmatch(given) is not None:
        return given.lower()
    if _DIGITS.fullmatch(given.replace("-", "")) is not None:
        raise ValueError(
            "A tenant id that is a UUID is written with its dashes, in groups of 8-4-4-4-12 digits"
        )
    # SECURITY: it would stand in logs and in the store's keys.
    if _TOKEN.match(given) is not None:
        raise ValueError("This is a part of a token or an API key, not a tenant id")
    return given
