"""What every demonstration stands on: processes as an operator starts them, devices that remember what they saw, and a judge.

Strategy: nothing is staged. Nodes are processes of their own, started by `twistd` and killed as a machine that fails would kill them; what
is told of them is what they log. Devices are the shipped client library. The summary is computed from what the devices have shown against
what the senders were told, and against what the store gives to somebody who reads all of it in the end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, DeferredList, FirstError, gatherResults
from twisted.internet.defer import TimeoutError as NoAnswer
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from twisted_im.client.client import Client
from twisted_im.client.sending import Sending
from twisted_im.client.values import Accepted, Life, Message, Receipt, Standing
from twisted_im.config import PREFIX
from twisted_im.leash import leashed_twistd
from twisted_im.wire.codec import CODECS
from twisted_im.wire.framing import Frame
from twisted_im.wire.schema import Command, Kind, LoginMethod

#: Seconds until a demonstration that does not come to its end is called failed.
PATIENCE = 60.0

#: Before twistd's own words. A leashed process ends with this one, even if that is killed; it takes Linux to do so.
_TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]


class Twistd(ProcessProtocol):
    """A process as an operator starts it, by `twistd`; it is gone before this program's reactor stops.

    Args:
        folder: where it runs.
        name: of the node or route server.
        words: what follows `twistd -n`. A `{port}` in them is 0 the first time, and then the port that it got.
        up: the event in its log that says that it listens, and the field of that which has the address.
        environment: variables beside this process's own; those that would be settings are not passed on.

    Attributes:
        address: where it listens, or did; empty before that.
        events: what its log has told, as far as it has an event's name; `at` is the time, in seconds since 1970.
        running: its process is there.
    """

    def __init__(
        self,
        reactor: Any,
        folder: Path,
        name: str,
        words: Sequence[str],
        *,
        up: tuple[str, str] = ("listening", "address"),
        environment: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.address = ""
        self.events: list[dict[str, Any]] = []
        self._reactor = reactor
        self._folder = folder
        self._words = words
        self._up = up
        self._environment = environment or {}
        self._told: deque[str] = deque(maxlen=3)
        self._rest = b""
        self._listening: Deferred[None] = Deferred()
        self._ended: Deferred[None] | None = None
        self._asking: deque[Deferred[dict[str, Any]]] = deque()
        reactor.addSystemEventTrigger("before", "shutdown", self.kill)

    @property
    def running(self) -> bool:
        return self._ended is not None

    def start(self) -> Deferred[None]:
        """Fires when it listens; the second time, where it has before. Fails with a `ChildProcessError` if it ends instead."""
        port = self.address.rpartition(":")[2] or "0"
        twistd = leashed_twistd(os.getpid()) if sys.platform == "linux" else _TWISTD
        words = [*twistd, "-n", "--pidfile=", *(word.replace("{port}", port) for word in self._words)]
        root = str(Path(__file__).parents[2])  # it is the same twisted_im, also in a checkout
        path = os.pathsep.join(dict.fromkeys([root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])).rstrip(os.pathsep)
        plain = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        self._listening, self._ended = Deferred(), Deferred()
        environment = {**plain, **self._environment, "PYTHONPATH": path}
        self._reactor.spawnProcess(self, words[0], words, env=environment, path=str(self._folder))
        return self._listening

    def of(self, event: str, since: float = 0.0, **fields: Any) -> list[dict[str, Any]]:
        """Its events of a kind, not older than a time."""
        return [each for each in self.events if each["event"] == event and each["at"] >= since and fields.items() <= each.items()]

    def counters(self) -> Deferred[dict[str, Any]]:
        """What it has done so far, as it logs that when it is asked."""
        wanted: Deferred[dict[str, Any]] = Deferred()
        self._asking.append(wanted)
        assert self.transport is not None
        self.transport.signalProcess(signal.SIGUSR2)
        return wanted

    def kill(self) -> Deferred[None]:
        """SIGKILL: not a line of it runs any more. Fires when it has gone."""
        return self._end(signal.SIGKILL)

    def stop(self) -> Deferred[None]:
        """SIGTERM: it stops in good order. Fires when it has gone."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> Deferred[None]:
        ended: Deferred[None] = Deferred()
        if self._ended is None:
            ended.callback(None)
            return ended
        self._ended.addCallback(ended.callback)
        assert self.transport is not None
        try:
            self.transport.signalProcess(number)
        except ProcessExitedAlready:
            pass  # and that is told in a moment
        return ended

    def outReceived(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._heard(json.loads(line) if line.startswith(b"{") else {"text": line.decode("utf-8", "replace"), "level": "error"})

    def _heard(self, line: dict[str, Any]) -> None:
        if line["level"] in ("error", "critical"):
            self._told.append(line["text"])
        if "event" not in line:
            return
        line["at"] = datetime.fromisoformat(line["time"]).timestamp()
        if line["event"] == "counters":
            if self._asking:
                self._asking.popleft().callback(line)
            return
        self.events.append(line)
        up, field = self._up
        if line["event"] == up and not self._listening.called:
            self.address = line[field].removeprefix("tcp:")
            self._listening.callback(None)

    def errReceived(self, data: bytes) -> None:
        self._told += data.decode("utf-8", "replace").splitlines()

    def processEnded(self, reason: Failure) -> None:
        ended, self._ended = self._ended, None
        self._rest = b""
        if not self._listening.called:
            why = " ".join(self._told) or reason.getErrorMessage()
            self._listening.errback(ChildProcessError(f"{self.name} does not start: {why.removeprefix('twisted_im: ')}"))
        asking, self._asking = self._asking, deque()
        for wanted in asking:
            wanted.errback(ChildProcessError(f"{self.name} has ended"))
        assert ended is not None
        ended.callback(None)


class Sent(NamedTuple):
    """A message that a device has sent, and the users who are to have it."""

    sending: Sending
    users: frozenset[str]


class Actor:
    """One device on the stage, and all that it has seen.

    Args:
        where: addresses, with commas between them; the first one first.
        more: for its `Client`.

    Attributes:
        node: the name of the node that it met last.
        shown, shown_at: messages, in their order; client id → when it was shown.
        lives: where its life was, and when.
        receipts: what it was told of its messages.
        confirmed: receipts of its own that its server has taken.
    """

    def __init__(self, play: Play, user: str, label: str, where: str, **more: Any) -> None:
        self._play = play
        self.user = user
        self.name = f"{user}'s {label}"
        self.node = ""
        self.sent: list[Sent] = []
        self.shown: list[Message] = []
        self.shown_at: dict[bytes, float] = {}
        self.lives: list[tuple[float, Standing]] = []
        self.receipts: list[Receipt] = []
        self.confirmed = 0
        self.client = Client(
            where,
            uid=user,
            label=label,
            on_message=self._show,
            on_receipt=self.receipts.append,
            on_state=lambda standing: self.lives.append((time.time(), standing)),
            on_frame=self._frame,
            **{"method": LoginMethod.ANONYMOUS, **more},
        )

    @property
    def online(self) -> bool:
        return self.client.standing.life is Life.ONLINE

    def send(self, to: str | int, text: str) -> Sending:
        """Sends to a user, or to a group that the play knows."""
        sending = self.client.send(to, text)
        self.sent.append(Sent(sending, self._play.groups[to] if isinstance(to, int) else frozenset({self.user, to})))
        return sending

    def _show(self, message: Message) -> Deferred[None] | None:
        self.shown.append(message)
        self.shown_at[message.client_id] = time.perf_counter()
        return self._play.shown()

    def _frame(self, direction: str, frame: Frame) -> None:
        kind, command = Kind(frame[0] >> 16 & 0xFF), frame[0] & 0xFFFF
        if direction == "in" and kind is Kind.RESPONSE and not frame[2] & 0xFFFF:
            if command == Command.HELLO:
                self.node = CODECS[kind, Command.HELLO].read(frame[3]).node.decode()
            self.confirmed += command == Command.RECEIPT
        self._play.frame(self, direction, frame)


class Play:
    """A demonstration: what all of them share.

    Args:
        folder: for what the processes keep.
        messages: how many are sent in the larger scenes.

    Attributes:
        actors: the devices.
        groups: conversation → its members.
    """

    def __init__(self, reactor: Any, folder: Path, *, messages: int) -> None:
        self._reactor = reactor
        self._folder = folder
        self._messages = messages
        self.actors: list[Actor] = []
        self.groups: dict[int, frozenset[str]] = {}
        self._held: list[Deferred[None]] | None = None

    def frame(self, actor: Actor, direction: str, frame: Frame) -> None:
        """A client's trace."""

    def shown(self) -> Deferred[None] | None:
        """A device shows a message; while this waits, it does not confirm that, and shows no other."""
        if self._held is None:
            return None
        self._held.append(Deferred())
        return self._held[-1]

    # ---- the judge

    async def kept(self) -> Counter[bytes]:
        """What the store has, as somebody reads it who has forgotten everything: how often each client id."""
        found: dict[tuple[int, int], bytes] = {}
        for actor in {actor.user: actor for actor in self.actors if actor.online}.values():
            found.update(await self.read(actor))
        return Counter(found.values())

    async def read(self, actor: Actor) -> dict[tuple[int, int], bytes]:
        """All that a device's server has for its user: (conversation, seq) → client id."""
        found: dict[tuple[int, int], bytes] = {}
        for conversation in await self._within(actor.client.conversations()):
            first = 1
            while first <= conversation.head:
                page = await self._within(actor.client.history(conversation.id, first, limit=1000, newest=False))
                found.update({(conversation.id, message.seq): message.client_id for message in page.messages})
                first = page.last + 1
        return found

    def due(self, actor: Actor) -> list[Sending]:
        """What others have sent to this one's user, or another device of the same user has."""
        return [sent.sending for each in self.actors if each is not actor for sent in each.sent if actor.user in sent.users]

    def judge(self, kept: Counter[bytes], failed: str | None) -> int:
        """Says what was shown, and what not; gives the status."""
        if failed is not None and not self.actors:
            say(f"\nNot played: {failed}.")
            return 1
        title("Summary: what the devices have shown, against what the senders were told")
        say(f"  {'device':<15}{'sent':>7}{'accepted':>10}{'to be shown':>13}{'shown':>7}{'twice':>7}{'order':>7}")
        good = failed is None
        for actor in self.actors:
            accepted = [sent for sent in actor.sent if isinstance(sent.sending.outcome, Accepted)]
            due = {sending.client_id for sending in self.due(actor) if isinstance(sending.outcome, Accepted)}
            shown = Counter(message.client_id for message in actor.shown)
            twice = sum(count - 1 for count in shown.values())
            places: dict[int, list[int]] = {}
            for message in actor.shown:
                places.setdefault(message.conversation, []).append(message.seq)
            ordered = all(seqs == sorted(seqs) for seqs in places.values())
            fine = len(accepted) == len(actor.sent) and set(shown) == due and not twice and ordered
            good = good and fine
            say(
                f"  {actor.name:<15}{len(actor.sent):>7}{len(accepted):>10}{len(due):>13}{len(actor.shown):>7}{twice:>7}"
                f"{'yes' if ordered else 'NO':>7}{'' if fine else '   WRONG'}"
            )
        sent_ids = {sent.sending.client_id for actor in self.actors for sent in actor.sent}
        once = set(kept) == sent_ids and not any(count > 1 for count in kept.values())
        good = good and once
        repeats = sum(actor.client.duplicates for actor in self.actors)
        say(f"\n  The store has {kept.total()} messages, read back from the first: {'each that was sent, once' if once else 'WRONG'}.")
        say(f"  {repeats} came to a device more than once, after something was lost, and were shown once.")
        if failed is not None:
            say(f"\nNot played to the end: {failed}.")
        say("\nEverything holds: sent = accepted = kept = shown on each device, none twice, in order." if good else "\nIT DOES NOT HOLD.")
        return 0 if good else 1

    async def leave(self) -> None:
        """All devices close."""
        await DeferredList([actor.client.stopService() for actor in self.actors])

    # ---- waiting

    def _pause(self, seconds: float = 0.0) -> Deferred[None]:
        return deferLater(self._reactor, seconds, lambda: None)

    async def _within(self, waited: Deferred[Any]) -> Any:
        try:
            return await waited.addTimeout(PATIENCE, self._reactor)
        except NoAnswer:
            raise TimeoutError("the start of a process, a login or an answer") from None

    async def _all(self, waited: Sequence[Deferred[Any]]) -> list[Any]:
        """What all of them give; fails as the first that fails."""
        try:
            found: list[Any] = await self._within(gatherResults(waited, consumeErrors=True))
        except FirstError as error:
            error.subFailure.raiseException()
        return found

    async def _until(self, holds: Callable[[], object], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > end:
                raise TimeoutError(what)
            await self._pause(0.002)

    async def _settled(self) -> None:
        """Everything sent so far has been accepted, and shown by all who are there and are to have it."""
        await self._until(
            lambda: all(not a.client.unsent() and (not a.client.running or len(a.shown) >= len(self.due(a))) for a in self.actors),
            "messages to be accepted and shown",
        )


def say(text: str) -> None:
    print(text, flush=True)


def title(text: str) -> None:
    say(f"\n{text}\n{'─' * len(text)}")


def milliseconds(began: float) -> str:
    return f"{(time.perf_counter() - began) * 1000:.2f}"
