"""The oracle: it passes every history that could have happened, and finds what is wrong with one that could not.

Strategy: hypothesis plays a small messenger in a few lines — logs, members, devices that come late, crash and catch up — and what its
clients write down is a correct history. Then one thing is changed, and the oracle must name just that: the law, the device and the place.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.json import encode
from msgspec.structs import replace

from twisted_im.oracle import (
    GRACE,
    KEPT,
    Accepted,
    Anchored,
    Event,
    Fault,
    Gone,
    Healed,
    Member,
    Oracle,
    Pulled,
    Quiet,
    Refused,
    Report,
    Sent,
    Shown,
    Started,
    read_event,
)

GROUP = 100
USERS = ("ann", "bob", "cid")
DEVICES = [(user, device) for user in USERS for device in ("phone", "desk")]
Device = tuple[str, str]


@dataclass
class World:
    """A messenger that does everything right, and what its clients write down."""

    events: list[Event] = field(default_factory=list)
    logs: dict[int, list[tuple[str, Device]]] = field(default_factory=dict)
    pending: dict[tuple[Device, int], list[int]] = field(default_factory=dict)
    members: set[str] = field(default_factory=set)
    unanswered: list[tuple[str, int, int]] = field(default_factory=list)
    devices: list[Device] = field(default_factory=list)
    ids: int = 0

    def write(self, event: Callable[..., Event], **values: Any) -> None:
        self.events.append(event(time=float(len(self.events)) / 10, **values))

    def come(self, device: Device) -> None:
        """A device, new or after a crash; a new one has all logs before it."""
        self.write(Started, user=device[0], device=device[1])
        if device not in self.devices:
            self.devices.append(device)
            for conversation, rows in self.logs.items():
                wanted = [seq for seq in range(1, len(rows) + 1) if self.is_for(device, conversation, seq)]
                self.pending[device, conversation] = wanted

    def is_for(self, device: Device, conversation: int, seq: int) -> bool:
        if conversation != GROUP:
            return device[0] in self.pair(conversation)
        joined = False
        for event in self.events:
            if isinstance(event, Member) and event.user == device[0] and event.seq <= seq:
                joined = event.joined
        return joined

    @staticmethod
    def pair(conversation: int) -> set[str]:
        return {USERS[i] for i in range(3) if conversation >> i & 1}

    def send(self, device: Device, target: str | int, *, answered: bool) -> None:
        self.ids += 1
        client_id = f"id{self.ids}"
        self.write(Sent, user=device[0], device=device[1], client_id=client_id, target=target)
        if target == "nobody" or (target == GROUP and device[0] not in self.members):
            self.write(Refused, client_id=client_id, code="NO_SUCH")
            return
        conversation = GROUP if target == GROUP else 1 << USERS.index(device[0]) | 1 << USERS.index(str(target))
        rows = self.logs.setdefault(conversation, [])
        rows.append((client_id, device))
        users = self.members if target == GROUP else self.pair(conversation)
        for other in self.devices:
            if other[0] in users and other != device:
                self.pending.setdefault((other, conversation), []).append(len(rows))
        if answered:
            self.write(Accepted, client_id=client_id, conversation=conversation, seq=len(rows))
        else:
            self.unanswered.append((client_id, conversation, len(rows)))

    def change(self, user: str) -> None:
        """A user joins the group, or leaves it."""
        self.members ^= {user}
        self.write(Member, user=user, conversation=GROUP, seq=len(self.logs.get(GROUP, [])) + 1, joined=user in self.members)

    def show(self, device: Device, conversation: int, count: int) -> None:
        """A device shows what is next."""
        waiting = self.pending.get((device, conversation), [])
        for seq in waiting[:count]:
            client_id, sender = self.logs[conversation][seq - 1]
            where = {"user": device[0], "device": device[1], "conversation": conversation, "seq": seq}
            self.write(Shown, **where, client_id=client_id, sender=sender[0])
        del waiting[:count]

    def anchor(self, device: Device, conversation: int, left: int) -> None:
        """A device passes over all but so many, and reads them by itself."""
        waiting = self.pending.get((device, conversation), [])
        passed = waiting[: len(waiting) - left]
        if passed and device[0] in (self.members if conversation == GROUP else USERS):
            where = {"user": device[0], "device": device[1], "conversation": conversation}
            self.write(Anchored, **where, first=passed[0], seq=passed[-1] + 1)
            rows = [(seq, self.logs[conversation][seq - 1][0], self.logs[conversation][seq - 1][1][0]) for seq in passed]
            self.write(Pulled, **where, first=passed[0], last=passed[-1], rows=rows)
            del waiting[: len(passed)]

    def answer(self) -> None:
        """Everything unanswered was sent again, and is told its place; what was answered may be told again."""
        for client_id, conversation, seq in self.unanswered:
            self.write(Accepted, client_id=client_id, conversation=conversation, seq=seq)
        self.unanswered.clear()

    def end(self) -> None:
        self.write(Healed)
        for device in DEVICES:
            self.come(device)
        self.answer()
        for device, conversation in list(self.pending):
            self.show(device, conversation, 10_000)
        self.write(Quiet)


devices = st.sampled_from(DEVICES[:4])  # the others come at the very end
conversations = st.sampled_from([0b011, 0b101, 0b110, 0b001, GROUP])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), devices, st.sampled_from([*USERS, *USERS, GROUP, "nobody"]), st.booleans()),
        st.tuples(st.just("show"), devices, conversations, st.integers(1, 4)),
        st.tuples(st.just("anchor"), devices, conversations, st.integers(0, 2)),
        st.tuples(st.just("come"), devices),
        st.tuples(st.just("change"), st.sampled_from(USERS)),
        st.tuples(st.just("answer")),
        st.tuples(st.just("write"), st.just(Fault)),
    ),
    max_size=60,
)


@st.composite
def histories(draw: st.DrawFn) -> World:
    """What the clients of a correct messenger wrote down."""
    world = World()
    for device in DEVICES[:4]:
        world.come(device)
    world.send(DEVICES[0], "bob", answered=True)
    world.send(DEVICES[2], "ann", answered=True)
    for name, *arguments in draw(steps):
        if name == "send":
            device, target, answered = arguments
            world.send(device, target, answered=answered)
        elif name == "write":
            world.write(Fault, kind="server killed")
        else:
            getattr(world, name)(*arguments)
    world.end()
    return world


def judge(events: list[Event]) -> Report:
    oracle = Oracle()
    for at, event in enumerate(events):
        oracle.add(event, at)
    return oracle.judge()


def pick(draw: Any, world: World, kind: type[Event], match: Callable[[Any], bool] = lambda event: True) -> tuple[int, Any]:
    """One of the events of a kind, with its index."""
    found = [(at, event) for at, event in enumerate(world.events) if isinstance(event, kind) and match(event)]
    assume(found)
    return draw.draw(st.sampled_from(found))


def same(event: Any) -> tuple[str, str, int]:
    return event.user, event.device, event.conversation


def next_in_range(events: list[Event], at: int) -> int:
    """The index of the next showing of the same device, conversation and range; 0 if there is none."""
    for later in range(at + 1, len(events)):
        event = events[later]
        if isinstance(event, Shown | Anchored) and same(event) == same(events[at]):
            return later if isinstance(event, Shown) else 0
    return 0


def found(report: Report) -> set[tuple[str, str, int, int]]:
    """What is said to be broken, and where."""
    assert sum(report.broken.values()) == len(report.violations)
    assert all(violation.evidence for violation in report.violations)
    return {(each.law, each.device, each.conversation, each.first) for each in report.violations}


def place(law: str, event: Any) -> tuple[str, str, int, int]:
    return law, f"{event.user}/{event.device}", event.conversation, event.seq


def lost(events: list[Event], at: int) -> set[tuple[str, str, int, int]]:
    """What it is when one showing is taken away."""
    event = events[at]
    return {place("L0", event), *([place("O0", event)] if next_in_range(events, at) else [])}


@given(histories())
def test_correct_histories_pass(world: World) -> None:
    """If this fails, a release is held up by faults that nobody made."""
    report = judge(world.events)
    assert report.violations == []
    assert report.holds
    assert report.counts["shown"] == sum(isinstance(event, Shown) for event in world.events)
    assert report.counts["sent"] == world.ids == report.counts["accepted"] + report.counts["refused"]
    assert report.counts["devices"] == len(DEVICES)


@given(histories(), st.data())
def test_a_message_that_is_not_shown(world: World, draw: Any) -> None:
    """If this fails, a lost message goes unnoticed."""
    at, _ = pick(draw, world, Shown)
    expected = lost(world.events, at)
    del world.events[at]
    assert found(judge(world.events)) == expected


@given(histories(), st.data())
def test_a_message_that_is_shown_twice(world: World, draw: Any) -> None:
    """If this fails, a repeat goes unnoticed: at once, or after a crash much later."""
    _, event = pick(draw, world, Shown)
    world.events.append(event)
    assert found(judge(world.events)) == {place("D0", event)}


@given(histories(), st.data())
def test_two_messages_that_change_places(world: World, draw: Any) -> None:
    """If this fails, people see answers before questions, and the run is called good."""
    at, event = pick(draw, world, Shown)
    later = next_in_range(world.events, at)
    assume(later)
    world.events[at], world.events[later] = world.events[later], world.events[at]
    report = judge(world.events)
    assert found(report) == {place("O0", event)}
    assert "shown later" in report.violations[0].text


@given(histories(), st.data())
def test_a_message_that_nobody_sent(world: World, draw: Any) -> None:
    """If this fails, a server that makes up messages passes."""
    _, event = pick(draw, world, Shown)
    head = len(world.logs[event.conversation])
    invented = replace(event, client_id="invented", seq=head + 1)
    world.events.append(invented)
    assert found(judge(world.events)) == {place("P0", invented)}


@given(histories(), st.data())
def test_a_message_under_another_name(world: World, draw: Any) -> None:
    """If this fails, somebody can speak for somebody else."""
    at, event = pick(draw, world, Shown)
    world.events[at] = replace(event, sender="mallory")
    report = judge(world.events)
    assert [violation.law for violation in report.violations] == ["P0"]
    assert at in report.violations[0].evidence


@given(histories(), st.data(), st.booleans())
def test_a_message_on_a_stranger_s_device(world: World, draw: Any, moved: bool) -> None:
    """If this fails, a message that reaches somebody who is no member, beside its receiver or instead of him, goes unnoticed."""
    at, event = pick(draw, world, Shown)
    strangers = [device for device in DEVICES if not world.is_for(device, event.conversation, event.seq)]
    assume(strangers)
    user, device = draw.draw(st.sampled_from(strangers))
    wrong = replace(event, user=user, device=device)
    expected = {place("P0", wrong), *(lost(world.events, at) if moved else ())}
    if moved:
        del world.events[at]
    world.events.append(wrong)
    assert found(judge(world.events)) == expected


@given(histories(), st.data())
def test_a_refused_message_that_is_shown(world: World, draw: Any) -> None:
    """If this fails, a sender is told that a message did not go out, and others read it."""
    _, event = pick(draw, world, Accepted)
    world.events = [each for each in world.events if not isinstance(each, Accepted) or each.client_id != event.client_id]
    showings = [each for each in world.events if isinstance(each, Shown | Pulled) and event.client_id in encode(each).decode()]
    assume(showings)
    for code, laws in (("CONFLICT", {"P0"}), ("STALE_ID", set())):
        report = judge([*world.events, Refused(time=0.0, client_id=event.client_id, code=code)])
        assert {violation.law for violation in report.violations} == laws


@given(histories(), st.data())
def test_an_id_with_two_places(world: World, draw: Any) -> None:
    """If this fails, a message that was stored twice goes unnoticed."""
    _, event = pick(draw, world, Accepted)
    second = replace(event, seq=len(world.logs[event.conversation]) + 1)
    report = judge([*world.events, second])
    assert found(report) == {("A0", "", event.conversation, second.seq)}
    assert event.client_id in report.violations[0].text


@given(histories(), st.data())
def test_a_place_with_two_ids(world: World, draw: Any) -> None:
    """If this fails, a seq that a server gave out twice, as after a restart without its last rows, goes unnoticed."""
    _, event = pick(draw, world, Accepted)
    sent = next(each for each in world.events if isinstance(each, Sent) and each.client_id == event.client_id)
    world.events += [replace(sent, client_id="second"), replace(event, client_id="second")]
    assert found(judge(world.events)) == {("A0", "", event.conversation, event.seq)}


@given(histories(), st.data())
def test_a_seq_that_nobody_has(world: World, draw: Any) -> None:
    """If this fails, a hole in a log goes unnoticed when its sender's log has gone as well."""
    _, event = pick(draw, world, Accepted, lambda each: each.seq < len(world.logs[each.conversation]))
    kept = []
    for each in world.events:
        if isinstance(each, Pulled):
            each = replace(each, rows=[row for row in each.rows if row[1] != event.client_id])
        if getattr(each, "client_id", "") != event.client_id:
            kept.append(each)
    assert found(judge(kept)) == {("A0", "", event.conversation, event.seq)}


