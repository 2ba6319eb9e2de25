"""What a SIGHUP changes, and what it leaves."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from kernel.config import Settings
from kernel.config.variables import VARIABLES
from kernel.server.reload import AT_START, Reload, settled
from kernel.server.worker import Loader


def loader() -> Loader:
    return Loader(Settings(), "unix:///none", Path(), 1)


def test_what_needs_a_restart_is_kept_and_named() -> None:
    new = replace(Settings(), port=9000, http2=True, rate_limit_requests=7)
    kept, waiting = settled(Settings(), new)
    assert waiting == ["PORT", "HTTP2"]
    assert kept == replace(Settings(), rate_limit_requests=7)
    assert settled(Settings(), Settings()) == (Settings(), [])


def test_other_certificates_are_taken_but_tls_itself_needs_a_restart() -> None:
    plain = Settings()
    old = replace(plain, tls_cert_file=Path("a.crt"), tls_key_file=Path("a.key"))
    new = replace(plain, tls_cert_file=Path("b.crt"), tls_key_file=Path("b.key"))
    assert settled(old, new) == (new, [])
    assert settled(plain, new) == (plain, ["TLS_CERT_FILE", "TLS_KEY_FILE"])
    assert settled(old, plain) == (old, ["TLS_CERT_FILE", "TLS_KEY_FILE"])


def test_all_that_needs_a_restart_is_a_variable() -> None:
    assert set(AT_START) <= {variable.attribute for variable in VARIABLES}


def test_the_next_workers_get_what_was_read_completed() -> None:
    said: list[str] = []
    target = loader()
    read = replace(Settings(), rate_limit_requests=7, workers=9)
    reload = Reload(
        target, lambda: read, lambda found: replace(found, jwt_secret_keys=("made",)), said.append
    )
    assert reload()
    assert target.settings == replace(Settings(), rate_limit_requests=7, jwt_secret_keys=("made",))
    assert said == [
        "SIGHUP: WORKERS has changed, which takes a restart: it stays as it was",
        "SIGHUP: the workers are replaced with the configuration as it is now",
    ]
    reload.undo()
    assert target.settings == Settings()


def test_a_failure_of_reading_does_not_end_the_parent() -> None:
    def read() -> Settings:
        raise RecursionError("nested too deep")

    said: list[str] = []
    target = loader()
    assert not Reload(target, read, lambda found: found, said.append)()
    assert not Reload(target, Settings, lambda found: read(), said.append)()
    assert target.settings == Settings()
    assert said[0] == "SIGHUP: the configuration cannot be read: RecursionError: nested too deep"


def test_errors_leave_the_configuration_as_it_was() -> None:
    said: list[str] = []
    target = loader()
    assert not Reload(target, lambda: None, lambda found: found, said.append)()
    assert target.settings == Settings()
    assert said == ["SIGHUP: the workers go on with the configuration they have"]
