"""The oracle: reads what all clients have written down of a run, and says whether every promise was kept.

Strategy: the oracle knows nothing of servers, sockets or clocks. Clients write events, one JSON object a line (the classes below are their
declaration); whoever disturbs the run writes its faults. `Oracle.add` sorts the events into tables, `Oracle.judge` walks over them once,
conversation by conversation. A test, a simulator and a run of real processes so have one judge.

What is judged:

    L0  every message that was sent is answered; every accepted one is shown on every device entitled to it within a minute of the last
        fault, or was read by it from the log
    D0  no device shows a message twice
    O0  in each contiguous range that a device shows, the order is that of the seqs, without a gap
    P0  nothing is shown that was not sent, or by another than is said, or to somebody who was not a member
    A0  a client id has one answer and one place, a place has one client id, and the seqs of a conversation are dense over all logs

Entitled are all devices of a direct message's two users, or of the group's members at that seq, but for the device that sent it: that one
has it on its screen already. A device's range begins at seq 1, or where it was `anchored`.

Events are kept as columns of numbers, so a million of them take some hundred megabytes, and the text of an event is not kept: a violation
names events by the numbers that the caller gave them, and the caller looks them up.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Annotated

try:
    from msgspec import DecodeError, Meta, Struct, ValidationError
    from msgspec.json import Decoder
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("msgspec is not installed: pip install 'twisted_im[faults]'", name=error.name) from None

#: Seconds from the last fault, or from the acceptance, until a message is shown everywhere.
GRACE = 60.0

#: Violations of one law that are kept with their events; the rest are counted.
KEPT = 20

#: A refusal after which the message may be in the log all the same.
UNKNOWN_OUTCOME = frozenset({"STALE_ID"})

#: law → what it says, for the report
LAWS = {
    "L0": "everything accepted is shown everywhere",
    "D0": "nothing is shown twice",
    "O0": "in order, without a gap",
    "P0": "nothing that was not sent, or to strangers",
    "A0": "one id, one place; no place left out",
}

#: What is counted; `expired` are messages that a device could not read any more, and was told so.
COUNTS = ("events", "users", "devices", "conversations", "sent", "accepted", "refused", "unanswered", "shown", "pulled", "expired")

# ---- what clients write

Name = Annotated[str, Meta(min_length=1, max_length=64)]
Seq = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
Bound = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class Event(Struct, tag_field="event", forbid_unknown_fields=True, omit_defaults=True):
    """What happened.

    Attributes:
        time: seconds, on one clock for all logs of a run.
    """

    time: float


class Started(Event, tag="started"):
    """A device has come, for the first time or again. From here on it is to show everything."""

    user: Name
    device: Name


class Gone(Event, tag="gone"):
    """A device has left for good. What it has not shown is nobody's loss."""

    user: Name
    device: Name


class Sent(Event, tag="sent"):
    """A device is about to send a message. It is written before the message leaves.

    Attributes:
        target: a user, or a conversation's id.
    """

    user: Name
    device: Name
    client_id: Name
    target: Name | Seq


class Accepted(Event, tag="accepted"):
    """The sender was told that the server has it."""

    client_id: Name
    conversation: Seq
    seq: Seq


class Refused(Event, tag="refused"):
    """The sender was told that the server will never take it. `code` is the name of a `Status`."""

    client_id: Name
    code: Name


class Shown(Event, tag="shown"):
    """A device has shown a message."""

    user: Name
    device: Name
    conversation: Seq
    seq: Seq
    client_id: Name
    sender: Name


class Anchored(Event, tag="anchored"):
    """A device was far behind, and passes over what is before `seq`: a contiguous range begins here.

    Attributes:
        first: the first that it passed over.
    """

    user: Name
    device: Name
    conversation: Seq
    seq: Seq
    first: Seq


class Pulled(Event, tag="pulled"):
    """A device has read the log from `first` to `last`.

    Attributes:
        floor: rows up to this seq are gone by retention.
        rows: (seq, client id, sender) of each message there.
    """

    user: Name
    device: Name
    conversation: Seq
    first: Seq
    last: Bound
    rows: list[tuple[Seq, Name, Name]]
    floor: Bound = 0


