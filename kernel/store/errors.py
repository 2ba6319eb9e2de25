"""What can go wrong with the store.

StoreError
 +-- StoreDown                      it cannot be reached, or did not answer in time
 +-- StoreRefused                   it answered a command with an error
"""

from __future__ import annotations


class StoreError(Exception):
    """Any failure of a command."""


class StoreDown(StoreError):
    """The store cannot be reached, or did not answer in time: whether the command was executed is unknown."""


class StoreRefused(StoreError):
    """The store answered with an error, which is the message."""
