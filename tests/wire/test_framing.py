"""Frames come out as they went in, however the bytes were cut, and nothing is kept that has not been judged.

Strategy: the heart is one state machine. Hypothesis writes frames of every command and bytes that are none, has them arrive in any pieces,
logs in (which moves the cap, up at one end and down at the other) and lets time pass. Beside the reader stands a list of what was written,
and how many bytes of it have come. It drives a `Connection`, which is the `FrameReader` that runs. The smaller tests beside it hold
what such a run cannot see: what it costs, and which byte decides.
"""

from __future__ import annotations

import time
from collections import deque
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.wire.drawn import by_codec, values
from twisted_im.core.connection import Connection, Event, Limits, State
from twisted_im.errors import Disconnect
from twisted_im.wire.codec import CODECS, ERROR, HEADER, tag
from twisted_im.wire.framing import Frame, FrameReader
from twisted_im.wire.schema import FRAMES, HEADER_SIZE, VERSION, Error, Header, Kind

CAP = 64

u16, u32 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)
frames = st.tuples(st.builds(tag, st.sampled_from(Kind), u16), u32, u32, st.binary(max_size=CAP))
#: headers that no receiver may take, and what each is called
faults = st.one_of(
    st.tuples(st.sampled_from([CAP + 1, 2**31, 2**32 - 1]), st.builds(tag, st.sampled_from(Kind), u16), st.just(Disconnect.TOO_LARGE)),
    st.tuples(
        u32,
        st.builds(tag, st.sampled_from(Kind), u16, st.integers(0, 255).filter(lambda v: v != VERSION)),
        st.just(Disconnect.VERSION),
    ),
    st.tuples(u32, st.integers(0, 2**32 - 1).filter(lambda word: word >> 16 & 0xFF > max(Kind)), st.just(Disconnect.MALFORMED)),
)


def encoded(frame: Frame) -> bytes:
    return HEADER.pack(len(frame[3]), *frame[:3]) + frame[3]


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """The data, cut at these places (modulo its length)."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(
    sent=st.lists(frames, max_size=4),
    fault=faults,
    cuts=st.lists(st.integers(0, 2**16), max_size=8),
    more=st.binary(max_size=2 * CAP),
    later=st.lists(frames, min_size=1, max_size=2),
)
@example([], (2**32 - 1, tag(Kind.REQUEST, 1), Disconnect.TOO_LARGE), [], b"", [(tag(Kind.NOTIFY, 1), 0, 0, b"")])
def test_a_fault_is_judged_by_its_header(
    sent: list[Frame], fault: tuple[int, int, Disconnect], cuts: list[int], more: bytes, later: list[Frame]
) -> None:
    """If this fails, a stranger's 16 bytes make the server wait for, or reserve, up to 4 GiB; or good frames die with a bad one."""
    length, word, code = fault
    bad = HEADER.pack(length, word, 0, 0)
    reader = FrameReader(CAP)
    got = []
    for part in pieces(b"".join(map(encoded, sent)) + bad[:-1], cuts):
        got += reader.feed(part)
        assert len(reader.kept) <= HEADER_SIZE + CAP
    assert (got, reader.fault) == (sent, None)
    assert reader.feed(bad[-1:] + more) == []  # the sixteenth byte decides
    assert reader.fault is not None
    assert reader.fault.code is code
    assert reader.kept == b""
    assert reader.feed(b"".join(map(encoded, later))) == []
    assert reader.kept == b""


@given(noise=st.lists(st.binary(max_size=60), max_size=12), cap=st.integers(0, 100))
def test_noise_is_never_kept_beyond_the_cap(noise: list[bytes], cap: int) -> None:
    """If this fails, garbage grows the server's memory, or raises where nobody catches it."""
    reader = FrameReader(cap)
    for part in noise:
        for frame in reader.feed(part):
            assert len(frame[3]) <= cap
        assert len(reader.kept) < HEADER_SIZE + max(cap, 1)


