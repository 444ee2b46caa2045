"""`python -m benchmarks group`: what it costs to deliver a message to everybody in a large group.

Strategy: a group is made as an application makes one, in the store (`IStore.create_group`), before a node opens it. All its members are a
crowd (`benchmarks.crowd`): some of them write, and everybody reads, sees whether a message comes twice or too late, acknowledges what has
come, and confirms it as the client library does, with one receipt for all since the last. That none is missing is seen by the sum. Messages
in flight are those that not everybody has, by the same sum, so that the group is never asked for more than it takes.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import platform
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from twisted.internet.defer import Deferred

from benchmarks.crowd import HELLO_ID, Crowd, CrowdError, Member, Who
from benchmarks.driving import Figures, medians
from benchmarks.load_loop import VARIANT, VERSION_7
from benchmarks.servers import ServerError, choose_cores, cpu_seconds, node_command, on_core, running
from benchmarks.terminal import TEMPORARY, duration, file_system, folder, machine, print_table, raise_file_limit, say, say_where, whole
from twisted_im.config import STORES
from twisted_im.server.names import user_key
from twisted_im.storage.sqlite import SqliteStore
from twisted_im.wire.codec import codec, flat, notify, tag
from twisted_im.wire.framing import Frame
from twisted_im.wire.schema import Command, ContentType, Kind, LoginMethod, ReceiptType

EXAMPLES = """
examples:
  python -m benchmarks group
      the row of the budget: 500 members, 16 messages in flight
  python -m benchmarks group --members 2000 --in-flight 4
      a larger group, where less is said
  python -m benchmarks group --json
      for programs: one object

