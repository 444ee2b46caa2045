"""Whatever a body may hold, drawn from its declaration; shared by the tests of the codec and of the framing."""

from __future__ import annotations

from typing import Any

from construct import Bytes, FormatField, GreedyBytes, GreedyRange, Rebuild
from hypothesis import strategies as st

from twisted_im.errors import RemoteProtocolError, Status
from twisted_im.wire.codec import Codec
from twisted_im.wire.schema import bare

SIZES = {"B": 8, "H": 16, "L": 32, "Q": 64}


def values(declaration: Any, *, longest: int) -> st.SearchStrategy[dict[str, Any]]:
    """All that a body can hold: each integer's whole range, strings and rows of up to `longest`."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in declaration.subcons:
        con = bare(field)
        if isinstance(con, FormatField):
            top = 2 ** SIZES[con.fmtstr[1:]] - 1
            fields[field.name] = st.sampled_from([0, 1, top]) | st.integers(0, top)
        elif isinstance(con, Bytes):
            fields[field.name] = st.binary(max_size=min(longest, 255)) if callable(con.length) else st.binary(min_size=16, max_size=16)
        elif con is GreedyBytes:
            fields[field.name] = st.binary(max_size=longest)
        elif isinstance(con, GreedyRange):
            fields[field.name] = st.lists(values(con.subcon.subcon, longest=longest // 4), max_size=min(longest // 8, 4))
        else:
            assert isinstance(con, Rebuild)  # a size, which nobody gives
    return st.fixed_dictionaries(fields)


def by_codec(body: Codec, data: bytes) -> dict[str, Any] | None:
    """What the codec reads; None if it refuses. Any exception but its own is a fault."""
    try:
        read = body.read(data)
    except RemoteProtocolError as error:
        assert error.code is Status.BAD_BODY
        return None
    found = dict(read._asdict())
    if body.rows is not None:
        found[str(body.rest)] = [dict(row._asdict()) for row in found[str(body.rest)]]
    return found
