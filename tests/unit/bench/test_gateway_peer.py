from __future__ import annotations

from bench.peers import PEERS


def test_the_gateway_of_this_tree_can_be_measured() -> None:
    (peer,) = [peer for peer in PEERS if peer.name == "gateway"]
    assert peer.available()
