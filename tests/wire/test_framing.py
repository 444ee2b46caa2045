"""Frames come out as they went in, however the bytes were cut, and nothing is kept that has not been judged.

Strategy: hypothesis draws lists of frames, the places where they are cut, and a header that is no frame's; what was put in must come out:
whole, byte by byte, with a tail, with a fault anywhere.
"""

from __future__ import annotations

import time
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from twisted_im.errors import Disconnect
from twisted_im.wire.codec import HEADER, tag
from twisted_im.wire.framing import Frame, FrameReader
from twisted_im.wire.schema import HEADER_SIZE, VERSION, Header, Kind

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


@given(sent=st.lists(frames, max_size=8), cuts=st.lists(st.integers(0, 2**16), max_size=12), tail=st.integers(0, HEADER_SIZE + CAP))
def test_any_cut_gives_the_same_frames(sent: list[Frame], cuts: list[int], tail: int) -> None:
    """If this fails, a message is lost or doubled depending on how the network cuts the stream."""
    data = b"".join(map(encoded, sent))
    unfinished = encoded((tag(Kind.NOTIFY, 1), 0, 0, bytes(CAP)))[: min(tail, HEADER_SIZE + CAP - 1)]
    for parts in ([data + unfinished], pieces(data + unfinished, cuts), [bytes([byte]) for byte in data + unfinished]):
        reader = FrameReader(CAP)
        got = []
        for part in parts:
            got += reader.feed(part)
            assert len(reader.kept) < HEADER_SIZE + CAP
        assert got == sent
        assert all(type(frame[3]) is bytes for frame in got)
        assert reader.kept == unfinished
        assert reader.fault is None


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


def test_a_raised_cap_counts_from_the_next_header() -> None:
    """If this fails, the first large message after a login is refused."""
    reader = FrameReader(8)
    large = encoded((tag(Kind.REQUEST, 1), 5, 0, bytes(9)))
    assert reader.feed(large[:10]) == []  # begun under the low cap, and not yet judged
    reader.cap = 9
    assert [frame[3] for frame in reader.feed(large[10:])] == [bytes(9)]


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
