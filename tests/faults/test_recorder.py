"""The witness: what its log says is what happened, also when its process is killed at the worst moment.

Strategy: a real server in this process. A kill is what it leaves behind: the log as it is, and a state file that may be older, or none.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from msgspec.json import encode

from tests.running import Eager, Served, until
from twisted_im.client.state import Kept
from twisted_im.commands.oracle import judge
from twisted_im.faults.journal import FileJournal
from twisted_im.faults.recorder import PAGE, Recorder, content_of, id_in
from twisted_im.oracle import Accepted, Event, Quiet, Sent, Shown


class Notebook:
    """A journal in memory; `state` is as old as it was when the process began."""

    interval = 0.0

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.state = self

    def past(self) -> list[Event]:
        return list(self.events)

    def append(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        """Nothing is open."""

    def load(self) -> Kept | None:
        return None

    def save(self, kept: Kept) -> None:
        """The process is always killed before."""


class Witness(Served):
    """Devices that write down what they see."""

    async def stage(self) -> None:
        """A server, and a folder for the logs."""
        await self.serve()
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def come(self, user: str, name: str = "phone", **how: Any) -> Recorder:
        journal = how.pop("journal", None) or FileJournal(self.folder, user, name)
        recorder = Recorder(journal, user, name, f"127.0.0.1:{self.port()}", random=Eager(), **how)
        recorder.come()
        self.addCleanup(lambda: recorder.client.stopService() if recorder.client.running else None)
        return recorder

    async def stop(self, recorder: Recorder) -> None:
        await recorder.client.stopService()
        recorder.close()

    def broken(self) -> dict[str, int]:
        """What the oracle has against the logs."""
        (self.folder / "run.jsonl").write_bytes(encode(Quiet(time=1e9)) + b"\n")
        report, text = judge(sorted(self.folder.glob("*.jsonl")))
        assert not report.unproven, text
        return dict(report.broken)

    async def talk(self, *, killed: str) -> None:
        """Ann writes to Bob; Bob's process ends, and comes back with what a kill would leave behind."""
        await self.stage()
        ann, bob = self.come("ann"), self.come("bob", plant="repeat" if killed == "planted" else "")
        await until(lambda: ann.online and bob.online, "logins")
        for _ in range(10):
            ann.send("bob")
        await until(lambda: bob.shown == 10 and not ann.unanswered, "ten messages")
        await self.stop(bob)
        if killed == "before the state was saved":
            (self.folder / "bob-phone.state").unlink()
        if killed == "in the middle of a line":
            with (self.folder / "bob-phone.jsonl").open("ab") as log:
                log.write(b'{"event":"shown","ti')
        ann.send("bob")
        bob = self.come("bob", plant="repeat" if killed == "planted" else "")
        assert (bob.shown, bob.covered) == (10, 10)
        await until(lambda: bob.shown >= 11, "the eleventh")
        ann.send("bob")
        await until(lambda: not ann.unanswered, "an answer")
        await until(lambda: bob.shown >= (15 if killed == "planted" else 12), "the twelfth")
        await self.stop(ann)
        await self.stop(bob)
        assert self.broken() == ({"D0": 3} if killed == "planted" else {})

    async def test_killed_before_the_state_was_saved(self) -> None:
        """If this fails, a run under kills finds repeats that are the witness's own."""
        await self.talk(killed="before the state was saved")

    async def test_killed_in_the_middle_of_a_line(self) -> None:
        """If this fails, a kill leaves a log that nobody can read any more."""
        await self.talk(killed="in the middle of a line")

    async def test_a_planted_repeat(self) -> None:
        """If this fails, messages that are shown twice after a kill are not found."""
        await self.talk(killed="planted")

    async def test_unanswered_messages_are_sent_again(self) -> None:
        """If this fails, a sender that was killed leaves messages of which nobody knows whether they were accepted."""
        await self.stage()
        bob = self.come("bob")
        await until(lambda: bob.online, "a login")
        ann = self.come("ann")
        for _ in range(5):
            ann.send("bob")
        await until(lambda: ann.accepted == 5, "five messages")
        await self.stop(ann)
        log = self.folder / "ann-phone.jsonl"
        lines = log.read_bytes().splitlines(keepends=True)
        log.write_bytes(b"".join(line for line in lines if b"accepted" not in line))  # the kill came before the answers
        again = self.come("ann")
        assert (again.sent, again.accepted, again.unanswered) == (5, 0, 5)
        await until(lambda: again.accepted == 5, "the answers")
        assert self.server.counters.duplicates == 5
        await until(lambda: bob.shown == 5, "the messages")
        await self.stop(again)
        await self.stop(bob)
        assert self.broken() == {}

    async def test_a_journal_of_another_kind(self) -> None:
        """If this fails, a device whose journal is no file forgets what it did in an earlier life, or writes down another clock's time."""
        await self.stage()
        await self.server.node.store.accounts([b"\0ann", b"\0bob"], True)
        group = await self.server.node.store.create_group(b"all", [b"\0ann", b"\0bob"])
        journals = {"ann": Notebook(), "bob": Notebook()}
        for life in (1, 2):
            now = partial(float, 1000 * life)
            ann, bob = (self.come(user, journal=journal, now=now) for user, journal in journals.items())
            assert (ann.sent, ann.unanswered, bob.shown) == (life - 1,) * 3
            await until(lambda ann=ann, bob=bob: ann.online and bob.online, "logins")
            ann.send(group)
            await until(lambda ann=ann, bob=bob, life=life: ann.accepted == bob.shown == life, "a message to the group")
            await self.stop(ann)
            await self.stop(bob)
            kept = [event for event in journals["ann"].events if not isinstance(event, Accepted)]
            journals["ann"].events = kept  # the kill came before the answer
        sent = [event for event in journals["ann"].events if isinstance(event, Sent)]
        shown = [event for event in journals["bob"].events if isinstance(event, Shown)]
        assert [(event.target, event.time) for event in sent] == [(group, 1000), (group, 2000)]
        assert [(event.seq, event.client_id) for event in shown] == [(seq, event.client_id) for seq, event in enumerate(sent, 1)]

    async def test_what_was_passed_over_is_read(self) -> None:
        """If this fails, a device that comes late is not asked for what the log still has; or is asked twice after a kill."""
        await self.stage()
        first = self.come("bob")
        ann = self.come("ann")
        await until(lambda: first.online and ann.online, "logins")
        count = 2 * PAGE + 60
        for number in range(count):
            ann.send("bob")
            if number % 50 == 49 or number == count - 1:
                await until(lambda: not ann.unanswered, "answers")
        late = self.come("bob", "desk", catch_up=10)
        await until(lambda: late.covered == count, "everything")
        assert late.shown == 10
        await self.stop(late)
        again = self.come("bob", "desk", catch_up=10)
        assert (again.shown, again.covered) == (10, count)
        await until(lambda: again.online and first.shown == count, "the rest")
        for recorder in (ann, first, again):
            await self.stop(recorder)
        assert self.broken() == {}

    def test_contents_tell_their_ids(self) -> None:
        """If this fails, a body under another message's header goes unnoticed."""
        chance = Random(1)
        for _ in range(100):
            client_id = chance.randbytes(16)
            assert id_in(content_of(client_id)) == client_id.hex()
            damaged = bytearray(content_of(client_id) + b"x" * (client_id[0] % 2))
            damaged[chance.randrange(len(damaged))] ^= 1
            assert id_in(bytes(damaged)) != client_id.hex()
        assert len(id_in(b"")) <= 64
