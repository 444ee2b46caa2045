"""A store, opened by a command instead of a server: both may have it open at the same time."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.internet.task import react

from twisted_im.errors import ImError
from twisted_im.server.interfaces import StoreError
from twisted_im.server.names import checked_name, user_key
from twisted_im.storage.sqlite import SqliteStore
from twisted_im.wire.schema import MAX_TENANT, MAX_UID


def _sqlite(path: str, create: bool) -> Any:
    if not create and not Path(path).exists():
        raise ValueError(f"{path} does not exist; is that the file that the server has?")
    return SqliteStore(path)


#: kind of store → (where, whether to make one that is not there) → the store, not open yet. One in memory cannot be opened from outside.
STORES: dict[str, Callable[[str, bool], Any]] = {"sqlite": _sqlite}


def opened(store: str, *, create: bool = False) -> Any:
    """The store that is meant by the value of `--store`, such as "sqlite:im.db".

    Raises:
        ValueError: there is no such kind of store, or no such store; the message says what to do.
        StoreError: it cannot be used.
    """
    kind, _, where = store.partition(":")
    if kind not in STORES or not where:
        raise ValueError(f"--store is {' or '.join(f'{name}:PATH' for name in STORES)}, as the server has it; not {store!r}")
    found = STORES[kind](where, create)
    found.open()
    return found


def run_on(command: str, store: str, act: Callable[[Any], Awaitable[None]], *, create: bool = False) -> int:
    """Does something with a store, and closes it; gives the exit status. What a user can mend is one line, and a status of 1.

    Args:
        command: for that line.
        act: gets the store.
        create: whether to make one that is not there.
    """
    status = 1

    async def main(_: object) -> None:
        nonlocal status
        try:
            found = opened(store, create=create)
            try:
                await act(found)
            finally:
                await found.close()
            status = 0
        except KeyboardInterrupt:
            status = 130
        except EOFError:
            print(f"{command}: none was typed; nothing was changed", file=sys.stderr)
        except OSError as error:
            print(f"{command}: {error.filename or store}: {(error.strerror or str(error)).lower()}", file=sys.stderr)
        except (ImError, StoreError, ValueError) as error:
            print(f"{command}: {error.reason if isinstance(error, ImError) else error}", file=sys.stderr)

    try:
        react(lambda reactor: ensureDeferred(main(reactor)))
    except SystemExit as end:
        return status if not end.code else 1
    return status


def user_of(tenant: str, uid: str) -> bytes:
    """The key of the user that a command names.

    Raises:
        ImError: nobody can have that name.
    """
    names = tenant.encode("utf-8", "surrogateescape"), uid.encode("utf-8", "surrogateescape")
    checked_name(names[0], "tenant", most=MAX_TENANT, empty=True)
    checked_name(names[1], "uid", most=MAX_UID)
    return user_key(*names)