The server runs on one core and the members on another. A delivery is a message that one member gets; the store is in SQLite.
"""

STORE = "sqlite"
LOGINS = 64  #: under way at once
PATIENCE = 30.0  #: seconds without a delivery after which what is missing is given up
MOST_IN_FLIGHT = 32  #: half the notifies that a node sends unacknowledged: so soon nobody falls behind
ACKNOWLEDGE = 16  #: notifies that a member takes before it says so
KEPT = 1024  #: messages whose time of sending is kept

_MESSAGE_NOTIFY = tag(Kind.NOTIFY, Command.MESSAGE)
_MESSAGE_RESPONSE = tag(Kind.RESPONSE, Command.MESSAGE)
_RECEIPT_RESPONSE = tag(Kind.RESPONSE, Command.RECEIPT)
_BEHIND = tag(Kind.NOTIFY, Command.SYNC)
_pack_message, _message_size = flat(Kind.REQUEST, Command.MESSAGE)
_pack_receipt, _receipt_size = flat(Kind.REQUEST, Command.RECEIPT)
_read_message = codec(Kind.NOTIFY, Command.MESSAGE).fixed.unpack_from
_client_id = struct.Struct(">QQ")


class Group(Crowd):
    """All members of one group, on one connection each.

    Args:
        port: of the node.
        members: who they are.
        conversation: the group.
        senders: how many of them write.
        in_flight: messages that not everybody has, at the most.
        content: of each message.

    Attributes:
        sent, accepted, delivered: messages sent and accepted; and deliveries.
        faults: what came that must not, one line each.
        delays: seconds from a message's leaving to each of its deliveries, while `measuring`.
    """

    def __init__(self, port: int, members: Sequence[Who], conversation: int, senders: int, in_flight: int, content: bytes) -> None:
        super().__init__(port, members, None)
        self.sent = self.accepted = self.delivered = 0
        self.faults: list[str] = []
        self.delays: list[float] = []
        self.measuring = False
        self._conversation, self._in_flight, self._content = conversation, in_flight, content
        self._senders = self._members[:senders]
        self._others = len(members) - 1
        self._newest = [0] * len(members)  # seq of the newest message that each has
        self._taken = [0] * len(members)  # notifies that each has got
        self._requests = HELLO_ID + 100
        self._left_at = [0.0] * KEPT  # when message n left, at n % KEPT
        self._now = 0.0

    def talk_for(self, seconds: float) -> None:
        """Keeps so many messages in flight for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._fill()
            self._turn(end - time.monotonic())

    def drain(self) -> bool:
        """Takes what is still under way; whether all of it has come."""
        before, since = self.delivered, time.monotonic()
        while self.delivered < self.sent * self._others or self.accepted < self.sent:
            self._turn(0.02)
            if self.delivered != before:
                before, since = self.delivered, time.monotonic()
            elif time.monotonic() > since + PATIENCE:
                return False
        return True

    def _fill(self) -> None:
        self._now = time.monotonic()
        moment = int((self._now + self._offset) * 1000)
        while self.sent - self.delivered // self._others < self._in_flight:
            self.sent += 1
            sender = self._senders[self.sent % len(self._senders)]
            client_id = _client_id.pack(moment << 16 | VERSION_7, VARIANT | self.sent)
            values = self._request_id(), client_id, self._conversation, ContentType.BINARY, 0, 0
            self._left_at[self.sent % KEPT] = self._now
            length = _message_size + len(self._content)
            self._send(sender, _pack_message(length, tag(Kind.REQUEST, Command.MESSAGE), *values) + self._content)

    def _request_id(self) -> int:
        self._requests += 1
        return self._requests

    def _on_readable(self, member: Member) -> None:
        self._now = time.monotonic()
        super()._on_readable(member)

    def _take(self, member: Member, frame: Frame, out: list[bytes]) -> bool:
        received = frame[0]
        if received == _MESSAGE_NOTIFY:
            self._on_message(member, frame[3], out)
        elif received == _MESSAGE_RESPONSE and not frame[2]:
            self.accepted += 1
        elif received == _BEHIND:
            raise CrowdError("the server has left messages out: this machine is too slow for so many, choose fewer --members")
        elif received != _RECEIPT_RESPONSE or frame[2]:
            return super()._take(member, frame, out)
        return False

    def _on_message(self, member: Member, body: bytes, out: list[bytes]) -> None:
        index = member.index
        _, seq, _, _, client_id, *_ = _read_message(body)
        if seq <= self._newest[index]:
            self.faults.append(f"member {index} got message {seq} after {self._newest[index]}")
        self._newest[index] = seq
        self.delivered += 1
        if self.measuring:
            number = int.from_bytes(client_id[8:], "big") & 0xFFFFFFFF
            self.delays.append(self._now - self._left_at[number % KEPT])
        taken = self._taken[index] = self._taken[index] + 1
        if not taken % ACKNOWLEDGE:
            out.append(notify(Command.WINDOW, count=taken))
            values = self._conversation, seq, ReceiptType.DELIVERED
            out.append(_pack_receipt(_receipt_size, tag(Kind.REQUEST, Command.RECEIPT), self._request_id(), *values))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this command."""
    add = parser.add_argument
    add("--members", type=whole(2), default=500, metavar="N", help="of the group, all online [default: 500]")
    add("--senders", type=whole(1), default=8, metavar="N", help="of them, those that write [default: 8]")
    add("--in-flight", type=whole(1, MOST_IN_FLIGHT), default=16, metavar="N", help="messages that not everybody has [default: 16]")
    add("--payload", type=whole(0, 60_000), default=100, metavar="BYTES", help="content of a message [default: 100]")
    add("--seconds", type=duration, default=3, metavar="S", help="how long is measured [default: 3]")
    add("--repeat", type=whole(1), default=3, metavar="N", help="how often; medians count [default: 3]")
    add("--data", type=folder, default=TEMPORARY, metavar="DIR", help=f"where the store has its file for a while [default: {TEMPORARY}]")
    add("--quick", action="store_true", help="does it work? 12 members, figures of no weight")
    add("--json", action="store_true", help="one JSON object instead of a table")


def run(options: argparse.Namespace) -> int:
    """Measures; gives the exit status: 1 if something was lost, or could not be measured."""
    if options.quick:
        options.members, options.senders, options.repeat, options.seconds = 12, 2, 1, 0.3
    if options.senders > options.members:
        options.parser.error(f"--senders: {options.senders} of {options.members} members cannot write; choose fewer, or more --members")
    if problem := raise_file_limit("--members", options.members, "connections"):
        options.parser.error(problem)
    say_where(options.data)
    gc.disable()  # the members make no cycles, and a collection would stand in the latencies
    runs: list[Figures] = []
    try:
        for turn in range(1, options.repeat + 1):
            runs.append(measure(options))
            figures = runs[-1]
            say(f"{turn}/{options.repeat}: {figures['deliveries_per_s']:,.0f} deliveries/s, {figures['cpu_us_per_delivery']:.2f} µs each")
    except (CrowdError, ServerError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    finally:  # an interrupt, or a fault, keeps what was measured until then
        if runs:
            report(options, runs)
    faults = [fault for figures in runs for fault in figures["faults"]]
    for fault in faults:
        print(f"WRONG: {fault}", file=sys.stderr)
    return 1 if faults else 0


def make_group(path: Path, uids: Sequence[str]) -> int:
    """Makes a store with a group of new users in it; gives the group's number.

    Raises:
        StoreError: the file cannot be made.
    """
    path.parent.mkdir()
    store = SqliteStore(path)
    store.open()  # no reactor runs here, so each call is done when it returns
    users = [user_key(b"", uid.encode()) for uid in uids]
    store.accounts(users, True)
    made: Deferred[int] = store.create_group(b"group", users)
    found: list[int] = []
    made.addCallback(found.append)
    store.close()
    return found[0]


def measure(options: argparse.Namespace) -> Figures:
    """One run, on a node of its own.

    Raises:
        ServerError: it did not start.
        CrowdError: somebody could not log in, or fell behind.
    """
    cores = choose_cores()
    uids = [f"u{index}" for index in range(options.members)]
    members = [Who(uid.encode(), LoginMethod.ANONYMOUS, b"") for uid in uids]
    content = bytes(options.payload)
    with tempfile.TemporaryDirectory(prefix="twisted_im-benchmarks-", dir=options.data) as name, on_core(cores.load):
        place = Path(name)
        conversation = make_group(place / "data" / STORES[STORE].file, uids)
        with running("node", node_command("single", STORE, None, []), cores.server, place) as server:
            group = Group(server.port, members, conversation, options.senders, options.in_flight, content)
            try:
                group.gather(LOGINS)
                group.talk_for(options.seconds / 3)  # what comes first is not measured: the reading of the members, say
                group.measuring = True
                began, before, accepted = time.monotonic(), group.delivered, group.accepted
                cpu, own = cpu_seconds(server.pid), time.process_time()
                group.talk_for(options.seconds)
                cpu, own = cpu_seconds(server.pid) - cpu, time.process_time() - own
                seconds, delivered, accepted = time.monotonic() - began, group.delivered - before, group.accepted - accepted
                group.measuring = False
                complete = group.drain()
            finally:
                group.close()
    faults = group.faults[:3]
    if not complete:
        wanted = group.sent * (options.members - 1)
        faults.append(f"{group.sent} messages were sent, and of {wanted} deliveries {group.delivered} have come")
    delays = sorted(group.delays)
    return {
        "deliveries_per_s": round(delivered / seconds, 1),
        "messages_per_s": round(accepted / seconds, 1),
        "cpu_us_per_delivery": round(1e6 * cpu / max(delivered, 1), 3),
        "server_core_share": round(cpu / seconds, 3),
        "load_core_share": round(own / seconds, 3),
        "p50_ms": _percentile_ms(delays, 0.5),
        "p99_ms": _percentile_ms(delays, 0.99),
        "delivered": group.delivered,
        "accepted": group.accepted,
        "faults": faults,
    }


def _percentile_ms(ordered: Sequence[float], part: float) -> float:
    return round(1e3 * ordered[min(math.ceil(part * len(ordered)), len(ordered)) - 1], 3) if ordered else 0.0


def report(options: argparse.Namespace, runs: Sequence[Figures]) -> None:
    """Prints the medians."""
    row: Figures = {
        **medians(runs),
        "members": options.members,
        "senders": options.senders,
        "in_flight": options.in_flight,
        "payload": options.payload,
        "seconds": options.seconds,
        "repeat": len(runs),
        "store": STORE,
        "file_system": file_system(options.data),
        "cores_apart": choose_cores().apart,
        "python": platform.python_version(),
        "machine": machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "faults": [fault for figures in runs for fault in figures["faults"]],
    }
    if options.json:
        print(json.dumps(row))
        return
    heads = ["members", "senders", "in flight", "deliveries/s", "messages/s", "CPU/delivery", "p50", "p99"]
    cells = [f"{row['members']:,}", str(row["senders"]), str(row["in_flight"]), f"{row['deliveries_per_s']:,.0f}"]
    cells += [f"{row['messages_per_s']:,.0f}", f"{row['cpu_us_per_delivery']:.2f} µs", f"{row['p50_ms']:.1f} ms", f"{row['p99_ms']:.1f} ms"]
    print_table(heads, [cells])
    print(
        f"{row['payload']} bytes, medians of {row['repeat']} × {row['seconds']:g} s; members in Python; Python {row['python']}; "
        f"{row['machine']}; {STORE} on {row['file_system']}"
    )
    if row["load_core_share"] > row["server_core_share"]:
        print("The members were busier than the server: trust the CPU of a delivery, not the rate.")
