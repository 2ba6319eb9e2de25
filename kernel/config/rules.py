"""What must hold between variables. Each rule yields errors; `given` names the variables that are set, sound or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from kernel.config.errors import ConfigError
from kernel.config.files import audit_file_can_be_written, capture_file_can_be_written, tls_needs_both
from kernel.config.settings import Settings
from kernel.config.traffic import variants_can_be

# SECURITY: printed in the platform's documentation, hence known to everyone.
PUBLISHED_SECRETS = frozenset({"usMHw9kQCQoyrc7wPmMi3bClr0lTY9wvzZmcTbADvL0="})
_MIN_SECRET_BYTES = {"dev": 16, "staging": 32, "prod": 32}
_NEW_SECRET = "the output of: openssl rand -base64 48"  # noqa: S105

Rule = Callable[[Settings, frozenset[str]], Iterator[ConfigError]]


def secret_is_secret(settings: Settings, given: frozenset[str]) -> Iterator[ConfigError]:
    least = _MIN_SECRET_BYTES[settings.environment]
    several = len(settings.jwt_secret_keys) > 1
    for place, secret in enumerate(settings.jwt_secret_keys, 1):
        which = f"number {place} " if several else ""
        if secret in PUBLISHED_SECRETS:
            this = f"{which}is" if which else "this is"
            problem = f"{this} the default secret that the platform's documentation publishes: anyone can sign with it"
            yield ConfigError("JWT_SECRET_KEY", problem, _NEW_SECRET)
        elif (length := len(secret.encode())) < least:
            problem = f"{which}has {length} bytes; in {settings.environment} it needs at least {least}"
            if several:
                problem += " (a secret has no comma in it: commas part several)"
            yield ConfigError("JWT_SECRET_KEY", problem, _NEW_SECRET)


def store_is_named(settings: Settings, given: frozenset[str]) -> Iterator[ConfigError]:
    if settings.environment != "dev" and not given & {"REDIS_HOST", "REDIS_URL"}:
        yield ConfigError("REDIS_HOST", f"is needed in {settings.environment} (or REDIS_URL)", "redis")


def credentials_need_origins(settings: Settings, given: frozenset[str]) -> Iterator[ConfigError]:
    # SECURITY: any page could then act as the user who is logged in.
    if "*" in settings.cors_origins and settings.cors_allow_credentials:
        problem = "'*' does not go with credentials: name the origins, or set CORS_ALLOW_CREDENTIALS=false"
        yield ConfigError("CORS_ORIGINS", problem, "https://app.example.com")


def _public_nominatim(settings: Settings) -> bool:
    return f".{urlsplit(settings.nominatim_url).hostname}".endswith(".openstreetmap.org")


def public_nominatim_is_spared(settings: Settings, given: frozenset[str]) -> Iterator[ConfigError]:
    # https://operations.osmfoundation.org/policies/nominatim/
    if settings.nominatim_interval_seconds < 1 and _public_nominatim(settings):
        problem = "is less than 1, but NOMINATIM_URL is the public server, which allows one request a second"
        yield ConfigError("NOMINATIM_INTERVAL_SECONDS", problem, "1")


def grpc_is_said(settings: Settings, given: frozenset[str]) -> Iterator[ConfigError]:
    for service in settings.service_catalog:
        urls = settings.services[service.name]
        if service.grpc is None and any(url.startswith("grpc:") for url in urls):
            problem = f"is a grpc URL: the table [services.{service.name}] of gateway.toml needs protocol and descriptors"
            yield ConfigError(service.env, problem, f"http://{service.name}-service:8000")


RULES: tuple[Rule, ...] = (
    secret_is_secret,
    store_is_named,
    credentials_need_origins,
    tls_needs_both,
    audit_file_can_be_written,
    capture_file_can_be_written,
    public_nominatim_is_spared,
    variants_can_be,
    grpc_is_said,
)


def warnings(settings: Settings, given: frozenset[str]) -> Iterator[ConfigError]:
    """What works but is seldom meant."""
    for name in sorted(name for name in given if name.startswith("CAPTURE_")):
        if settings.capture_file is None:
            yield ConfigError(name, "is not used without CAPTURE_FILE")
    if not settings.capture_redact and settings.capture_file is not None:
        yield ConfigError("CAPTURE_REDACT", "is false: whoever reads the file can act as its callers")
    parts = sorted(given & {"REDIS_PORT", "REDIS_DB", "REDIS_PASSWORD"})
    if "REDIS_URL" in given:
        for name in sorted(given & {"REDIS_HOST"}) + parts:
            yield ConfigError(name, "is not used: REDIS_URL overrides it")
    elif "REDIS_HOST" not in given and settings.environment == "dev":
        for name in parts:
            yield ConfigError(name, "is not used without REDIS_HOST: an embedded store is started")
    if "ASSERTION_PRIVATE_KEY" in given and not settings.identity_assertion:
        yield ConfigError("ASSERTION_PRIVATE_KEY", "is not used without IDENTITY_ASSERTION=true")
    if settings.environment == "dev":
        return
    if not given & {"JWT_PUBLIC_KEY", "JWT_JWKS_URL"}:
        problem = "is not set (nor JWT_JWKS_URL): the auth service is asked about each new token"
        yield ConfigError("JWT_PUBLIC_KEY", problem, "/run/keys/jwt_public.pem")
    if not settings.jwt_secret_keys:
        yield ConfigError("JWT_SECRET_KEY", "is not set: service tokens are refused", _NEW_SECRET)
    if settings.nominatim_contact is None and _public_nominatim(settings):
        problem = "is not set: the public Nominatim's operators cannot tell you before they block you"
        yield ConfigError("NOMINATIM_CONTACT", problem, "ops@bakery.example")
    if settings.environment == "prod" and not settings.https_only:
        yield ConfigError("HTTPS_ONLY", "is false in prod: tokens may travel unencrypted")
    if settings.https_only and not given & {"TRUSTED_PROXIES", "TLS_CERT_FILE"}:
        problem = "is not set, so no proxy can say that a request came over HTTPS: all are redirected"
        yield ConfigError("TRUSTED_PROXIES", problem, "10.0.0.0/8")
    elif not given & {"TRUSTED_PROXIES", "TLS_CERT_FILE"}:
        problem = (
            "is not set: behind a load balancer every client has its address, so that all share one limit and "
            "ADMIN_ALLOW lets everybody in"
        )
        yield ConfigError("TRUSTED_PROXIES", problem, "10.0.0.0/8")
    for name, networks in (
        ("TRUSTED_PROXIES", settings.trusted_proxies),
        ("ADMIN_ALLOW", settings.admin_allow),
    ):
        if any(network.prefixlen == 0 for network in networks):
            yield ConfigError(name, "is the whole internet")