@given(histories(), st.data())
def test_a_message_that_is_never_answered(world: World, draw: Any) -> None:
    """If this fails, a server that stops taking messages passes, since what it does not take need not be shown."""
    _, event = pick(draw, world, Accepted)
    world.events = [each for each in world.events if not isinstance(each, Accepted) or each.client_id != event.client_id]
    report = judge(world.events)
    assert [violation.law for violation in report.violations] == ["L0"]
    assert event.client_id in report.violations[0].text
    assert report.counts["unanswered"] == 1


@given(histories(), st.data(), st.booleans())
def test_a_message_that_is_late(world: World, draw: Any, much: bool) -> None:
    """If this fails, messages may take any time once they are accepted; or may take none."""
    at, event = pick(draw, world, Shown)
    free = max(each.time for each in world.events if isinstance(each, Fault | Healed))
    came = max(each.time for each in world.events if isinstance(each, Started) and (each.user, each.device) == same(event)[:2])
    known = next(each.time for each in world.events if isinstance(each, Accepted) and each.client_id == event.client_id)
    world.events[at] = replace(event, time=max(free, came, known) + GRACE + (0.1 if much else -0.1))
    assert found(judge(world.events)) == ({place("L0", event)} if much else set())


@given(histories(), st.data())
def test_a_device_that_is_gone(world: World, draw: Any) -> None:
    """If this fails, a device that was removed is expected to show what it never got; or one that has come back is not."""
    user, device = draw.draw(st.sampled_from([each for each in DEVICES if each[0] in ("ann", "bob")]))
    mine = [each for each in world.events if isinstance(each, Shown | Anchored | Pulled) and (each.user, each.device) == (user, device)]
    assume(mine)
    rest = [each for each in world.events if each not in mine]
    quiet = rest.pop()
    gone = Gone(time=0.0, user=user, device=device)
    assert judge([*rest, gone, quiet]).holds
    back = judge([*rest, gone, Started(time=0.0, user=user, device=device), quiet])
    assert {violation.law for violation in back.violations} == {"L0"}


