"""The demonstration of one node: four devices for a few seconds, with faults, packet by packet where that shows most.

Strategy: see `twisted_im.commands.demo_stage`. The clients talk over TLS, and the packets are printed from their own trace.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.x509.oid import ExtendedKeyUsageOID

from twisted_im.client.values import Life
from twisted_im.commands.certificate import make_authority, make_leaf, server_name
from twisted_im.commands.demo_stage import PATIENCE, Actor, Play, Twistd, milliseconds, say, title
from twisted_im.pem import as_pem
from twisted_im.wire.codec import CODECS
from twisted_im.wire.framing import Frame
from twisted_im.wire.schema import Command, Kind, ReceiptType

#: Messages of each sender while the node is killed: several windows full, so that it is in the middle of them.
MANY = 300


def throwaway_certificate(folder: Path) -> Path:
    """A key, a certificate for this machine and the authority that signed it, in one PEM file; nothing else can be signed by that."""
    signer = make_authority()
    names = [server_name(name) for name in ("localhost", "127.0.0.1", "::1")]
    certificate, key = make_leaf(signer, "localhost", list(names), [ExtendedKeyUsageOID.SERVER_AUTH])
    path = folder / "throwaway.pem"
    path.touch(mode=0o600)
    path.write_bytes(b"".join(map(as_pem, (key, certificate, signer[0]))))
    return path


class Demo(Play):
    """One node.

    Args:
        store: a kind in `STORES`.
    """

    def __init__(self, reactor: Any, folder: Path, *, store: str, messages: int) -> None:
        super().__init__(reactor, folder, messages=messages)
        self._store = store
        self._watch: Callable[[Actor, str, Frame], None] | None = None

    def frame(self, actor: Actor, direction: str, frame: Frame) -> None:
        if self._watch is not None:
            self._watch(actor, direction, frame)

    async def play(self) -> int:
        """Plays all scenes; gives the status."""
        pem = throwaway_certificate(self._folder)
        listen = f"--listen=tls:{pem}:port={{port}}:interface=127.0.0.1"
        words = ["im", f"--store={self._store}", "--data=data", "--auth=anonymous", "--name=demo", listen]
        self._node = Twistd(self._reactor, self._folder, "the node", words)
        failed, kept = None, Counter[bytes]()
        try:
            await self._within(self._node.start())
            say(f"A node, started by twistd with --store={self._store}, at {self._node.address}, over TLS with a throw-away certificate.")
            where = self._node.address
            self.actors = [Actor(self, user, label, f"tls:{where}", trust=pem) for user in ("alice", "bob") for label in ("phone", "desk")]
            await self._log_in()
            await self._six_packets()
            await self._talk()
            await self._one_away()
            await self._lost_connection()
            await self._killed_node()
            kept = await self.kept()
        except ChildProcessError as error:
            failed = str(error)
        except TimeoutError as error:
            failed = f"not finished within {PATIENCE:.0f} s: {error}"
        status = self.judge(kept, failed)
        await self.leave()
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
        await self._until(lambda: all(a.online for a in (sender, receiver)) and len(sender.lives) > 3, "reconnects")
        for actor in (sender, receiver):
            wait = next(s.retry_in for _, s in reversed(actor.lives) if s.life is Life.WAITING)
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
        await self._until(lambda: all(len(a.lives) > n and a.online for a, n in news), "reconnects")
        say(f"All four devices are back {milliseconds(gone)} ms after it was killed.")
        await self._settled()
        say(f"All {2 * count} messages are through, {milliseconds(began)} ms after the first was sent.")


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
