"""The settings a command works with: loaded from where the gateway runs, and tried out as a worker would use them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from kernel.cli.output import Style, print_errors, summary
from kernel.config import ConfigError, ConfigErrors, Loaded, Settings, load_with_warnings

ENV_FILE = Path(".env")


def examine() -> Loaded | ConfigErrors:
    """The configuration, or what is wrong with it."""
    try:
        loaded = load_with_warnings(os.environ, ENV_FILE, (usable_keys, usable_store, usable_routes))
        return replace(loaded, warnings=(*loaded.warnings, *certificate_doubts(loaded.settings)))
    except ConfigErrors as error:
        return error


def obtain() -> Loaded | None:
    """The configuration; None after its errors have been printed."""
    found = examine()
    if isinstance(found, Loaded):
        return found
    style = Style(sys.stderr)
    head = f"gateway: {style('1;31', summary(found.errors, found.warnings))} in the configuration"
    with suppress(OSError):  # nobody reads any more
        sys.stderr.write(f"{head}\n\n")
        print_errors(found.errors, found.warnings)
        sys.stderr.write("\n")
    return None


def certificate_doubts(settings: Settings) -> Iterator[ConfigError]:
    """What clients will think of the time of the certificate."""
    if settings.tls_cert_file is None:
        return
    from kernel.identity.certificates import doubt  # noqa: PLC0415

    with suppress(OSError):  # it was there a moment ago, and will be missed
        found = doubt(settings.tls_cert_file.read_bytes())
        if found:
            yield ConfigError("TLS_CERT_FILE", found)


# These rules need organs that the configuration may not know.


def usable_keys(settings: Settings, given: frozenset[str]) -> Iterator[ConfigError]:
    """JWT_PUBLIC_KEY, JWT_SERVICE_PUBLIC_KEY and JWT_SECRET_KEY are keys."""
    from kernel.identity.keys import KeyConfigError, secret_key  # noqa: PLC0415
    from kernel.identity.pem import load_public_keys  # noqa: PLC0415

    loaded: list[set[str]] = []
    for name, given_keys, example in (
        ("JWT_PUBLIC_KEY", settings.jwt_public_key, "/run/keys/jwt_public.pem"),
        ("JWT_SERVICE_PUBLIC_KEY", settings.jwt_service_public_key, "/run/keys/services_public.pem"),
    ):
        if given_keys is not None:
            try:
                loaded.append({key.digest for key in load_public_keys(given_keys, settings.jwt_algorithm)})
            except KeyConfigError as error:
                yield ConfigError(name, str(error), example)
    # SECURITY: whoever signs for users could make services, which are admins everywhere.
    if len(loaded) > 1 and loaded[0] & loaded[1]:
        problem = "has a key of JWT_PUBLIC_KEY: users' tokens and services' are signed with different keys"
        yield ConfigError("JWT_SERVICE_PUBLIC_KEY", problem, "/run/keys/services_public.pem")
    if settings.identity_assertion or settings.assertion_private_key is not None:
        from kernel.identity.assertion import signers  # noqa: PLC0415

        try:
            signers(settings.assertion_private_key, settings.jwt_secret_keys)
        except KeyConfigError as error:
            yield ConfigError(
                "ASSERTION_PRIVATE_KEY", str(error), "the output of: openssl genpkey -algorithm ed25519"
            )
    for secret in settings.jwt_secret_keys:
        if len(secret.encode()) >= 32:
            try:
                secret_key(secret)
            except KeyConfigError as error:
                yield ConfigError("JWT_SECRET_KEY", str(error), "the output of: openssl rand -base64 48")


def usable_store(settings: Settings, given: frozenset[str]) -> Iterator[ConfigError]:
    """REDIS_URL is an address the store understands; without one, there is a server to embed."""
    if settings.redis_url is None:
        from kernel.server.embedded_store import EmbeddedStoreError, find_binary  # noqa: PLC0415

        if settings.environment == "dev":
            try:
                find_binary()
            except EmbeddedStoreError as error:
                yield ConfigError("REDIS_HOST", str(error), "localhost")
        return
    from kernel.store.address import AddressError, parse, tls_flaw  # noqa: PLC0415

    try:
        flaw = tls_flaw(parse(settings.redis_url))
    except AddressError as error:
        flaw = str(error)
    if flaw:
        yield ConfigError("REDIS_URL", flaw, "rediss://:a-password@redis:6379/0")


def usable_routes(settings: Settings, given: frozenset[str]) -> Iterator[ConfigError]:
    """No two routes claim the same method and pattern."""
    from kernel.routing.trie import RouteConflictError, Trie  # noqa: PLC0415

    trie: Trie[None] = Trie()
    where = settings.gateway_config.name if settings.gateway_config else "routes"
    for row in settings.routes:
        try:
            trie.add(row.answered, row.pattern, None)
        except RouteConflictError as error:
            yield ConfigError(where, str(error))