def conversation(count: int) -> list[Event]:
    """Ann has sent so many to Bob, who has one device, and has shown none."""
    events: list[Event] = [Started(time=0.0, user="bob", device="phone")]
    for seq in range(1, count + 1):
        events += [
            Sent(time=0.0, user="ann", device="phone", client_id=f"id{seq}", target="bob"),
            Accepted(time=0.0, client_id=f"id{seq}", conversation=1, seq=seq),
        ]
    return [*events, Quiet(time=100.0)]


def shown(seq: int, user: str = "bob", time: float = 1.0) -> Shown:
    """A showing of the conversation above."""
    return Shown(time=time, user=user, device="phone", conversation=1, seq=seq, client_id=f"id{seq}", sender="ann")


BOB = {"user": "bob", "device": "phone", "conversation": 1}
ROW = (1, "id1", "ann")


@pytest.mark.parametrize(
    ("events", "law", "said"),
    [
        ([shown(1, time=GRACE + 5), shown(2), Fault(time=4.9, kind="server killed")], "L0", "60.1 s"),
        ([shown(1), shown(2), Pulled(time=1, **(BOB | {"user": "cid"}), first=1, last=1, rows=[ROW])], "P0", "not for cid"),
        ([shown(1), shown(2), shown(1, "ann")], "D0", "which it sent itself"),
        ([shown(1), shown(2), Refused(time=0, client_id="id1", code="CONFLICT")], "A0", "both accepted and refused"),
        ([Anchored(time=0, **BOB, first=1, seq=2), shown(2), shown(1)], "O0", "its range began later"),
        ([shown(1), shown(2), Sent(time=0, user="ann", device="desk", client_id="id1", target="bob")], "A0", "given to two messages"),
        ([shown(1), shown(2), Accepted(time=0, client_id="other", conversation=1, seq=3)], "P0", "never sent"),
    ],
    ids=["late after a fault", "read by a stranger", "an echo", "two answers", "below the anchor", "an id used twice", "never sent"],
)
def test_what_clients_may_do_wrong(events: list[Event], law: str, said: str) -> None:
    """If this fails, one of the rarer faults goes unnoticed."""
    report = judge([*conversation(2), *events])
    assert [(each.law, said in each.text) for each in report.violations] == [(law, True)], report.violations


