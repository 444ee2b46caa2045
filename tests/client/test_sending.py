"""The sender's half against a server that is busy, forgets ids and loses answers, and an application that changes its mind.

Strategy: one state machine. Hypothesis plays the application, the network, the clock and the server's bad days; the server is a list of
rows and a dictionary of client ids. After every step the model knows what may be in flight: the oldest messages that wait, in order,
as many as the window takes, each under the id that it left with first. At the end the world heals, and every message must have
been settled once, and every accepted one be in the log once, in the order of sending.
"""

from __future__ import annotations

from collections import deque
from itertools import chain
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from twisted.python.failure import Failure

from twisted_im.client.sending import Sender, Sending
from twisted_im.client.values import Accepted
from twisted_im.core.delivery import ClientIds
from twisted_im.errors import ImError, LocalProtocolError, RemoteProtocolError, Status
from twisted_im.wire.schema import CONTENT_ROOM

HORIZON = 150  #: seconds for which the server knows an id
MARGIN = 60  #: and how much earlier the client holds it for forgotten
PATIENCE = 30
SMALL, LARGE = 8, 20  #: sizes of contents; some servers take only the first
BOB = 3  #: the conversation that messages to the user bob go to


class Line:
    """One connection, as a session shows it: what is on its way in both directions, and what either side has given up."""

    def __init__(self, window: int, most: int, born: float) -> None:
        self.requests = window
        self.max_body = CONTENT_ROOM + most
        self.born = born
        self.up: deque[tuple[dict[str, Any], Any]] = deque()
        self.down: deque[tuple[dict[str, Any], Any, Any]] = deque()  #: the request, who takes the answer, and the answer
        self.failed = False
        self.ended = False

    def give_up(self, error: ImError) -> None:
        """The client wants another connection."""
        self.ended = True


class Sent:
    """One message that the application has sent, and what the model knows of it."""

    def __init__(self, world: World, sending: Sending, *, repeats: bool) -> None:
        self.content: bytes = sending.values["content"]
        self.sending = sending
        self.at = world.now
        self.repeats = repeats  # of a message that had left before
        self.client_id = sending.client_id
        self.renew = False  # the next id is to be another one
        self.stale = False
        self.astray = False  # the server forgot its id while later ones were on their way: its place in the order is lost
        self.outcomes: list[Accepted | ImError] = []
        self.unsent = False  # known for certain not to have left
        sending.accepted.addCallbacks(self.outcomes.append, self.failed)

    def failed(self, failure: Failure) -> None:
        assert isinstance(failure.value, ImError)
        self.outcomes.append(failure.value)

    def refused(self, code: Status) -> bool:
        return [outcome.code for outcome in self.outcomes if isinstance(outcome, ImError)] == [code]