def test_a_large_frame_in_many_reads_costs_no_more_than_many_frames() -> None:
    """If this fails, one client with a slow network, or a bad will, keeps the server busy for seconds with a single message."""

    def seconds(data: bytes) -> float:
        reader, before = FrameReader(1 << 24), time.process_time()
        got = [frame for at in range(0, len(data), 1024) for frame in reader.feed(data[at : at + 1024])]
        spent = time.process_time() - before
        assert sum(len(frame[3]) + HEADER_SIZE for frame in got) == len(data)
        assert not reader.kept
        return spent

    word = tag(Kind.REQUEST, 1)
    large, small = encoded((word, 5, 0, bytes((1 << 24) - HEADER_SIZE))), encoded((word, 5, 0, bytes(1024 - HEADER_SIZE))) * (1 << 14)
    assert len(large) == len(small)
    assert seconds(large) < 20 * seconds(small)  # it is less; and some hundred times as much if each read copied what came before it


@given(frame=frames)
def test_reads_the_declared_header(frame: Frame) -> None:
    """If this fails, the header in the specification is not the one on the wire."""
    read = Header.parse(encoded(frame))
    assert (read.length, read.version, read.request_id) == (len(frame[3]), VERSION, frame[1])
    assert (read.kind, read.command) == (frame[0] >> 16 & 0xFF, frame[0] & 0xFFFF)
    assert (read.flags, read.status) == (frame[2] >> 16, frame[2] & 0xFFFF)
    assert Header.sizeof() == HEADER.size == HEADER_SIZE


# ---- everything at once

#: (values, frame) of every frame that is declared; and of errors, and of commands that this version does not know
declared = st.sampled_from(sorted(FRAMES)).flatmap(
    lambda key: st.tuples(values(FRAMES[key][0], longest=40), st.just(CODECS[key]), st.just(tag(*key)), u32, st.just(0))
)
refusals = st.tuples(values(Error, longest=60), st.just(ERROR), st.builds(tag, st.just(Kind.RESPONSE), u16), u32, st.integers(1, 2**16 - 1))
#: bodies around the two caps, of commands that this version does not know
LOW, HIGH = 100, 300
strange = st.tuples(
    st.builds(tag, st.sampled_from(Kind), u16), u32, u32, st.sampled_from([0, 1, LOW - 1, LOW, LOW + 1, HIGH, HIGH + 1]).map(bytes)
)