def test_what_proves_nothing_does_not_hold() -> None:
    """If this fails, a run in which nothing happened, or that was broken off, counts as a good one."""
    assert judge([Quiet(time=0.0)]).unproven == "no message was accepted"
    broken_off = judge(conversation(3)[:-1])
    assert broken_off.violations == []
    assert "quiet" in broken_off.unproven
    assert not broken_off.holds


def test_a_long_loss_is_one_violation() -> None:
    """If this fails, whoever reads a report drowns in it."""
    report = judge(conversation(5000))
    assert [(each.first, each.last) for each in report.violations] == [(1, 5000)]
    assert report.violations[0].evidence == (0, 2)  # the device came, and the first of them was accepted


def test_rows_beyond_retention_are_nobody_s_loss() -> None:
    """If this fails, a device that was told that rows are gone is blamed for them; or one that was not told is excused."""
    events = conversation(3)
    pulled = Pulled(time=1.0, user="bob", device="phone", conversation=1, first=1, last=3, rows=[(3, "id3", "ann")], floor=2)
    report = judge([*events, pulled])
    assert report.holds
    assert report.counts["expired"] == 2
    assert not judge([*events, replace(pulled, floor=1)]).holds


def test_the_report_shows_events_and_counts_the_rest() -> None:
    """If this fails, a violation cannot be followed up in the logs, or a broken run prints without end."""
    events = conversation(100)
    events += [shown(seq) for seq in range(1, 101)]
    events += [shown(1)] * 50 + [Fault(time=0.5, kind="server killed")]
    report = judge(events)
    text = report.text(lambda number: f"<{number}>")
    assert report.broken == {"D0": 50}
    assert len(report.violations) == KEPT
    for said in ("D0  nothing is shown twice", "50 times broken", "bob/phone shows id1 again\n    <202>\n    <302>", "30 more of these"):
        assert said in text, text
    assert "server killed 1" in text
    assert text.endswith("IT DOES NOT HOLD.")


