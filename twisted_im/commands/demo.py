"""`python -m twisted_im demo`: a node and four devices for a few seconds, with faults, and a summary that is checked.

Strategy: nothing is staged. The node is a process of its own, as an operator starts it, and is killed as a machine that fails would kill
it; the clients are the shipped library over TLS, and the packets are printed from the clients' own trace. The summary is computed from
what the devices have shown against what the senders were told, and against what the store gives to somebody who reads all of it in the
end; if one message is missing, twice, or out of order, the status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.internet.defer import Deferred, DeferredList, ensureDeferred
from twisted.internet.defer import TimeoutError as NoAnswer
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater, react
from twisted.python.failure import Failure

from twisted_im.client.client import Client
from twisted_im.client.sending import Sending
from twisted_im.client.values import Accepted, Life, Message, Standing
from twisted_im.commands.certificate import make_authority, make_leaf, server_name
from twisted_im.config import STORES
from twisted_im.pem import as_pem
from twisted_im.wire.codec import CODECS
from twisted_im.wire.framing import Frame
from twisted_im.wire.schema import Command, Kind, LoginMethod, ReceiptType

EXAMPLES = """Example:
  python -m twisted_im demo --quick
  python -m twisted_im demo --store=memory
      without a disk; then the server is not killed, since its messages would go with it