class World(RuleBasedStateMachine):
    """A server with one log, and a client that sends."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.ids = ClientIds(Random(5).getrandbits)
        self.rows: list[SimpleNamespace] = []  # the server's, in the order in which they were stored
        self.refusing: set[bytes] = set()  # contents that it has refused for good: it stays with that
        self.forgets = HORIZON
        self.line: Line | None = None
        self.old: Line | None = None  # lost, and the server has not noticed yet
        self.looking = False
        self.sent: list[Sent] = []
        self.told: list[Sending] = []
        self.places: list[tuple[int, int]] = []
        self.sender = Sender(
            self.make_id,
            accepted=lambda conversation, seq: self.places.append((conversation, seq)),
            unsent=self.told.append,
            clock=lambda: self.now,
            patience=PATIENCE,
        )

    # what the model knows

    @property
    def server_time(self) -> int:
        return int((10 * HORIZON + self.now) * 1000)

    def make_id(self) -> bytes:
        return self.ids.make(self.server_time)

    @property
    def pending(self) -> list[Sent]:
        return [sent for sent in self.sent if not sent.outcomes]

    def older(self, client_id: bytes, seconds: float) -> bool:
        return int.from_bytes(client_id[:6], "big") < self.server_time - int(seconds * 1000)

    def found(self, content: bytes) -> list[tuple[int, int]]:
        return [(row.conversation, row.seq) for row in self.rows if row.content == content]

    @property
    def flying(self) -> list[bytes]:
        """What is on its way on this connection, the oldest first."""
        return [] if self.line is None else [values["content"] for values, *_ in chain(self.line.down, self.line.up)]

    # the client's turn

    def turn(self) -> None:
        """Sends what may be sent; what leaves, and what does not, is what the model says."""
        self.sender.look()
        line = self.line
        while ask := self.sender.next():
            _, values, answered = ask
            assert line is not None
            assert not line.ended, "what comes after a refused message must not overtake it"
            assert not self.looking, "it must not send before it knows what of it is in the log"
            sent = next(sent for sent in self.pending if sent.content == values["content"])
            if not sent.client_id or sent.renew:
                assert values["client_id"] not in {other.client_id for other in self.sent}, "an id of its own"
                sent.client_id, sent.renew = values["client_id"], False
            assert values["client_id"] == sent.client_id == sent.sending.client_id
            line.up.append((values, answered))
        self.check()

    def check(self) -> None:
        pending = self.pending
        assert self.sender.outbox.deadline() == min((sent.at + PATIENCE for sent in pending if sent.sending not in self.told), default=None)
        assert {id(sending) for sending in self.told} >= {id(sent.sending) for sent in pending if sent.at + PATIENCE <= self.now}
        assert len({id(sending) for sending in self.told}) == len(self.told), "it is told once"
        assert [entry.item for entry in self.sender.outbox] == [sent.sending for sent in pending]
        assert len(self.sender.outbox) == len(pending)
        assert self.sender.unsure == any(sent.client_id and not sent.renew for sent in pending), "it may be in the log"
        for sent in self.sent:
            assert len(sent.outcomes) <= 1
            assert sent.sending.outcome is (sent.outcomes[0] if sent.outcomes else None)
        if self.line is None:
            return
        waiting = [sent.content for sent in pending]
        flying = self.flying
        oldest = [content for content in flying if content in waiting]
        assert len(oldest) <= self.line.requests
        if self.line.ended:
            assert sorted(oldest, key=waiting.index) == oldest
        else:
            assert oldest == waiting[: len(oldest)], "the oldest first, and none left out"
            assert self.looking or len(oldest) == self.line.requests or len(oldest) == len(waiting), "nothing waits without a reason"

    # what the application does

    @rule(to=st.sampled_from([1, 2, "bob"]), size=st.sampled_from([SMALL, SMALL, LARGE]))
    def send(self, to: str | int, size: int) -> None:
        self.sends(to, b"%0*d" % (size, len(self.sent)))

    def sends(self, to: str | int, content: bytes, client_id: bytes = b"", *, repeats: bool = False) -> None:
        sending = self.sender.send(to, 1, content, life=0, client_id=client_id, most=CONTENT_ROOM + LARGE)
        self.sent.append(Sent(self, sending, repeats=repeats))
        self.turn()

    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        """As after a restart of the application: a message that had left comes with its id."""
        flying, pending = self.flying, self.pending
        left = [sent for sent in self.sent if sent.client_id and not sent.renew and (sent in pending or sent.content not in flying)]
        if not left:
            return
        first = data.draw(st.sampled_from(left))
        to = first.sending.values["conversation"] or "bob"
        if any(sent.client_id == first.client_id for sent in self.pending):
            with pytest.raises(LocalProtocolError) as error:
                self.sends(to, first.content, first.client_id)
            assert error.value.code is Status.CONFLICT
        else:
            first.repeats = True
            self.sends(to, first.content, first.client_id, repeats=True)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        sent = data.draw(st.sampled_from(self.pending or self.sent))
        ended, left = bool(sent.outcomes), sent.client_id and not sent.renew
        certain = sent.sending.drop()
        if not ended:
            assert certain == (not left)
            assert sent.refused(Status.NO_SUCH)
            sent.unsent = certain
        self.turn()

    # what the server does

    @precondition(lambda self: (self.line and self.line.up) or (self.old and self.old.up))
    @rule(mood=st.sampled_from(["well", "well", "well", "busy", "refuses"]))
    def server_reads(self, mood: str) -> None:
        """It reads on from a connection that is lost, until it notices."""
        line = self.old if self.old is not None and self.old.up else self.line
        assert line is not None
        values, answered = line.up.popleft()
        line.down.append((values, answered, self.served(line, values, mood)))

    def served(self, line: Line, values: dict[str, Any], mood: str) -> Any:
        content, client_id = values["content"], values["client_id"]
        if line.failed or mood == "busy":
            line.failed = True  # what comes after it on this connection must not overtake it
            return RemoteProtocolError(Status.BUSY)
        if self.older(client_id, self.forgets):
            for sent in self.sent:
                sent.astray |= sent.content == content
            return RemoteProtocolError(Status.STALE_ID)
        for row in self.rows:
            if row.client_id == client_id:
                assert row.content == content
                return row
        if content in self.refusing or mood == "refuses":
            self.refusing.add(content)
            return RemoteProtocolError(Status.NO_SUCH)
        conversation = values["conversation"] or BOB
        seq = 1 + sum(row.conversation == conversation for row in self.rows)
        self.rows.append(SimpleNamespace(conversation=conversation, seq=seq, time=0, client_id=client_id, content=content))
        return self.rows[-1]

    @rule()
    def forget_early(self) -> None:
        """The server knows ids for a shorter time from now on than it said."""
        self.forgets = 5

    # what the network does

    @precondition(lambda self: self.line is not None and self.line.down and not self.line.ended)
    @rule(times=st.sampled_from([1, 1, 1, 2]))
    def client_reads(self, times: int) -> None:
        assert self.line is not None
        values, answered, answer = self.line.down.popleft()
        content, final = values["content"], not isinstance(answer, ImError) or not answer.temporary
        waiting = [sent for sent in self.pending if sent.content == content]
        before = len(self.places)
        for _ in range(times):
            answered(answer)
        assert self.line.ended or final
        for sent in waiting:
            if not isinstance(answer, ImError):
                assert [(accepted.conversation, accepted.seq) for accepted in sent.outcomes] == [(answer.conversation, answer.seq)]
            elif answer.code is Status.STALE_ID and not sent.sending.given:
                sent.stale = True
                assert not sent.outcomes
                assert self.line.ended
            elif final:
                assert sent.refused(answer.code)
            else:
                assert not sent.outcomes
        if not isinstance(answer, ImError):
            assert self.places[before:] == [(answer.conversation, answer.seq)] * times, "the reader must know of its place"
        self.turn()

    @rule(steps=st.integers(1, 8))
    def all_is_well(self, steps: int) -> None:
        for _ in range(steps):
            if self.line is not None and not self.line.ended and self.line.up:
                self.server_reads("well")
            elif self.line is not None and not self.line.ended and self.line.down:
                self.client_reads(1)

    @precondition(lambda self: self.line is not None)
    @rule()
    def lose(self) -> None:
        """The client is told that nothing more will come; answers that come all the same mean nothing."""
        assert self.line is not None
        self.old, self.line, self.looking = self.line, None, False
        self.sender.disconnected()
        before = [list(sent.outcomes) for sent in self.sent], len(self.places)
        for _, answered, answer in self.old.down:
            answered(answer)
        for _, answered in self.old.up:
            answered(LocalProtocolError(Status.UNAVAILABLE))
        assert ([sent.outcomes for sent in self.sent], len(self.places)) == before
        self.turn()

    @precondition(lambda self: self.line is None)
    @rule(window=st.integers(1, 3), most=st.sampled_from([SMALL, LARGE, LARGE]))
    def connect(self, window: int, most: int) -> None:
        """The server ends the device's old session, and says for how long it knows ids."""
        self.old, self.forgets = None, HORIZON
        self.line = Line(window, most, self.now)
        for sent in self.pending:
            left = bool(sent.client_id) and not sent.renew and not sent.sending.given
            sent.stale |= left and self.older(sent.client_id, HORIZON - MARGIN)
        self.looking = any(sent.stale for sent in self.pending)
        self.sender.connected(self.line, self.server_time - (HORIZON - MARGIN) * 1000)  # type: ignore[arg-type]  # it needs no more of it
        self.turn()

    @precondition(lambda self: self.line is not None and self.rows)
    @rule(data=st.data())
    def meet_one(self, data: st.DataObject) -> None:
        """The reader meets a message of this device in the log."""
        self.meet([data.draw(st.sampled_from(self.rows))])
        self.turn()

    def meet(self, rows: list[SimpleNamespace]) -> None:
        for row in rows:
            waiting = [sent for sent in self.pending if sent.content == row.content and sent.client_id == row.client_id]
            self.sender.met(row)
            assert all(sent.outcomes == [Accepted(row.conversation, row.seq, 0)] for sent in waiting)

    @precondition(lambda self: self.line is not None)
    @rule(skipped=st.sampled_from([set(), set(), {1}, {BOB}]))
    def catch_up(self, skipped: set[int]) -> None:
        """The reader has met all that is in the log, but for some conversations."""
        self.meet([row for row in self.rows if row.conversation not in skipped])
        lost = []
        if self.looking:
            for sent in self.pending:
                conversation = sent.sending.values["conversation"]
                if sent.stale and (conversation in skipped or (skipped and not conversation)):
                    lost.append(sent)
                else:
                    sent.renew |= sent.stale
                sent.stale = False
        self.sender.looked_up(skipped)
        assert all(sent.refused(Status.STALE_ID) for sent in lost)
        self.looking = False
        self.turn()

    @rule(seconds=st.sampled_from([1, 10, PATIENCE, MARGIN, HORIZON]))
    def wait(self, seconds: int) -> None:
        """A client does not wait for an answer for as long as the margin."""
        self.now += seconds
        if self.line is not None and self.now - self.line.born >= MARGIN:
            self.lose()
        if self.old is not None and self.now - self.old.born >= MARGIN:
            self.old = None
        self.turn()
        if self.line is None:
            self.connect(2, LARGE)

    # the end

    def teardown(self) -> None:
        """The world heals."""
        if self.line is not None:
            self.lose()
        self.connect(2, LARGE)
        for _ in range(10_000):
            if self.line is None or self.line.ended:
                if self.line is not None:
                    self.lose()
                self.connect(2, LARGE)
            elif self.looking:
                self.catch_up(set())
            elif self.line.up:
                self.server_reads("well")
            elif self.line.down:
                self.client_reads(1)
            else:
                break
        else:
            raise AssertionError("the world does not come to rest")
        assert not self.pending
        for sent in self.sent:
            (outcome,) = sent.outcomes
            places = self.found(sent.content)
            assert len(places) <= 1, "once, whatever was lost"
            if isinstance(outcome, Accepted):
                assert places == [(outcome.conversation, outcome.seq)]
            assert not (sent.unsent and places), "it was certain that it had not left"
        ordered = [sent.content for sent in self.sent if not (sent.repeats or sent.astray)]
        stored = [row.content for row in self.rows if row.content in ordered]
        assert stored == [content for content in ordered if content in stored], "in the order of sending"


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=150, stateful_step_count=50)
TestWorld.__doc__ = "If this fails, a message is sent twice, is lost, overtakes another, or its sender is told something else than is true."