class Stream(RuleBasedStateMachine):
    """One direction of a byte stream, and the end that reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.line = bytearray()  # written, and not yet arrived
        self.written: deque[tuple[bytes, Frame | Disconnect]] = deque()  # not yet handed out: the bytes, and what they are
        self.come = 0  # bytes that have arrived of the first of them
        self.since = 0.0  # and when the first of these did
        self.fault: Disconnect | None = None
        self.values: dict[int, tuple[Any, Any]] = {}  # what a codec wrote, by the number of the frame
        self.count = self.handed = 0

    @initialize(accepting=st.booleans(), logged_in=st.booleans())
    def begin(self, accepting: bool, logged_in: bool) -> None:
        """A server takes more after the login, a client only as much as was agreed."""
        limits = Limits(stranger_max_body=LOW, max_body=HIGH, frame=15, heartbeat=10_000, max_heartbeat=10_000)
        self.connection = Connection(limits, self.now, accepting=accepting)
        self.cap = LOW if accepting else HIGH
        if logged_in:
            self.log_in()

    # what the other side does

    def write(self, data: bytes, meant: Frame | Disconnect) -> None:
        self.line += data
        self.written.append((data, meant))
        self.count += 1

    @rule(drawn=declared | refusals)
    def write_what_is_declared(self, drawn: tuple[Any, Any, int, int, int]) -> None:
        content, body, word, request_id, status = drawn
        self.values[self.count] = content, body
        frame = word, request_id, status, body.write(**content)
        self.write(encoded(frame), frame)

    @rule(frame=strange)
    def write_what_is_strange(self, frame: Frame) -> None:
        self.write(encoded(frame), frame)

    @precondition(lambda self: self.count > 4)
    @rule(fault=faults, more=st.binary(max_size=40))
    def write_what_is_no_frame(self, fault: tuple[int, int, Disconnect], more: bytes) -> None:
        length, word, code = fault
        self.write(HEADER.pack(max(length, HIGH + 1) if code is Disconnect.TOO_LARGE else length, word, 0, 0) + more, code)

    # what the network does

    @precondition(lambda self: self.line)
    @rule(size=st.integers(1, 20) | st.integers(1, 400), later=st.integers(0, 2))
    def arrive(self, size: int, later: int = 0) -> None:
        """So many bytes in one read, so many seconds later."""
        self.now += later
        piece = bytes(self.line[:size])
        del self.line[:size]
        before = self.come
        expected = self.judged(len(piece))
        got = self.connection.receive(piece, self.now)
        assert got == expected
        for frame in got:
            assert type(frame[3]) is bytes
            if self.handed in self.values:
                content, body = self.values.pop(self.handed)
                assert by_codec(body, frame[3]) == content
            self.handed += 1
        if self.come and (got or not before):
            self.since = self.now

    @precondition(lambda self: self.line)
    @rule(size=st.integers(1, 60))
    def arrive_byte_by_byte(self, size: int) -> None:
        for _ in range(min(size, len(self.line))):
            self.arrive(1)

    @precondition(lambda self: self.line)
    @rule()
    def arrive_whole(self) -> None:
        self.arrive(len(self.line))

    def judged(self, size: int) -> list[Frame]:
        """What must be handed out when so many bytes more have come. A header is judged when it is whole, and again with its frame."""
        whole: list[Frame] = []
        while self.fault is None and self.written and size:
            data, meant = self.written[0]
            looked_at = self.come < HEADER_SIZE
            step = min(size, len(data) - self.come)
            self.come, size = self.come + step, size - step
            ended = self.come == len(data)
            if self.come >= HEADER_SIZE and (looked_at or ended):
                if isinstance(meant, Disconnect):
                    self.fault = meant
                elif len(meant[3]) > self.cap:
                    self.fault = Disconnect.TOO_LARGE
                elif ended:
                    whole.append(meant)
                    self.written.popleft()
                    self.come = 0
        if self.fault is not None:
            self.come = 0
        return whole

    # what this side does

    @precondition(lambda self: self.connection.state is State.START)
    @rule()
    def log_in(self) -> None:
        """The cap moves, perhaps in the middle of a frame."""
        if self.connection.accepting:
            wishes = SimpleNamespace(min_version=1, max_version=1, max_body=0, heartbeat=0, window=0)
            self.connection.greet(wishes, self.now)
            self.cap = HIGH
        else:
            self.connection.greeted(SimpleNamespace(version=1, max_body=LOW, heartbeat=10_000, window=1, requests=1), self.now)
            self.cap = LOW
        for event in (Event.LOGIN, Event.WELCOME):
            self.connection.advance(event, self.now)

    @rule(seconds=st.sampled_from([0.5, 14.5, 15.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    # what always holds

    @invariant()
    def nothing_else_is_kept(self) -> None:
        """The reader has just the bytes of one frame, and says since when."""
        assert bytes(self.connection.kept) == (self.written[0][0][: self.come] if self.come else b"")
        assert len(self.connection.kept) < HEADER_SIZE + HIGH
        assert self.connection.partial == (self.come > 0)
        assert (self.connection.fault and self.connection.fault.code) == self.fault
        if self.connection.state is State.OPEN:
            assert self.come == 0 or self.connection.deadline() == self.since + 15
            overdue = self.come > 0 and self.now >= self.since + 15
            assert self.connection.check(self.now) is (Disconnect.FRAME_TIMEOUT if overdue else None)

    def teardown(self) -> None:
        """At the end all that was written arrives."""
        if self.line:
            self.arrive_whole()
            self.nothing_else_is_kept()
        assert self.fault is not None or not self.written


TestStream = Stream.TestCase
TestStream.settings = settings(max_examples=100, stateful_step_count=40)
TestStream.__doc__ = "If this fails, a message is lost, doubled or changed by how the network cuts the stream, or garbage is kept."