The status is 0 if every message was accepted, is kept, and was shown once and in order on every device, else 1."""

#: Seconds until a demonstration that does not come to its end is called failed.
PATIENCE = 60.0

#: Messages of each sender while the node is killed: several windows full, so that it is in the middle of them.
MANY = 300


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="fewer messages")
    parser.add_argument("--store", choices=sorted(STORES), default="sqlite", help="where messages are kept, for a while [default: sqlite]")


def run(arguments: argparse.Namespace) -> int:
    status = 1

    async def main(reactor: Any) -> None:
        nonlocal status
        with tempfile.TemporaryDirectory() as folder:
            demo = Demo(reactor, Path(folder), store=arguments.store, messages=40 if arguments.quick else 400)
            status = await demo.play()

    try:
        react(lambda reactor: ensureDeferred(main(reactor)))
    except SystemExit as end:
        return status if not end.code else 1
    return status


def throwaway_certificate(folder: Path) -> Path:
    """A key, a certificate for this machine and the authority that signed it, in one PEM file; nothing else can be signed by that."""
    signer = make_authority()
    names = [server_name(name) for name in ("localhost", "127.0.0.1", "::1")]
    certificate, key = make_leaf(signer, "localhost", list(names), [ExtendedKeyUsageOID.SERVER_AUTH])
    path = folder / "throwaway.pem"
    path.touch(mode=0o600)
    path.write_bytes(b"".join(map(as_pem, (key, certificate, signer[0]))))
    return path


class NodeProcess(ProcessProtocol):
    """A node as an operator starts it, by `twistd`; it is gone before this program's reactor stops.

    Args:
        folder: where it runs, and has its file.
        pem: its key and certificate.
        store: for --store.
    """

    def __init__(self, reactor: Any, folder: Path, pem: Path, store: str) -> None:
        self._reactor = reactor
        self._folder = folder
        self._options = [f"--store={store}", "--data=data", "--auth=anonymous", "--name=demo"]
        self._pem = pem
        self._told: deque[str] = deque(maxlen=5)
        self._rest = b""
        self._listening: Deferred[None] = Deferred()
        self._ended: Deferred[None] | None = None
        self.address = ""
        reactor.addSystemEventTrigger("before", "shutdown", self.kill)

    def start(self) -> Deferred[None]:
        """Fires when it listens; the second time, where it has before. Fails with a `ChildProcessError` if it ends instead."""
        port = self.address.rpartition(":")[2] or "0"
        words = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile=", "im", *self._options]
        words.append(f"--listen=tls:{self._pem}:port={port}:interface=127.0.0.1")
        root = str(Path(__file__).parents[2])  # it is the same twisted_im, also in a checkout
        path = os.pathsep.join(dict.fromkeys([root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])).rstrip(os.pathsep)
        self._listening, self._ended = Deferred(), Deferred()
        self._reactor.spawnProcess(self, words[0], words, env={**os.environ, "PYTHONPATH": path}, path=str(self._folder))
        return self._listening

    def kill(self) -> Deferred[None]:
        """SIGKILL: not a line of it runs any more. Fires when it has gone."""
        return self._end("KILL")

    def stop(self) -> Deferred[None]:
        """SIGTERM: it stops in good order. Fires when it has gone."""
        return self._end("TERM")

    def _end(self, signal: str) -> Deferred[None]:
        ended: Deferred[None] = Deferred()
        if self._ended is None:
            ended.callback(None)
        else:
            self._ended.addCallback(ended.callback)
            assert self.transport is not None
            self.transport.signalProcess(signal)
        return ended

    def outReceived(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            event = json.loads(line) if line.startswith(b"{") else {}
            if event.get("event") == "listening" and not self._listening.called:
                self.address = event["address"]
                self._listening.callback(None)

    def errReceived(self, data: bytes) -> None:
        self._told += data.decode("utf-8", "replace").splitlines()

    def processEnded(self, reason: Failure) -> None:
        ended, self._ended = self._ended, None
        self._rest = b""
        if not self._listening.called:
            self._listening.errback(ChildProcessError("the node does not start: " + " ".join(self._told)))
        assert ended is not None
        ended.callback(None)


class Actor:
    """One device on the stage, and all that it has seen."""

    def __init__(self, demo: Demo, user: str, label: str, address: str, trust: Path) -> None:
        self.user = user
        self.name = f"{user}'s {label}"
        self.shown: list[Message] = []
        self.sendings: list[Sending] = []
        self.lives: list[Standing] = []
        self.client = Client(
            f"tls:{address}",
            uid=user,
            method=LoginMethod.ANONYMOUS,
            label=label,
            trust=trust,
            on_message=self.shown.append,
            on_state=self.lives.append,
            on_frame=lambda direction, frame: demo.frame(self, direction, frame),
        )

    def send(self, to: str, text: str) -> Sending:
        self.sendings.append(self.client.send(to, text))
        return self.sendings[-1]


class Demo:
    """The play and its judge.

    Args:
        folder: for the certificate, and the node's file.
        store: a kind in `STORES`.
        messages: how many are sent in the larger scenes.
    """

    def __init__(self, reactor: Any, folder: Path, *, store: str, messages: int) -> None:
        self._reactor = reactor
        self._folder = folder
        self._store = store
        self._messages = messages
        self._watch: Callable[[Actor, str, Frame], None] | None = None
        self.actors: list[Actor] = []

    async def play(self) -> int:
        """Plays all scenes; gives the status."""
        pem = throwaway_certificate(self._folder)
        self._node = NodeProcess(self._reactor, self._folder, pem, self._store)
        failed, kept = None, Counter[bytes]()
        try:
            await self._within(self._node.start())
            say(f"A node, started by twistd with --store={self._store}, at {self._node.address}, over TLS with a throw-away certificate.")
            where = self._node.address
            self.actors = [Actor(self, user, label, where, pem) for user in ("alice", "bob") for label in ("phone", "desk")]
            await self._log_in()
            await self._six_packets()
            await self._talk()
            await self._one_away()
            await self._lost_connection()
            await self._killed_node()
            kept = await self._kept()
        except ChildProcessError as error:
            failed = str(error)
        except TimeoutError as error:
            failed = f"not finished within {PATIENCE:.0f} s: {error}"
        status = self._judge(kept, failed)
        await DeferredList([actor.client.stopService() for actor in self.actors])
        await self._node.stop()
        return status

    # ---- scenes

    async def _log_in(self) -> None:
        began = time.perf_counter()
        for actor in self.actors:
            actor.client.startService()
            await self._within(actor.client.when_online())
        names = ", ".join(actor.name for actor in self.actors)
        say(f"Two users with two devices each have logged in ({milliseconds(began)} ms): {names}.")

    async def _six_packets(self) -> None:
        phone, desk, others = self.actors[0], self.actors[1], self.actors[2:]
        title("1. One message, packet by packet")
        say("alice's phone sends “Hello, Bob!”. Times are milliseconds since the first packet, as the devices see it.\n")
        began = 0.0
        seen: Counter[str] = Counter()

        def watch(actor: Actor, direction: str, frame: Frame) -> None:
            nonlocal began
            described = describe(frame)
            if described is None or (actor is desk and described[0] in "456"):
                return  # the desk acknowledges its copy as well; that would be the same six packets again
            number, what, about = described
            if number == "6" and actor is not phone:
                return
            began = began or time.perf_counter()
            seen[number] += 1
            way = f"{actor.name} → node" if direction == "out" else f"node → {actor.name}"
            say(f"  {milliseconds(began):>8}   {number} {what:<17} {way:<22} {about}")

        self._watch = watch
        phone.send("bob", "Hello, Bob!")
        await self._until(lambda: seen["6"] >= 1 and seen["5"] >= len(others), "the six packets")
        self._watch = None
        say("\n  1 request, 2 accepted (the store has it), 3 shown to bob's devices and to alice's other one;")
        say("  4 bob's devices confirm, 5 confirmed, 6 alice learns that it was delivered.")

    async def _talk(self) -> None:
        title("2. A conversation")
        began, count = time.perf_counter(), self._messages
        for i in range(count):
            self.actors[i % 4].send("bob" if i % 4 < 2 else "alice", f"talk {i}")
            if i % 16 == 15:
                await self._pause()
        await self._settled()
        say(f"{count} messages from all four devices: each is shown on the three others after {milliseconds(began)} ms.")

    async def _one_away(self) -> None:
        title("3. A device is away, and comes back")
        away, count = self.actors[3], self._messages // 2
        await away.client.stopService()
        before = len(away.shown)
        for i in range(count):
            self.actors[0].send("bob", f"while you were away {i}")
        await self._until(lambda: not self.actors[0].client.unsent(), "messages to somebody who is away")
        say(f"{away.name} is away; alice sends {count} messages. They are accepted, and shown on bob's phone.")
        began = time.perf_counter()
        away.client.startService()
        await self._settled()
        say(f"{away.name} is back: it has shown the {len(away.shown) - before} that it missed after {milliseconds(began)} ms.")

    async def _lost_connection(self) -> None:
        title("4. Two connections are lost under load")
        count = self._messages
        began = time.perf_counter()
        sender, receiver = self.actors[0], self.actors[2]
        half = [sender.send("bob", f"load {i}") for i in range(count)]
        for i in range(count):
            receiver.send("alice", f"echo {i}")
        await self._within(half[count // 4].accepted)
        for actor in (sender, receiver):
            open_ones = len(actor.client.unsent())
            actor.client.abort()
            say(f"{actor.name} loses its connection, with {open_ones} messages not yet accepted.")
        await self._until(lambda: all(a.lives[-1].life is Life.ONLINE for a in (sender, receiver)) and len(sender.lives) > 3, "reconnects")
        for actor in (sender, receiver):
            wait = next(s.retry_in for s in reversed(actor.lives) if s.life is Life.WAITING)
            say(f"{actor.name} is back after a pause of {wait * 1000:.0f} ms, and sends again what was not answered, under the same ids.")
        await self._settled()
        say(f"All {2 * count} messages are through, {milliseconds(began)} ms after the first was sent.")

    async def _killed_node(self) -> None:
        title("5. The node is killed under load, and started again")
        if self._store == "memory":
            say("Left out: messages in memory would go with the process. --store=sqlite shows it.")
            return
        began, before = time.perf_counter(), [len(actor.lives) for actor in self.actors]
        phones = self.actors[0], self.actors[2]
        count = max(self._messages, MANY)
        first = [phone.send(to, f"storm {i}") for i in range(count) for phone, to in zip(phones, ("bob", "alice"), strict=True)]
        await self._within(first[count // 2].accepted)
        await self._node.kill()
        waiting = sum(len(actor.client.unsent()) for actor in phones)
        say(f"kill -9: the node is gone, with {waiting} of {2 * count} messages not yet accepted as far as their senders know.")
        gone = time.perf_counter()
        await self._within(self._node.start())
        say(f"The node is started again on the same file, and listens after {milliseconds(gone)} ms.")
        news = list(zip(self.actors, before, strict=True))
        await self._until(lambda: all(len(a.lives) > n and a.lives[-1].life is Life.ONLINE for a, n in news), "reconnects")
        say(f"All four devices are back {milliseconds(gone)} ms after it was killed.")
        await self._settled()
        say(f"All {2 * count} messages are through, {milliseconds(began)} ms after the first was sent.")

    async def _kept(self) -> Counter[bytes]:
        """What the store has, as somebody reads it who has forgotten everything: how often each client id."""
        found: Counter[bytes] = Counter()
        for conversation in await self._within(self.actors[0].client.conversations()):
            first = 1
            while first <= conversation.head:
                page = await self._within(self.actors[0].client.history(conversation.id, first, limit=1000, newest=False))
                found.update(message.client_id for message in page.messages)
                first = page.last + 1
        return found

    # ---- the judge

    def _judge(self, kept: Counter[bytes], failed: str | None) -> int:
        title("Summary: what the devices have shown, against what the senders were told")
        say(f"  {'device':<15}{'sent':>7}{'accepted':>10}{'to be shown':>13}{'shown':>7}{'twice':>7}{'order':>7}")
        good = failed is None
        for actor in self.actors:
            accepted = [s for s in actor.sendings if isinstance(s.outcome, Accepted)]
            due = {s.client_id for a in self.actors if a is not actor for s in a.sendings if isinstance(s.outcome, Accepted)}
            shown = Counter(message.client_id for message in actor.shown)
            twice = sum(count - 1 for count in shown.values())
            places = [message.seq for message in actor.shown]
            ordered = places == sorted(places)
            fine = len(accepted) == len(actor.sendings) and set(shown) == due and not twice and ordered
            good = good and fine
            say(
                f"  {actor.name:<15}{len(actor.sendings):>7}{len(accepted):>10}{len(due):>13}{len(actor.shown):>7}{twice:>7}"
                f"{'yes' if ordered else 'NO':>7}{'' if fine else '   WRONG'}"
            )
        sent = {sending.client_id for actor in self.actors for sending in actor.sendings}
        once = set(kept) == sent and not any(count > 1 for count in kept.values())
        good = good and once
        repeats = sum(actor.client.duplicates for actor in self.actors)
        say(f"\n  The store has {kept.total()} messages, read back from the first: {'each that was sent, once' if once else 'WRONG'}.")
        say(f"  {repeats} came to a device again after a lost connection, and were shown once.")
        if failed is not None:
            say(f"\nNot played to the end: {failed}.")
        say("\nEverything holds: sent = accepted = kept = shown on each device, none twice, in order." if good else "\nIT DOES NOT HOLD.")
        return 0 if good else 1

    # ---- waiting

    def frame(self, actor: Actor, direction: str, frame: Frame) -> None:
        """A client's trace."""
        if self._watch is not None:
            self._watch(actor, direction, frame)

    def _pause(self) -> Deferred[None]:
        return deferLater(self._reactor, 0, lambda: None)

    async def _within(self, waited: Deferred[Any]) -> Any:
        try:
            return await waited.addTimeout(PATIENCE, self._reactor)
        except NoAnswer:
            raise TimeoutError("the start of the node, a login or an answer") from None

    async def _until(self, holds: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > end:
                raise TimeoutError(what)
            await deferLater(self._reactor, 0.002, lambda: None)

    async def _settled(self) -> None:
        """Everything sent so far has been accepted, and as many messages shown as there are others' messages."""
        total = sum(len(actor.sendings) for actor in self.actors)
        await self._until(
            lambda: all(not a.client.unsent() and len(a.shown) >= total - len(a.sendings) for a in self.actors),
            "messages to be accepted and shown",
        )


def describe(frame: Frame) -> tuple[str, str, str] | None:
    """The number of a packet among the six, its name, and what it says; None if it is another frame."""
    kind, command = Kind(frame[0] >> 16 & 0xFF), frame[0] & 0xFFFF
    if command not in (Command.MESSAGE, Command.RECEIPT):
        return None
    values = CODECS[kind, Command(command)].read(frame[3])
    if command == Command.MESSAGE:
        if kind is Kind.REQUEST:
            return "1", "message request", f"to {values.target.decode()}: {values.content.decode()}"
        if kind is Kind.RESPONSE:
            return "2", "message response", f"accepted: conversation {values.conversation}, seq {values.seq}"
        return "3", "message notify", f"from {values.sender.decode()}, seq {values.seq}: {values.content.decode()}"
    if kind is Kind.REQUEST:
        return "4", "receipt request", f"{ReceiptType(values.type).name.lower()} up to seq {values.seq}"
    if kind is Kind.RESPONSE:
        return "5", "receipt response", "noted"
    return "6", "receipt notify", f"{ReceiptType(values.type).name.lower()} to {values.user.decode()} up to seq {values.seq}"


def say(text: str) -> None:
    print(text, flush=True)


def title(text: str) -> None:
    say(f"\n{text}\n{'─' * len(text)}")


def milliseconds(began: float) -> str:
    return f"{(time.perf_counter() - began) * 1000:.2f}"