class Member(Event, tag="member"):
    """A user joined a group, or left it: they may see its rows from `seq` on, or no longer."""

    user: Name
    conversation: Seq
    seq: Seq
    joined: bool


class Fault(Event, tag="fault"):
    """Something was broken on purpose."""

    kind: Name


class Healed(Event, tag="healed"):
    """Nothing is broken any more."""


class Quiet(Event, tag="quiet"):
    """The run has waited for everything to settle, and ends. What has not been shown by now never will be."""


_Any = Started | Gone | Sent | Accepted | Refused | Shown | Anchored | Pulled | Member | Fault | Healed | Quiet
_decoder: Decoder[_Any] = Decoder(_Any)


def read_event(line: bytes | str) -> Event:
    """The event of one line of a log.

    Raises:
        ValueError: it is none; the message says why.
    """
    try:
        return _decoder.decode(line)
    except ValidationError as error:
        raise ValueError(f"not an event: {error}") from None
    except (DecodeError, UnicodeError) as error:
        raise ValueError(f"not a JSON object: {error}") from None


# ---- what is told in the end


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken.

    Attributes:
        law: a key of `LAWS`.
        text: one sentence.
        evidence: the numbers of the events that show it.
        device: "user/device"; empty if it is about no device.
        conversation, first, last: the range of seqs; 0 if it is about none.
    """

    law: str
    text: str
    evidence: tuple[int, ...]
    device: str = ""
    conversation: int = 0
    first: int = 0
    last: int = 0


@dataclass(slots=True)
class Report:
    """What the oracle found.

    Attributes:
        counts: for each of `COUNTS`.
        faults: kind → how many.
        broken: law → how many violations.
        violations: up to `KEPT` for each law.
        seconds: from the first event to the last.
        unproven: why a run without a violation proves nothing; empty if it does.
    """

    counts: dict[str, int]
    faults: dict[str, int]
    seconds: float
    unproven: str
    broken: Counter[str]
    violations: list[Violation]

    @property
    def holds(self) -> bool:
        """Every law was kept, and there was something to keep."""
        return not self.broken and not self.unproven

    def text(self, event: Callable[[int], str]) -> str:
        """For people.

        Args:
            event: gives the text of an event, by its number.
        """
        count = self.counts
        lines = [
            f"{count['users']} users, {count['devices']} devices, {count['conversations']} conversations, {self.seconds:.0f} s",
            ", ".join(f"{name} {count[name]:,}" for name in COUNTS[4:]),
            "faults: " + (", ".join(f"{kind} {number}" for kind, number in sorted(self.faults.items())) or "none"),
            "",
        ]
        for law, says in LAWS.items():
            broken = self.broken[law]
            lines.append(f"{law}  {says:<44}{f'{broken:,} times broken' if broken else 'holds'}")
        for violation in self.violations:
            lines += ["", f"{violation.law}  {violation.text}", *(f"    {event(number)}" for number in violation.evidence)]
        for law in LAWS:
            if self.broken[law] > KEPT:
                lines += ["", f"{law}  {self.broken[law] - KEPT:,} more of these"]
        lines += ["", "IT DOES NOT HOLD." if self.broken else f"Unproven: {self.unproven}." if self.unproven else "Everything holds."]
        return "\n".join(lines)


# ---- tables


class _Device:
    """One device: when it last came, and what it has shown and read of each conversation."""

    __slots__ = ("gone", "pulled", "seen", "started", "started_at", "user", "word")

    def __init__(self, user: str, device: str) -> None:
        self.user = user
        self.word = f"{user}/{device}"
        self.started = 0.0
        self.started_at = -1
        self.gone = False
        self.seen: dict[int, _Seen] = {}
        self.pulled: dict[int, _Pulls] = {}


class _Message:
    """One client id, and all that is known of it. The number of an event is -1 where there was none."""

    __slots__ = (
        "accepted", "accepted_at", "client_id", "device", "place", "placed_at", "refused", "refused_at", "sender", "sender_at", "sent_at",
        "target",
    )  # fmt: skip

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        self.device: _Device | None = None
        self.target: str | int = 0
        self.sender = self.refused = ""
        self.accepted = 0.0
        self.place: tuple[int, int] | None = None
        self.sent_at = self.accepted_at = self.placed_at = self.refused_at = self.sender_at = -1


class _Seen:
    """What a device has shown of one conversation, in its order; an anchor is (the showings before it, its seq)."""

    __slots__ = ("anchors", "at", "messages", "seqs", "times")

    def __init__(self) -> None:
        self.anchors: list[tuple[int, int]] = []
        self.seqs = array("q")
        self.times = array("d")
        self.at = array("q")
        self.messages: list[_Message] = []


class _Pulls:
    """What a device has read of one conversation's log: message → the event."""

    __slots__ = ("floor", "messages")

    def __init__(self) -> None:
        self.floor = 0
        self.messages: dict[_Message, int] = {}


