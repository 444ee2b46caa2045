"""Readers and writers, derived from the declarations in `twisted_im.wire.schema` at import.

Strategy: construct declares, `struct` runs. For each body this module walks construct's subconstructs once and makes a `Codec`: one
`struct.Struct` for the fixed fields, slices for the sized strings, and the rest. construct itself never sees bytes from the network:
interpreted it costs 70 times as much, and its compiled form does not check bounds (it says so itself). The tests prove
both equal, truncated and overlong input included.

A *tag* is the second word of a header — version, kind and command in one u32 — so that a receiver judges three fields with one
dictionary look-up.
"""

from __future__ import annotations

import struct
from collections import namedtuple
from collections.abc import Callable, Iterable
from typing import Any

from construct import Bytes, FormatField, GreedyBytes, GreedyRange, Prefixed, Rebuild

from twisted_im.errors import ImError, LocalProtocolError, RemoteProtocolError, Status
from twisted_im.wire import schema
from twisted_im.wire.schema import FRAMES, VERSION, Command, Kind

#: The header as four words: length, tag, request id, flags and status.
HEADER = struct.Struct(">IIII")


def tag(kind: Kind, command: int, version: int = VERSION) -> int:
    """The header's second word for a frame of this kind and command."""
    return version << 24 | kind << 16 | command


class Codec:
    """One body's reader and writer.

    Attributes:
        name: the declaration's name.
        fields: names in wire order, sizes included.
        fixed: the `struct.Struct` of the fixed fields.
        sized: (index of the size among the fixed fields, name) of each sized string.
        rest: the name of the last, unbounded field, or None.
        rows: the codec of that field's rows, or None if it is a byte string.
        values: the type that `read` returns: a named tuple of all fields but the sizes.
    """

    def __init__(self, name: str, declaration: Any) -> None:
        self.name = name
        formats, names = [], []
        self.sized: list[tuple[int, str]] = []
        self.rest: str | None = None
        self.rows: Codec | None = None
        sizes: list[str] = []
        for field in declaration.subcons:
            con = schema.bare(field)
            if isinstance(con, FormatField | Rebuild):
                form = con.subcon if isinstance(con, Rebuild) else con
                formats.append(form.fmtstr[1:])
                names.append(field.name)
                if isinstance(con, Rebuild):
                    sizes.append(field.name)
            elif isinstance(con, Bytes) and not callable(con.length):
                formats.append(f"{con.length}s")
                names.append(field.name)
            elif isinstance(con, Bytes):
                self.sized.append((names.index(f"{field.name}_size"), field.name))
            elif con is GreedyBytes:
                self.rest = field.name
            elif isinstance(con, GreedyRange) and isinstance(con.subcon, Prefixed):
                self.rest = field.name
                self.rows = Codec(f"{name}.{field.name}", con.subcon.subcon)
            else:
                raise TypeError(f"{name}.{field.name}: {con!r} has no place in a body")
        self.fixed = struct.Struct(">" + "".join(formats))
        self.fields = names + [n for _, n in self.sized] + ([self.rest] if self.rest else [])
        self._fixed_names = names
        self._sizes = frozenset(sizes)
        self._keep = [i for i, n in enumerate(names) if n not in self._sizes]
        self.values: Callable[..., Any] = namedtuple(  # type: ignore[misc]  # fields come from the declaration
            name.replace(".", "_"), [n for n in self.fields if n not in self._sizes]
        )

    def read(self, data: bytes) -> Any:
        """The body's values.

        Raises:
            RemoteProtocolError: BAD_BODY if it is truncated, or bytes are left over.
        """
        fixed = self.fixed
        if len(data) < fixed.size:
            raise self._bad(f"{len(data)} bytes, where at least {fixed.size} are declared")
        head = fixed.unpack_from(data)
        values: list[Any] = [head[i] for i in self._keep]
        at = fixed.size
        for index, name in self.sized:
            end = at + head[index]
            if end > len(data):
                raise self._bad(f"{name} runs over the end")
            values.append(data[at:end])
            at = end
        if self.rest is None:
            if at != len(data):
                raise self._bad(f"{len(data) - at} bytes left over")
        elif self.rows is None:
            values.append(data[at:])
        else:
            values.append(self._read_rows(data, at))
        return self.values(*values)

    def _read_rows(self, data: bytes, at: int) -> tuple[Any, ...]:
        assert self.rows is not None
        found = []
        while at < len(data):
            start = at + 4
            at = start + int.from_bytes(data[at:start], "big")
            if at > len(data):
                raise self._bad("a row runs over the end")
            found.append(self.rows.read(data[start:at]))
        return tuple(found)

    def write(self, **values: Any) -> bytes:
        """The body's bytes; rows are given as an iterable of already written rows, or of dictionaries.

        Raises:
            LocalProtocolError: BAD_VALUE if a value does not fit its field, or a field is missing or unknown.
        """
        try:
            tails = [values.pop(name) for _, name in self.sized]
            rest = values.pop(self.rest) if self.rest else b""
            for (index, _), text in zip(self.sized, tails, strict=True):
                values[self._fixed_names[index]] = len(text)
            head = self.fixed.pack(*[self._whole(name, values.pop(name)) for name in self._fixed_names])
            if values:
                raise LookupError(f"no field {', '.join(values)}")
            if self.rows is not None:
                rest = self._write_rows(rest)
            return b"".join((head, *tails, rest))
        except (struct.error, LookupError, TypeError, ValueError) as error:
            raise LocalProtocolError(Status.BAD_VALUE, f"{self.name}: {error}") from error

    def _whole(self, name: str, value: Any) -> Any:
        """`struct` pads and cuts byte strings without a word; a fixed one must have its exact length."""
        if isinstance(value, bytes | bytearray) and len(value) != 16:
            raise ValueError(f"{name} takes 16 bytes, not {len(value)}")
        return value

    def _write_rows(self, rows: Iterable[Any]) -> bytes:
        assert self.rows is not None
        written = [row if isinstance(row, bytes) else self.rows.write(**row) for row in rows]
        return b"".join(part for row in written for part in (len(row).to_bytes(4, "big"), row))

    def _bad(self, what: str) -> ImError:
        return RemoteProtocolError(Status.BAD_BODY, f"{self.name}: {what}")


