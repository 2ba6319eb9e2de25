"""The embedded store: starts fast, answers only its owner, and leaves nothing behind however its parent ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from kernel.server.embedded_store import EmbeddedStore, EmbeddedStoreError


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def running(pid: int) -> bool:
    """Whether `pid` is alive; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_answers_on_a_private_socket_and_leaves_nothing_after_stop() -> None:
    store = EmbeddedStore().start()
    directory = store.socket_path.parent
    pid = store.pid
    assert pid is not None
    assert directory.stat().st_mode & 0o777 == 0o700
    with redis.Redis.from_url(store.url) as client:
        assert client.ping()
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("save") == {"save": ""}
    store.stop()
    assert not directory.exists()
    assert not running(pid)
    assert store.pid is None
    store.stop()


def test_tcp_is_loopback_only_and_asks_for_the_password_of_its_url() -> None:
    with EmbeddedStore(port=0) as store:
        assert store.tcp_url is not None
        with redis.Redis.from_url(store.tcp_url) as client:
            assert client.ping()
            assert client.config_get("bind") == {"bind": "127.0.0.1"}
        port = urlsplit(store.tcp_url).port
        assert port is not None
        with (
            redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()
        with redis.Redis.from_url(store.url) as client:
            assert client.ping()
        # Nothing secret in what `ps` shows.
        assert str(urlsplit(store.tcp_url).password) not in Path(f"/proc/{store.pid}/cmdline").read_text()


def test_without_a_port_there_is_no_tcp() -> None:
    with EmbeddedStore() as store, redis.Redis.from_url(store.url) as client:
        assert store.tcp_url is None
        assert client.config_get("port") == {"port": "0"}


def test_comes_back_empty_at_the_same_address_after_a_kill() -> None:
    with EmbeddedStore(port=0) as store:
        before = (store.url, store.tcp_url)
        with redis.Redis.from_url(store.url) as client:
            client.set("kept", "no")
        store.kill()
        assert store.pid is None
        store.start()
        assert (store.url, store.tcp_url) == before
        with redis.Redis.from_url(store.url) as client:
            assert client.get("kept") is None


def test_a_taken_port_is_an_error_that_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        store = EmbeddedStore(port=taken.getsockname()[1])
        with pytest.raises(EmbeddedStoreError, match="Address already in use"):
            store.start()
        with pytest.raises(EmbeddedStoreError, match="not started"):
            _ = store.socket_path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="parent-death signals are Linux only")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_server_survives_its_parent(how: signal.Signals) -> None:
    program = (
        "import signal\n"
        "from kernel.server.embedded_store import EmbeddedStore\n"
        "s = EmbeddedStore().start()\n"
        "print(s.pid, s.socket_path.parent, flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, directory = parent.stdout.readline().split()
        assert running(int(pid))
        parent.send_signal(how)
        parent.wait()
        assert eventually(lambda: not running(int(pid)))
    for left in Path(directory).iterdir():
        left.unlink()
    Path(directory).rmdir()


def test_a_forked_child_does_not_stop_its_parents_server() -> None:
    with EmbeddedStore() as store:
        child = os.fork()
        if child == 0:
            store.stop()
            os._exit(0)
        os.waitpid(child, 0)
        assert store.pid is not None
        with redis.Redis.from_url(store.url) as client:
            assert client.ping()