class _Log:
    """One conversation's log, as all that was written down together tells it.

    Attributes:
        rows: seq → message.
        order: its seqs, sorted; there once everything has been read.
        pair: the users of its direct messages.
        changes: user → (seq, joined), by seq, of a group.
        floor: rows up to this one are gone by retention, as somebody was told.
    """

    __slots__ = ("changes", "floor", "order", "pair", "rows")

    def __init__(self) -> None:
        self.rows: dict[int, _Message] = {}
        self.order: list[int] = []
        self.pair: set[str] = set()
        self.changes: dict[str, list[tuple[int, bool]]] = {}
        self.floor = 0

    def may_see(self, user: str, message: _Message, seq: int) -> bool:
        """Whether a message that somebody sent is for a user."""
        assert message.device is not None
        if isinstance(message.target, str):
            return user in (message.device.user, message.target)
        if self.changes:
            changes = self.changes.get(user, [])
            before = bisect_right(changes, seq, key=itemgetter(0))
            return before > 0 and changes[before - 1][1]
        return user in self.pair


@dataclass(slots=True)
class _Gap:
    """Rows that were due when a higher one was shown; `later`: the events that show them after all."""

    seq: int
    missing: list[int]
    evidence: list[int]
    later: list[int] = field(default_factory=list)