def frame(kind: Kind, command: int, body: bytes = b"", request_id: int = 0, status: int = 0) -> bytes:
    """One frame, whole."""
    return HEADER.pack(len(body), tag(kind, command), request_id, status) + body


CODECS: dict[tuple[Kind, Command], Codec] = {}
_made: dict[int, Codec] = {}
for (_kind, _command), (_declaration, _, _) in FRAMES.items():
    _name = next(n for n, v in vars(schema).items() if v is _declaration)
    CODECS[_kind, _command] = _made.setdefault(id(_declaration), Codec(_name, _declaration))
ERROR = Codec("Error", schema.Error)


def codec(kind: Kind, command: Command) -> Codec:
    """The codec of one frame's body."""
    return CODECS[kind, command]


def request(command: Command, request_id: int, **values: Any) -> bytes:
    """A request, whole, from its body's values."""
    return frame(Kind.REQUEST, command, CODECS[Kind.REQUEST, command].write(**values), request_id)


def response(command: Command, request_id: int, **values: Any) -> bytes:
    """A response, whole, from its body's values."""
    return frame(Kind.RESPONSE, command, CODECS[Kind.RESPONSE, command].write(**values), request_id)


def notify(command: Command, **values: Any) -> bytes:
    """A notify, whole, from its body's values."""
    return frame(Kind.NOTIFY, command, CODECS[Kind.NOTIFY, command].write(**values))


def reason_bytes(error: ImError) -> bytes:
    """An error's reason as it goes out: UTF-8 of at most `MAX_REASON` bytes, cut between characters."""
    return error.reason.encode("utf-8", "replace")[: schema.MAX_REASON].decode("utf-8", "ignore").encode()


def refusal(command: int, request_id: int, error: ImError) -> bytes:
    """The response that says what went wrong with a request."""
    body = ERROR.write(temporary=int(error.temporary), retry_after=error.retry_after, reason=reason_bytes(error))
    return frame(Kind.RESPONSE, command, body, request_id, error.code)


def flat(kind: Kind, command: Command) -> tuple[Callable[..., bytes], int]:
    """A packer for hot paths: header and fixed fields of one frame in a single `struct` call.

    Returns:
        (pack, size): `pack(length, tag, request_id, *fixed fields)`, flags and status being 0, and the size of the fixed fields, so that
        length is `size` plus the bytes that the caller adds after them.
    """
    body = CODECS[kind, command].fixed
    return struct.Struct(HEADER.format[:-1] + "4x" + body.format[1:]).pack, body.size