@given(histories())
def test_events_survive_their_file(world: World) -> None:
    """If this fails, what is judged is not what was written."""
    assert [read_event(encode(event)) for event in world.events] == world.events


def test_the_page_has_every_event() -> None:
    """If this fails, somebody who writes logs for the oracle, after the page of the documentation, has his lines refused."""
    page = (Path(__file__).parent.parent / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|([\w, ]*)\|", page, re.MULTILINE)
    declared = {kind.__struct_config__.tag: {name for name in kind.__struct_fields__ if name != "time"} for kind in Event.__subclasses__()}
    assert {event: set(re.findall(r"\w+", fields)) for event, fields in rows if event in declared} == declared


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "not a JSON object"),
        ("[1]", "not an event"),
        ('{"event":"shown"}', "time"),
        ('{"event":"eaten","time":1}', "eaten"),
        ('{"event":"quiet","time":"noon"}', "time"),
        ('{"event":"quiet","time":1,"extra":1}', "extra"),
        ('{"event":"accepted","time":1,"client_id":"x","conversation":1,"seq":0}', "seq"),
        ('{"event":"accepted","time":1,"client_id":"x","conversation":1,"seq":9223372036854775808}', "seq"),
        (b"\xff\xfe", "not a JSON object"),
    ],
)
def test_rubbish_is_named(line: str | bytes, said: str) -> None:
    """If this fails, rubbish in a log is counted as an event, or told as a traceback."""
    with pytest.raises(ValueError, match=said):
        read_event(line)


def test_seqs_of_any_size_cost_nothing() -> None:
    """If this fails, one absurd number in a log takes the machine's memory."""
    report = judge([*conversation(2), shown(2**63 - 1)])
    assert {violation.law for violation in report.violations} == {"P0", "O0", "L0", "A0"}