class Oracle:
    """Judges one run.

    Args:
        grace: seconds; see `GRACE`.
    """

    def __init__(self, *, grace: float = GRACE) -> None:
        self._grace = grace
        self._devices: dict[tuple[str, str], _Device] = {}
        self._messages: dict[str, _Message] = {}
        self._logs: dict[int, _Log] = {}
        self._claims: list[tuple[_Message, str, int]] = []  # senders that differ from what was said of the message first
        self._counts = Counter(dict.fromkeys(COUNTS, 0))
        self._faults: Counter[str] = Counter()
        self._span = (0.0, 0.0)
        self._last_fault = float("-inf")
        self._quiet = False
        self._broken: Counter[str] = Counter()
        self._violations: list[Violation] = []

    # ---- in

    def add(self, event: Event, at: int) -> None:
        """One event. Those of one device come in the order in which they happened; the rest in any.

        Args:
            at: its number, from 0 on, by which violations name it.
        """
        time = event.time
        self._span = (min(self._span[0], time), max(self._span[1], time)) if self._counts["events"] else (time, time)
        self._counts["events"] += 1
        match event:
            case Shown():
                self._counts["shown"] += 1
                message = self._message(event.client_id)
                seen = self._device(event).seen.setdefault(event.conversation, _Seen())
                seen.seqs.append(event.seq)
                seen.times.append(time)
                seen.at.append(at)
                seen.messages.append(message)
                self._met(message, event.conversation, event.seq, event.sender, at)
            case Sent():
                message = self._message(event.client_id)
                if message.sent_at >= 0:
                    self._break("A0", f"{message.client_id} was given to two messages", (message.sent_at, at))
                    return
                self._counts["sent"] += 1
                message.device, message.target, message.sent_at = self._device(event), event.target, at
            case Accepted():
                message = self._message(event.client_id)
                if message.accepted_at < 0:
                    self._counts["accepted"] += 1
                    message.accepted, message.accepted_at = time, at
                self._place(message, event.conversation, event.seq, at)
            case Refused():
                message = self._message(event.client_id)
                self._counts["refused"] += message.refused_at < 0
                message.refused, message.refused_at = event.code, at
            case Pulled():
                self._counts["pulled"] += len(event.rows)
                pulls = self._device(event).pulled.setdefault(event.conversation, _Pulls())
                pulls.floor = max(pulls.floor, event.floor)
                log = self._log(event.conversation)
                log.floor = max(log.floor, event.floor)
                for seq, client_id, sender in event.rows:
                    message = self._message(client_id)
                    pulls.messages[message] = at
                    self._met(message, event.conversation, seq, sender, at)
            case Anchored():
                seen = self._device(event).seen.setdefault(event.conversation, _Seen())
                seen.anchors.append((len(seen.seqs), event.seq))
            case Started():
                device = self._device(event)
                device.started, device.started_at, device.gone = time, at, False
            case Gone():
                self._device(event).gone = True
            case Member():
                changes = self._log(event.conversation).changes.setdefault(event.user, [])
                insort(changes, (event.seq, event.joined), key=itemgetter(0))
            case Fault():
                self._faults[event.kind] += 1
                self._last_fault = max(self._last_fault, time)
            case Healed():
                self._last_fault = max(self._last_fault, time)
            case Quiet():
                self._quiet = True

    def _device(self, event: Shown | Sent | Pulled | Anchored | Started | Gone) -> _Device:
        key = event.user, event.device
        known = self._devices.get(key)
        if known is None:
            known = self._devices[key] = _Device(*key)
        return known

    def _message(self, client_id: str) -> _Message:
        known = self._messages.get(client_id)
        if known is None:
            known = self._messages[client_id] = _Message(client_id)
        return known

    def _log(self, conversation: int) -> _Log:
        known = self._logs.get(conversation)
        if known is None:
            known = self._logs[conversation] = _Log()
        return known

    def _met(self, message: _Message, conversation: int, seq: int, sender: str, at: int) -> None:
        """A message was shown, or read: so it has a sender and a place."""
        if not message.sender:
            message.sender, message.sender_at = sender, at
        elif sender != message.sender:
            self._claims.append((message, sender, at))
        self._place(message, conversation, seq, at)

    def _place(self, message: _Message, conversation: int, seq: int, at: int) -> None:
        if message.place is None:
            message.place, message.placed_at = (conversation, seq), at
            there = self._log(conversation).rows.setdefault(seq, message)
            if there is not message:
                what = f"seq {seq} of conversation {conversation} is both {there.client_id} and {message.client_id}"
                self._break("A0", what, (there.placed_at, at), "", conversation, seq)
        elif message.place != (conversation, seq):
            number, place = message.place
            what = f"{message.client_id} is seq {place} of conversation {number}, and seq {seq} of conversation {conversation}"
            self._break("A0", what, (message.placed_at, at), "", conversation, seq)

    def _break(
        self, law: str, text: str, evidence: Iterable[int], device: str = "", conversation: int = 0, first: int = 0, last: int = 0
    ) -> None:
        self._broken[law] += 1
        if self._broken[law] <= KEPT:
            shown = tuple(sorted({at for at in evidence if at >= 0}))
            self._violations.append(Violation(law, text, shown, device, conversation, first, last or first))

    # ---- the judgement

    def judge(self) -> Report:
        """The report on everything that was added. To be asked once."""
        self._judge_answers()
        of_user: dict[str, list[_Device]] = {}
        met: dict[int, list[_Device]] = {}
        for device in self._devices.values():
            of_user.setdefault(device.user, []).append(device)
            for conversation in {**device.seen, **device.pulled}:
                met.setdefault(conversation, []).append(device)
        for conversation, log in sorted(self._logs.items()):
            log.order = sorted(log.rows)
            for message in log.rows.values():
                if message.device is not None and isinstance(message.target, str):
                    log.pair |= {message.device.user, message.target}
            self._judge_density(conversation, log)
            members = [device for user in sorted(log.pair | log.changes.keys()) for device in of_user.get(user, [])]
            for device in dict.fromkeys([*members, *met.get(conversation, [])]):
                self._judge_device(conversation, log, device)
        self._counts.update(users=len(of_user), devices=len(self._devices), conversations=len(self._logs))
        unproven = "" if self._quiet else "no log says that the run came to a quiet end, so what is missing may only be late"
        unproven = unproven if self._counts["accepted"] else "no message was accepted"
        rank = list(LAWS)
        self._violations.sort(key=lambda violation: rank.index(violation.law))
        seconds = self._span[1] - self._span[0]
        return Report(dict(self._counts), dict(self._faults), seconds, unproven, self._broken, self._violations)

    def _judge_answers(self) -> None:
        """What was said of each client id, whoever shows it."""
        for message in self._messages.values():
            name, answered = message.client_id, message.accepted_at >= 0 or message.refused_at >= 0
            if message.device is None:
                if answered:
                    self._break("P0", f"{name} was answered, and never sent", (message.accepted_at, message.refused_at))
                continue
            if message.accepted_at >= 0 and message.refused_at >= 0:
                self._break("A0", f"{name} was both accepted and refused", (message.accepted_at, message.refused_at))
            if not answered:
                self._counts["unanswered"] += 1
                if self._quiet and not message.device.gone:
                    what = f"{name} was neither accepted nor refused"
                    self._break("L0", what, (message.sent_at, message.placed_at), message.device.word)
            if message.sender and message.sender != message.device.user:
                self._claims.append((message, message.sender, message.sender_at))
        for message, sender, at in self._claims:
            if message.device is not None and sender != message.device.user:
                self._break("P0", f"{message.client_id} came as {sender}'s, and is {message.device.user}'s", (message.sent_at, at))

    def _judge_density(self, conversation: int, log: _Log) -> None:
        before = log.floor
        for seq in log.order[bisect_right(log.order, before) :]:
            if seq != before + 1:
                what = f"conversation {conversation} has no message at {_range(before + 1, seq - 1)}, and one at seq {seq}"
                self._break("A0", what, (log.rows[seq].placed_at,), "", conversation, before + 1, seq - 1)
            before = seq

    def _judge_device(self, conversation: int, log: _Log, device: _Device) -> None:
        seen, pulls = device.seen.get(conversation) or _Seen(), device.pulled.get(conversation) or _Pulls()
        for message, at in pulls.messages.items():
            assert message.place is not None
            self._judge_right(conversation, log, device, message, message.place[1], at)
        first = self._judge_showing(conversation, log, device, seen)
        if not device.gone:
            self._judge_complete(conversation, log, device, seen, pulls, first)

    def _judge_right(self, conversation: int, log: _Log, device: _Device, message: _Message, seq: int, at: int) -> bool:
        """P0: whether a device may have what it has met."""
        what = ""
        if message.device is None:
            what = f"{device.word} has {message.client_id}, which nobody has sent"
        elif not log.may_see(device.user, message, seq):
            what = f"{device.word} has {message.client_id}, which is not for {device.user}"
        elif message.refused and message.accepted_at < 0 and message.refused not in UNKNOWN_OUTCOME:
            what = f"{device.word} has {message.client_id}, which was refused"
        if what:
            evidence = message.sent_at, message.refused_at, at
            self._break("P0", what, evidence, device.word, conversation, seq)
        return not what

    def _judge_showing(self, conversation: int, log: _Log, device: _Device, seen: _Seen) -> dict[_Message, int]:
        """P0, D0 and O0 of what one device has shown of one conversation; gives message → its first showing."""
        first: dict[_Message, int] = {}
        shown: set[int] = set()
        gaps: list[_Gap] = []
        skipped: dict[int, _Gap] = {}
        anchors = deque(seen.anchors)
        where = device.word, conversation
        due = 1
        for index, (seq, at, message) in enumerate(zip(seen.seqs, seen.at, seen.messages, strict=True)):
            while anchors and anchors[0][0] <= index:
                due = anchors.popleft()[1]
            if message in first:
                what = f"{device.word} shows {message.client_id} again"
                self._break("D0", what, (seen.at[first[message]], at), *where, seq)
                continue
            first[message] = index
            self._judge_right(conversation, log, device, message, seq, at)
            if message.device is device:
                what = f"{device.word} shows {message.client_id}, which it sent itself"
                self._break("D0", what, (message.sent_at, at), *where, seq)
                continue
            if message.device is not None and not log.may_see(device.user, message, seq):
                continue  # its order is nobody's concern
            if seq in skipped:
                skipped[seq].later.append(at)
            elif seq < due and seq not in shown:  # if it was shown, two messages have one place, and A0 says so
                what = f"{device.word} shows seq {seq} of conversation {conversation}, and its range began later"
                self._break("O0", what, (at,), *where, seq)
            elif seq > due:
                missing = [s for s in log.order[bisect_left(log.order, due) : bisect_left(log.order, seq)] if self._is_for(log, device, s)]
                if missing:
                    gaps.append(_Gap(seq, missing, [seen.at[index - 1] if index else device.started_at, at]))
                    skipped.update(dict.fromkeys(missing, gaps[-1]))
            shown.add(seq)
            due = max(due, seq + 1)
        for gap in gaps:
            low, high = gap.missing[0], gap.missing[-1]
            came = "later" if len(gap.later) == len(gap.missing) else "later in part" if gap.later else "never"
            what = f"{device.word} shows seq {gap.seq} of conversation {conversation} before {_range(low, high)}, shown {came}"
            self._break("O0", what, [*gap.evidence, *gap.later[:1]], *where, low, high)
        return first

    def _is_for(self, log: _Log, device: _Device, seq: int) -> bool:
        """Whether a device is to show what is at a place."""
        message = log.rows[seq]
        return message.device is not None and message.device is not device and log.may_see(device.user, message, seq)

    def _judge_complete(
        self, conversation: int, log: _Log, device: _Device, seen: _Seen, pulls: _Pulls, first: Mapping[_Message, int]
    ) -> None:
        """L0 of one device in one conversation."""
        missing: list[int] = []
        for seq in log.order:
            message = log.rows[seq]
            if message.accepted_at < 0 or not self._is_for(log, device, seq):
                continue
            index = first.get(message)
            if index is not None:
                late = seen.times[index] - max(message.accepted, self._last_fault, device.started)
                if late > self._grace:
                    what = f"{device.word} shows seq {seq} of conversation {conversation} only {late:.1f} s after nothing was in its way"
                    evidence = message.accepted_at, seen.at[index]
                    self._break("L0", what, evidence, device.word, conversation, seq)
            elif message in pulls.messages:
                continue
            elif seq <= pulls.floor:
                self._counts["expired"] += 1
            else:
                missing.append(seq)
        if self._quiet:
            for low, high in _runs(missing):
                what = f"{device.word} never shows {_range(low, high)} of conversation {conversation}"
                evidence = log.rows[low].accepted_at, device.started_at
                self._break("L0", what, evidence, device.word, conversation, low, high)


def _range(first: int, last: int) -> str:
    return f"seq {first}" if first == last else f"seqs {first} to {last}"


def _runs(seqs: list[int]) -> Iterator[tuple[int, int]]:
    """Rising numbers as ranges without a hole."""
    start = 0
    for index, seq in enumerate(seqs, 1):
        if index == len(seqs) or seqs[index] != seq + 1:
            yield seqs[start], seq
            start = index
