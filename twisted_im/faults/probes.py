"""Devices with a task of their own, in the process of the run: each task is tried on all nodes at once, and says what was not as promised.

Strategy: plain clients, who know one node each and go straight there. Their users write to nobody else, so the oracle has nothing to do
with them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from twisted_im.client.client import Client
from twisted_im.client.values import Accepted, Life
from twisted_im.errors import Disconnect, ImError, Status
from twisted_im.faults.recorder import LIMITS
from twisted_im.wire.schema import LoginMethod

#: Waits until something holds, for so many seconds; fails with a `TimeoutError`.
Until = Callable[[Callable[[], object], float, str], Awaitable[None]]

#: Devices that repeat a message, and how often all of them together do.
REPEATERS, REPEATS = 20, 1000

_PATIENCE = 60.0


def _client(reactor: Any, address: str, user: str, device: bytes | None = None, **more: Any) -> Client:
    return Client(address, uid=user, device=device, method=LoginMethod.ANONYMOUS, limits=LIMITS, reactor=reactor, **more)


async def twins(reactor: Any, addresses: Sequence[str], until: Until, *, rounds: int) -> tuple[float, list[str]]:
    """One device logs in on two nodes at once, again and again.

    Returns:
        the longest time from the second login until one session lived and the other had been told, in seconds; and what was not as it
        should be.
    """
    device, longest, wrong = os.urandom(16), 0.0, []
    for number in range(rounds):
        online: list[float] = []
        note = lambda standing: online.append(time.monotonic()) if standing.life is Life.ONLINE else None  # noqa: B023, E731
        pair = [_client(reactor, addresses[(number + at) % len(addresses)], "twin", device, on_state=note) for at in range(2)]
        for each in pair:
            each.startService()
        try:
            lives = lambda: sorted(each.standing.life.value for each in pair)  # noqa: B023, E731  # used in this turn only
            await until(lambda: lives() == sorted([Life.ONLINE.value, Life.ENDED.value]), _PATIENCE, "one of two sessions to end")  # noqa: B023
            longest = max(longest, time.monotonic() - online[-1])
            ended = next(each for each in pair if each.standing.life is Life.ENDED).standing.error
            if ended is None or ended.code is not Disconnect.TAKEN_OVER:
                wrong.append(f"of two sessions of one device, the older was told {ended}")
        except TimeoutError as error:
            wrong.append(f"{error}: they are {lives()}")
        finally:
            await gatherResults([each.stopService() for each in pair if each.running])
    return longest, wrong


async def repeats(reactor: Any, addresses: Sequence[str], until: Until) -> list[str]:
    """One client id is sent a thousand times, at once, from several devices on all nodes; and then with another content.

    Returns:
        what was not as it should be.
    """
    user, other = f"repeater-{os.urandom(6).hex()}", f"repeated-{os.urandom(6).hex()}"
    clients = [_client(reactor, addresses[at % len(addresses)], user) for at in range(REPEATERS)]
    receiver = _client(reactor, addresses[0], other)
    receiver.startService()
    client_id = int(time.time() * 1000).to_bytes(6, "big") + os.urandom(10)
    places: list[Accepted] = []
    wrong: list[str] = []

    def refused(failure: Any) -> None:
        wrong.append(f"a repeated message was refused: {failure.value}")

    def send(client: Client, left: int) -> None:
        """Again and again, each as soon as the one before was accepted."""

        def accepted(place: Accepted) -> None:
            places.append(place)
            if left > 1:
                send(client, left - 1)

        client.send(other, "the same", client_id=client_id).accepted.addCallbacks(accepted, refused)

    for client in clients:
        client.startService()
    try:
        everybody = [receiver, *clients]
        await until(lambda: all(each.standing.life is Life.ONLINE for each in everybody), _PATIENCE, "those who repeat a message")
        for client in clients:
            send(client, REPEATS // REPEATERS)
        await until(lambda: len(places) >= REPEATS or wrong, _PATIENCE, "a message to be accepted each time")
        where = {(place.conversation, place.seq) for place in places}
        if len(where) > 1:
            wrong.append(f"one client id was given several places: {sorted(where)}")
        for client in clients[: len(addresses)]:
            wrong += await _conflict(client, other, client_id)
        heads = [each.head for each in await clients[0].conversations()]
        if heads != [1]:
            wrong.append(f"a message that was sent {REPEATS} times makes conversations up to seq {heads}")
    except (TimeoutError, ImError) as error:
        wrong.append(str(error))
    finally:
        await gatherResults([each.stopService() for each in (receiver, *clients)])
    return wrong


async def _conflict(client: Client, other: str, client_id: bytes) -> list[str]:
    """The same id with another content is to be refused."""
    asked: Deferred[Any] = client.send(other, "another", client_id=client_id).accepted
    try:
        place = await asked
    except ImError as error:
        return [] if error.code is Status.CONFLICT else [f"another message under a used client id was refused with {error}"]
    return [f"another message under a used client id was accepted: {place}"]
