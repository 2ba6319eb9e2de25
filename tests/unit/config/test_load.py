"""Loading: precedence, derived values, rules between variables, and all errors at once."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from kernel.config import ConfigErrors, Settings, load, load_with_warnings
from tests.support.config import problems

PUBLISHED = "usMHw9kQCQoyrc7wPmMi3bClr0lTY9wvzZmcTbADvL0="
SOUND = {
    "ENVIRONMENT": "prod",
    "REDIS_HOST": "redis",
    "JWT_PUBLIC_KEY": "/run/keys/jwt_public.pem",
    "JWT_SECRET_KEY": "s" * 32,
    "TRUSTED_PROXIES": "10.0.0.0/8",
    "NOMINATIM_CONTACT": "ops@bakery.example",
}


def doubts(environ: dict[str, str]) -> dict[str, str]:
    """The warnings, by variable."""
    return {warning.variable: warning.problem for warning in load_with_warnings(environ).warnings}


def test_an_empty_environment_is_a_working_development_gateway() -> None:
    settings = load({})
    assert (settings.environment, settings.host, settings.port) == ("dev", "0.0.0.0", 8000)
    assert settings.redis_url is None
    assert settings.jwt_secret_keys == ()
    assert settings.rate_limit_requests == 300
    assert settings.rate_limit_window_seconds == 60
    assert settings.jwt_issuer == ("bakery-auth",)
    assert settings.max_body_bytes == 10 * 1024 * 1024
    assert settings.cors_allow_credentials
    assert len(settings.services) == 19
    assert settings.services["ai-insights"] == ("http://ai-insights-service:8000",)
    assert settings == Settings()
    assert doubts({}) == {}


def test_a_complete_production_environment_loads_without_warnings() -> None:
    assert doubts(SOUND) == {}
    assert load(SOUND).https_only


def test_empty_and_blank_variables_count_as_unset() -> None:
    assert load({"PORT": "", "JWT_AUDIENCE": "  ", "CORS_ORIGINS": "", "AUTH_SERVICE_URL": ""}) == Settings()


def test_env_file_fills_what_the_environment_leaves_open(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"\xef\xbb\xbfPORT=9000\nLOG_LEVEL=debug\nSALES_SERVICE_URL=http://localhost:8002\n")
    settings = load({"PORT": "9001"}, file)
    assert (settings.port, settings.log_level) == (9001, "DEBUG")
    assert settings.services["sales"] == ("http://localhost:8002",)


def test_env_file_need_not_exist_but_must_be_text(tmp_path: Path) -> None:
    assert load({}, tmp_path / ".env") == Settings()
    file = tmp_path / ".env"
    file.write_bytes(b"PORT=\xff")
    assert problems({}, file) == {str(file): "is not UTF-8 text"}


def test_errors_of_env_file_and_variables_come_together_in_order(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("nonsense\nMAX_BODY_BYTES=lots\n")
    found = problems({"RATE_LIMIT_REQUESTS": "0", "PORT": "70000", "POS_SERVICE_URL": "pos:1"}, file)
    assert list(found) == [".env line 1", "PORT", "RATE_LIMIT_REQUESTS", "MAX_BODY_BYTES", "POS_SERVICE_URL"]


def test_every_error_has_an_example() -> None:
    with pytest.raises(ConfigErrors) as raised:
        load(
            {
                "PORT": "x",
                "ENVIRONMENT": "prod",
                "CORS_ORIGINS": "*",
                "AUTH_SERVICE_URL": "x",
                "TLS_KEY_FILE": "/x",
            }
        )
    assert len(raised.value.errors) == 6
    assert all(error.example for error in raised.value.errors if "cannot be read" not in error.problem)
    assert "PORT: 'x' is not a whole number (for example 8000)" in str(raised.value)


@pytest.mark.parametrize("environment", ["dev", "staging", "prod"])
def test_published_default_secret_is_refused_by_name_everywhere(environment: str) -> None:
    found = problems(SOUND | {"ENVIRONMENT": environment, "JWT_SECRET_KEY": f" {PUBLISHED} "})
    assert "the default secret" in found["JWT_SECRET_KEY"]


@pytest.mark.parametrize("environment", ["staging", "prod"])
def test_secret_shorter_than_32_bytes_is_refused_outside_dev(environment: str) -> None:
    found = problems(SOUND | {"ENVIRONMENT": environment, "JWT_SECRET_KEY": "s" * 31})
    assert found == {"JWT_SECRET_KEY": f"has 31 bytes; in {environment} it needs at least 32"}
    # Bytes count, not characters.
    assert load(SOUND | {"ENVIRONMENT": environment, "JWT_SECRET_KEY": "ñ" * 16})


def test_a_guessable_secret_is_refused_in_dev_too() -> None:
    assert "needs at least 16" in problems({"JWT_SECRET_KEY": "secret"})["JWT_SECRET_KEY"]
    assert load({"JWT_SECRET_KEY": "s" * 16})


@pytest.mark.parametrize("environment", ["staging", "prod"])
def test_a_store_is_demanded_outside_dev(environment: str) -> None:
    assert set(problems({"ENVIRONMENT": environment})) == {"REDIS_HOST"}
    sound = load(
        {
            "ENVIRONMENT": environment,
            "REDIS_URL": "rediss://redis",
            "JWT_JWKS_URL": "https://auth.example.com/jwks.json",
        }
    )
    assert sound.redis_url == "rediss://redis"


def test_a_missing_store_is_not_reported_beside_a_malformed_one() -> None:
    assert set(problems(SOUND | {"REDIS_HOST": "", "REDIS_URL": "redis"})) == {"REDIS_URL"}


def test_any_origin_does_not_go_with_credentials() -> None:
    assert "does not go with credentials" in problems({"CORS_ORIGINS": "https://a.example,*"})["CORS_ORIGINS"]
    assert load({"CORS_ORIGINS": "*", "CORS_ALLOW_CREDENTIALS": "false"}).cors_origins == ("*",)


@pytest.mark.parametrize("algorithm", ["none", "HS256", "rs256", "RS257"])
def test_only_asymmetric_algorithms_may_sign_for_users(algorithm: str) -> None:
    assert "is not one of RS256" in problems({"JWT_ALGORITHM": algorithm})["JWT_ALGORITHM"]


def test_redis_variables_make_one_url() -> None:
    environ = {"REDIS_HOST": "fd00::1", "REDIS_PORT": "6380", "REDIS_DB": "2", "REDIS_PASSWORD": "p@ss/w:rd"}
    assert load(environ).redis_url == "redis://:p%40ss%2Fw%3Ard@[fd00::1]:6380/2"
    assert load(environ | {"REDIS_URL": "redis://other"}).redis_url == "redis://other"


def test_kubernetes_service_link_is_not_taken_for_a_port() -> None:
    assert (
        load({"REDIS_HOST": "redis", "REDIS_PORT": "tcp://10.0.0.1:6379"}).redis_url == "redis://redis:6379/0"
    )


def test_https_is_demanded_by_default_only_in_prod() -> None:
    assert not load(SOUND | {"ENVIRONMENT": "staging"}).https_only
    assert load(SOUND | {"ENVIRONMENT": "staging", "HTTPS_ONLY": "true"}).https_only
    assert not load(SOUND | {"HTTPS_ONLY": "false"}).https_only


def test_admin_networks_are_the_private_ones_by_default() -> None:
    names = [str(network) for network in load({}).admin_allow]
    assert names == ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "::1/128", "fc00::/7"]


@pytest.mark.parametrize(
    ("stray", "meant"),
    [
        ("RATE_LIMIT_REQUEST", "RATE_LIMIT_REQUESTS"),
        ("JWT_PUBLIC_KEYS", "JWT_PUBLIC_KEY"),
        ("REDISHOST", "REDIS_HOST"),
        ("SALE_SERVICE_URL", "SALES_SERVICE_URL"),
        ("Log_Level", "LOG_LEVEL"),
        ("CORS_ORIGIN", "CORS_ORIGINS"),
        ("RATE_LIMT", "RATE_LIMIT_REQUESTS"),
        ("RATE_LIMIT", "RATE_LIMIT_REQUESTS"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("LGO_LEVEL", "LOG_LEVEL"),
        ("HTPS_ONLI", "HTTPS_ONLY"),
    ],
)
def test_a_misspelt_variable_is_warned_about(stray: str, meant: str) -> None:
    assert doubts({stray: "x"}) == {stray: f"is not a variable of the gateway; did you mean {meant}?"}


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "HOME",
        "HOSTNAME",
        "SALES_SERVICE_PORT",
        "SALES_SERVICE_SERVICE_HOST",
        "REDIS_PORT_6379_TCP_ADDR",
        "GATEWAY_RUN_DIR",
        "EXPORT",
        "POS_SERVICE_HOST",
        "LOGNAME",
        "HOSTTYPE",
        "HTTPS_PROXY",
        "TENANT_SERVICE_PORT",
        "PYTHONPATH",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "NODE_ENV",
        "LD_LIBRARY_PATH",
        "KUBERNETES_SERVICE_PORT",
        "HTTP_PROXY",
        "XDG_RUNTIME_DIR",
        "JOURNAL_STREAM",
        "OTEL_SERVICE_NAME",
    ],
)
def test_other_programs_variables_are_left_alone(name: str) -> None:
    assert doubts({name: "x"}) == {}


def test_warnings_come_with_errors_since_they_may_be_the_cause() -> None:
    with pytest.raises(ConfigErrors) as raised:
        load(SOUND | {"REDIS_HOST": "", "REDISHOST": "redis"})
    assert [warning.variable for warning in raised.value.warnings] == ["REDISHOST"]


@pytest.mark.parametrize("environment", ["staging", "prod"])
def test_without_any_key_the_auth_service_is_asked_and_that_is_said(environment: str) -> None:
    found = doubts({"ENVIRONMENT": environment, "REDIS_HOST": "redis"})
    assert "the auth service is asked" in found["JWT_PUBLIC_KEY"]


def test_what_is_set_in_vain_or_dangerously_is_warned_about() -> None:
    assert (
        "REDIS_URL overrides" in doubts({"REDIS_URL": "redis://a", "REDIS_PASSWORD": "x"})["REDIS_PASSWORD"]
    )
    assert "without REDIS_HOST" in doubts({"REDIS_DB": "3"})["REDIS_DB"]
    assert "service tokens are refused" in doubts(SOUND | {"JWT_SECRET_KEY": ""})["JWT_SECRET_KEY"]
    assert "unencrypted" in doubts(SOUND | {"HTTPS_ONLY": "false"})["HTTPS_ONLY"]
    assert "all are redirected" in doubts(SOUND | {"TRUSTED_PROXIES": ""})["TRUSTED_PROXIES"]
    staging = SOUND | {"ENVIRONMENT": "staging", "TRUSTED_PROXIES": ""}
    assert "lets everybody in" in doubts(staging)["TRUSTED_PROXIES"]
    assert "block you" in doubts(SOUND | {"NOMINATIM_CONTACT": ""})["NOMINATIM_CONTACT"]
    assert doubts(SOUND | {"NOMINATIM_CONTACT": "", "NOMINATIM_URL": "https://osm.bakery.example/maps"}) == {}
    assert doubts(SOUND | {"ADMIN_ALLOW": "0.0.0.0/0"})["ADMIN_ALLOW"] == "is the whole internet"


def test_the_public_nominatim_is_not_asked_faster_than_its_policy_allows() -> None:
    assert (
        "one request a second"
        in problems({"NOMINATIM_INTERVAL_SECONDS": "0.5"})["NOMINATIM_INTERVAL_SECONDS"]
    )
    assert load({"NOMINATIM_INTERVAL_SECONDS": "0.5", "NOMINATIM_URL": "https://osm.bakery.example"})
    assert "must not have" in problems({"NOMINATIM_URL": "https://user:x@osm.example"})["NOMINATIM_URL"]
    assert "not an e-mail" in problems({"NOMINATIM_CONTACT": "a\r\nb"})["NOMINATIM_CONTACT"]


def test_no_secret_is_ever_shown() -> None:
    secret = secrets.token_hex(12)
    environ = {
        "JWT_SECRET_KEY": secret,
        "REDIS_PASSWORD": secret,
        "REDIS_URL": f"redis+nonsense://:{secret}@redis",
        "AUTH_SERVICE_URL": f"http://user:{secret}@auth",
        "JWT_JWKS_URL": f"https://user:{secret}@auth.example.com",
        "ENVIRONMENT": "prod",
        "PORT": "x",
    }
    with pytest.raises(ConfigErrors) as raised:
        load(environ)
    assert len(raised.value.errors) == 5
    assert secret not in str(raised.value) + repr(raised.value) + repr(raised.value.errors)
    settings = load({"JWT_SECRET_KEY": secret, "REDIS_HOST": "redis", "REDIS_PASSWORD": secret})
    assert secret not in repr(settings)
    assert secret not in str(settings)


def test_several_secrets_are_taken_in_order_and_each_is_judged() -> None:
    assert load(SOUND | {"JWT_SECRET_KEY": f"{'n' * 32}, {'o' * 40},"}).jwt_secret_keys == (
        "n" * 32,
        "o" * 40,
    )
    short = problems(SOUND | {"JWT_SECRET_KEY": f"{'n' * 32},{'o' * 31}"})["JWT_SECRET_KEY"]
    assert short.startswith("number 2 has 31 bytes; in prod it needs at least 32")
    published = problems(SOUND | {"JWT_SECRET_KEY": f"{'n' * 32},{PUBLISHED}"})["JWT_SECRET_KEY"]
    assert published.startswith("number 2 is the default secret")
    many = ",".join(letter * 32 for letter in "abcde")
    assert "at most 4" in problems(SOUND | {"JWT_SECRET_KEY": many})["JWT_SECRET_KEY"]


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        load({}).port = 1  # type: ignore[misc]
