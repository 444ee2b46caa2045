"""The derived readers and writers against construct itself, which reads the same declarations.

Strategy: for every body hypothesis draws values from the declaration, and both sides must write the same bytes and read the same values.
Then bytes that no writer made: each truncation, each body with something left over, bodies with bytes changed, and plain noise. There a
construct parse that must end at the end (`Terminated`) is the judge: both take it with the same values, or both refuse it.
"""

from __future__ import annotations

from typing import Any

import pytest
from construct import Bytes, ConstructError, GreedyRange, Rebuild, Struct, Terminated
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.drawn import by_codec, values
from twisted_im.errors import LocalProtocolError, RemoteProtocolError, Status
from twisted_im.wire import codec, schema
from twisted_im.wire.codec import CODECS, ERROR, Codec
from twisted_im.wire.framing import FrameReader
from twisted_im.wire.schema import FRAMES, Command, Kind, bare

#: name → (declaration, codec) of every body that can pass on the wire, rows included
BODIES: dict[str, tuple[Any, Codec]] = {CODECS[key].name: (body, CODECS[key]) for key, (body, _, _) in FRAMES.items()}
BODIES |= {"Error": (schema.Error, ERROR), "SyncRow": (schema.SyncRow, Codec("SyncRow", schema.SyncRow))}
each_body = pytest.mark.parametrize("name", BODIES)

def by_construct(declaration: Any, data: bytes) -> dict[str, Any] | None:
    """What construct reads when nothing may be left over; None if it refuses."""
    try:
        return _plain(Struct(*declaration.subcons, Terminated).parse(data), declaration)
    except ConstructError:
        return None


def _plain(container: Any, declaration: Any) -> dict[str, Any]:
    found = {}
    for field in declaration.subcons:
        con = bare(field)
        if isinstance(con, GreedyRange):
            found[field.name] = [_plain(row, con.subcon.subcon) for row in container[field.name]]
        elif not isinstance(con, Rebuild):
            found[field.name] = container[field.name]
    return found


@each_body
@settings(max_examples=40)
@given(data=st.data())
def test_writes_and_reads_what_construct_does(name: str, data: st.DataObject) -> None:
    """If this fails, the published declarations describe other bytes than the server sends."""
    declaration, body = BODIES[name]
    drawn = data.draw(values(declaration, longest=300))
    written = body.write(**drawn)
    assert written == declaration.build(drawn)
    assert by_codec(body, written) == by_construct(declaration, written) == drawn


@each_body
@settings(max_examples=8)
@given(data=st.data())
def test_refuses_every_truncation_and_every_overlength(name: str, data: st.DataObject) -> None:
    """If this fails, half a body is taken for a whole one, or a peer smuggles bytes past the reader."""
    declaration, body = BODIES[name]
    written = body.write(**data.draw(values(declaration, longest=24)))
    longer = [written + more for more in (b"\0", bytes(4), b"\xff" * 5, data.draw(st.binary(min_size=1, max_size=40)))]
    for changed in [written[:end] for end in range(len(written))] + longer:
        assert by_codec(body, changed) == by_construct(declaration, changed), changed.hex()


@each_body
@settings(max_examples=40)
@given(data=st.data())
def test_judges_noise_as_construct_does(name: str, data: st.DataObject) -> None:
    """If this fails, hostile bytes raise something nobody catches, or are read as something that they are not."""
    declaration, body = BODIES[name]
    noise = data.draw(st.binary(max_size=200))
    assert by_codec(body, noise) == by_construct(declaration, noise)
    hurt = bytearray(body.write(**data.draw(values(declaration, longest=40))))
    for place, byte in data.draw(st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=4)):
        if hurt:
            hurt[place % len(hurt)] = byte
    assert by_codec(body, bytes(hurt)) == by_construct(declaration, bytes(hurt))


MISFITS = st.sampled_from(
    [None, -1, 2**64, 10**40, 1.5, "text", "", b"", b"x" * 15, b"x" * 17, bytearray(3), b"x" * 256, [], [None], [{}], [7], object()]
)


@each_body
@settings(max_examples=40)
@given(data=st.data())
def test_refuses_to_write_what_does_not_fit(name: str, data: st.DataObject) -> None:
    """If this fails, an application's mistake leaves as a frame that ends its connection, or shows as a bare struct.error."""
    declaration, body = BODIES[name]
    drawn = data.draw(values(declaration, longest=24))
    with pytest.raises(LocalProtocolError):
        body.write(**drawn, surplus=1)
    for field in drawn:
        with pytest.raises(LocalProtocolError):
            body.write(**{key: value for key, value in drawn.items() if key != field})
        misfit = data.draw(MISFITS)
        try:
            written = body.write(**{**drawn, field: misfit})
        except LocalProtocolError as error:
            assert error.code is Status.BAD_VALUE
        else:  # it fitted after all, and so nothing of it was lost
            read = by_codec(body, written)
            assert read is not None
            assert read[field] == misfit or (body.rows is not None and not misfit)  # any empty iterable is no rows


long_texts = st.builds(str.__mul__, st.text(max_size=12), st.integers(0, 60))


@given(reason=long_texts, request_id=st.integers(0, 2**32 - 1), delay=st.integers(0, 2**32 - 1))
def test_whole_frames_come_back_as_they_went(reason: str, request_id: int, delay: int) -> None:
    """If this fails, an answer reaches the wrong request, or an error loses its code on the way."""
    error = RemoteProtocolError(Status.BUSY, reason, delay)
    sent = codec.request(Command.PING, request_id) + codec.refusal(0xBEEF, request_id, error) + codec.notify(Command.WINDOW, count=7)
    ping, refused, window = FrameReader(4096).feed(sent)
    assert ping == (codec.tag(Kind.REQUEST, Command.PING), request_id, 0, b"")
    assert refused[:3] == (codec.tag(Kind.RESPONSE, 0xBEEF), request_id, Status.BUSY)
    read = ERROR.read(refused[3])
    assert (read.temporary, read.retry_after) == (1, delay)
    assert len(read.reason) <= schema.MAX_REASON
    assert error.reason.startswith(read.reason.decode("utf-8"))  # cut, perhaps, but never through a character
    assert window == (codec.tag(Kind.NOTIFY, Command.WINDOW), 0, 0, (7).to_bytes(8, "big"))


@pytest.mark.parametrize("key", [key for key in CODECS if CODECS[key].fields], ids=lambda key: f"{key[1].name}-{key[0].name}")
def test_flat_packer_writes_the_same_frame(key: tuple[Kind, Command]) -> None:
    """If this fails, the fast path sends other bytes than the plain one."""
    kind, command = key
    body = CODECS[key]
    pack, size = codec.flat(kind, command)
    declared = [field for field in FRAMES[key][0].subcons if field.name in _fixed(body)]
    fixed = {field.name: bytes(16) if isinstance(bare(field), Bytes) else 0 for field in declared}
    tails: dict[str, Any] = {name: b"" for _, name in body.sized} | ({body.rest: b""} if body.rest else {})
    plain = body.write(**{name: value for name, value in fixed.items() if not name.endswith("_size")}, **tails)
    assert pack(size, codec.tag(kind, command), 9, *fixed.values()) == codec.frame(kind, command, plain, 9)


def _fixed(body: Codec) -> list[str]:
    """The names of the fixed fields, sizes included."""
    tails = {name for _, name in body.sized} | {body.rest}
    return [name for name in body.fields if name not in tails]
