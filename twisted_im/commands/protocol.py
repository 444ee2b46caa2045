"""`python -m twisted_im protocol`: writes the specification, its state diagram and its test vectors, or says what of them is stale.

Strategy: nothing that the source holds is said twice. Byte tables come from construct's declarations with their documentation, codes from
`twisted_im.errors`, states from the connection's own tables, numbers from where they are kept; `protocol_text` has the prose and
`protocol_vectors` the examples. What is new in the source and explained nowhere stops the generator with a KeyError, so that it cannot go
out unexplained.
"""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from enum import IntEnum
from string import Template
from typing import Any

from construct import Bytes, FormatField, GreedyRange, Rebuild

from twisted_im.commands import pages
from twisted_im.commands import protocol_text as text
from twisted_im.commands.pages import table
from twisted_im.commands.protocol_vectors import BETWEEN_NODES, IN_ORDER, REFUSED, STORY, Example, errors
from twisted_im.core.connection import BEFORE_OPEN, LINK_SILENCE, TRANSITIONS, Event, Limits, State
from twisted_im.errors import DISCONNECT_HELP, STATUS_HELP, Disconnect, Status
from twisted_im.routing.handshake import CLOCKS_APART
from twisted_im.routing.link import LINK_BEAT, LINK_WINDOW
from twisted_im.server import interfaces
from twisted_im.server.access import MAX_REFUSALS, RESUME_SIZE
from twisted_im.server.features import signals
from twisted_im.server.node import RESUME_LIFE
from twisted_im.wire import schema
from twisted_im.wire.codec import CODECS, ERROR, Codec, tag
from twisted_im.wire.schema import FRAMES, HEADER_SIZE, LINKS, VERSION, Command, Header, Kind, bare

EXAMPLES = """Examples:
  python -m twisted_im protocol
  python -m twisted_im protocol --check"""

_TYPES = {"B": "u8", "H": "u16", "L": "u32", "Q": "u64"}
_DIRECTIONS = {"client": "client → server", "server": "server → client", "both": "either side", "node": "node → node"}


# ---- the command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pages.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    return pages.run("protocol", FILES, arguments)


# ---- tables


def _command(value: int) -> str:
    return f"0x{value:04x}"


def byte_table(declaration: Any) -> str:
    """One body, or the header: offset, size, type, name and meaning of each field."""
    if not declaration.subcons:
        return "The body is empty."
    offset, sizes = 0, ""
    lines = []
    for field in declaration.subcons:
        con = bare(field)
        place = f"{offset}{sizes}"
        if isinstance(con, FormatField | Rebuild):
            form = con.subcon if isinstance(con, Rebuild) else con
            lines.append((place, form.length, _TYPES[form.fmtstr[1:]], f"`{field.name}`", field.docs))
            offset += form.length
        elif isinstance(con, Bytes) and not callable(con.length):
            lines.append((place, con.length, f"bytes[{con.length}]", f"`{field.name}`", field.docs))
            offset += con.length
        elif isinstance(con, Bytes):
            lines.append((place, f"{field.name}_size", "bytes", f"`{field.name}`", field.docs))
            sizes += f" + {field.name}_size"
        else:
            kind = "rows" if isinstance(con, GreedyRange) else "bytes"
            lines.append((place, "the rest", kind, f"`{field.name}`", field.docs))
    return table(("offset", "size", "type", "field", "meaning"), lines)


def _row_table(declaration: Any) -> str:
    """The row of a body that has rows; nothing for others, or if the row is another frame's body and stands there."""
    last = bare(declaration.subcons[-1]) if declaration.subcons else None
    if not isinstance(last, GreedyRange) or any(body is last.subcon.subcon for body, _, _ in FRAMES.values()):
        return ""
    return "Each row, behind its size:\n\n" + byte_table(last.subcon.subcon)


def frame_by_frame(commands: Iterable[Command]) -> str:
    """Each command with its frames."""
    parts = []
    for command in commands:
        parts.append(f"### {command.name} {_command(command)}")
        for kind in Kind:
            if (kind, command) not in FRAMES:
                continue
            declaration, sender, about = FRAMES[kind, command]
            parts.append(f"**{command.name} {kind.name.lower()}** ({_DIRECTIONS[sender]}). {about} {_answered(kind, command)}".rstrip())
            parts.append(byte_table(declaration))
            parts.append(_row_table(declaration))
    return "\n\n".join(part for part in parts if part)


def _answered(kind: Kind, command: Command) -> str:
    if kind is Kind.REQUEST:
        return f"Answered by the {command.name} response or an error. {text.ANSWERS[command.name]}"
    return ""


def _members(enum: type[IntEnum], meanings: dict[str, str]) -> str:
    return table(("value", "name", "meaning"), [(int(member), f"`{member.name}`", meanings[member.name]) for member in enum])


def enums() -> str:
    """The enumerations of the schema, but for the kinds and commands, which have their own places."""
    found = [
        value
        for value in vars(schema).values()
        if inspect.isclass(value) and issubclass(value, IntEnum) and value.__module__ == schema.__name__ and value not in (Kind, Command)
    ]
    return "\n\n".join(f"### {text.ENUMS[e.__name__][0]}\n\n{_members(e, text.ENUMS[e.__name__][1])}" for e in found)


def state_table() -> str:
    """State × event → next state."""
    rows = [(f"**{s.value}**", *[t.value if (t := TRANSITIONS.get((s, e))) else "" for e in Event]) for s in State if s is not State.CLOSED]
    return table(("", *[event.value for event in Event]), rows)


def may_come() -> str:
    """State × sender → the frames that may come."""
    names: dict[tuple[State, str], list[str]] = {}
    for state, allowed in BEFORE_OPEN.items():
        for (kind, command), (_, sender, _) in FRAMES.items():
            if tag(kind, command) in allowed:
                for side in ("client", "server") if sender == "both" else (sender,):
                    names.setdefault((state, side), []).append(f"{command.name} {kind.name.lower()}")
    rows = [(state.value, *[", ".join(names.get((state, side), ())) for side in ("client", "server")]) for state in BEFORE_OPEN]
    return table(("state", "from the client", "from the server"), rows)


# ---- bytes, annotated


def _shown(data: bytes) -> str:
    try:
        decoded = data.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    return f"“{decoded}”" if decoded.isprintable() and decoded else ""


def _walk(declaration: Any, data: bytes, at: int, end: int) -> Iterator[tuple[int, bytes, str, str]]:
    """(offset, bytes, field, value) of each field of a body."""
    sizes: dict[str, int] = {}
    for field in declaration.subcons:
        con = bare(field)
        if isinstance(con, FormatField | Rebuild):
            size = (con.subcon if isinstance(con, Rebuild) else con).length
            sizes[field.name] = value = int.from_bytes(data[at : at + size], "big")
            yield at, data[at : at + size], field.name, f"{value} ({_command(value)})" if field.name == "command" else str(value)
        elif isinstance(con, GreedyRange):
            while at < end:
                row_end = at + 4 + int.from_bytes(data[at : at + 4], "big")
                yield at, data[at : at + 4], "row", str(row_end - at - 4)
                yield from _walk(con.subcon.subcon, data, at + 4, row_end)
                at = row_end
            return
        else:
            is_id = isinstance(con, Bytes) and not callable(con.length)
            size = con.length if is_id else sizes[f"{field.name}_size"] if isinstance(con, Bytes) else end - at
            found = data[at : at + size]
            yield at, found, field.name, "" if is_id else _shown(found)
        at += size


def annotated(example: Example) -> str:
    """One frame as lines of offset, hex, field and value."""
    data = example.frame
    declaration, sender, _ = FRAMES[example.kind, example.command]
    arrow = "S → C" if sender == "server" else "C → S"
    lines = [f"{arrow}  {example.command.name} {example.kind.name.lower()}: {example.about}"]
    header, body = _walk(Header, data, 0, HEADER_SIZE), _walk(declaration, data, HEADER_SIZE, len(data))
    for at, found, name, value in (*header, *body):
        for start in range(0, len(found), 16) or (0,):
            label = f"{name:<16}{value}" if start == 0 else ""
            lines.append(f"  {at + start:04x}  {found[start : start + 16].hex(' '):<48} {label}".rstrip())
    return "\n".join(lines)


def story() -> str:
    """The story of the vectors, without the sync, which has no bytes of interest."""
    told = [annotated(example) for example in STORY if example.command is not Command.SYNC]
    return "\n\n".join(f"```text\n{frame}\n```" for frame in told)


# ---- the files


def specification() -> str:
    """docs/protocol.md."""
    limits = Limits()
    numbers = {field.name: f"{getattr(limits, field.name):g}" for field in fields(Limits) if field.name != "max_body"}
    numbers |= {
        "version": str(VERSION),
        "max_body": str(limits.max_body),
        "write_budget": str(limits.write_budget),
        "header_size": str(HEADER_SIZE),
        "refusals": str(MAX_REFUSALS),
        "resume_size": str(RESUME_SIZE),
        "resume_days": f"{RESUME_LIFE / 86400:g}",
        "link_beat": str(LINK_BEAT),
        "link_silence": str(LINK_BEAT * LINK_SILENCE),
        "link_window": str(LINK_WINDOW),
        "link_clocks": f"{CLOCKS_APART:g}",
        "link_version": str(schema.LINK_VERSION),
        "ahead": str(interfaces.AHEAD),
        "signal_content": str(signals.MAX_CONTENT),
        "signal_lifetime": str(signals.MAX_LIFETIME),
        "NORMAL": str(int(Disconnect.NORMAL)),
        **{name: str(getattr(schema, name)) for name in text.FORMAT_LIMITS},
    }
    families = [part.strip().split(" ", 1) for part in (Command.__doc__ or "").partition("family:")[2].rstrip(".").split(",")]
    tables = {
        "header_table": byte_table(Header),
        "kind_table": table(("value", "name", "what it is"), [(int(k), k.name.lower(), _KINDS[k]) for k in Kind]),
        "error_table": byte_table(schema.Error),
        "format_limits": table(("limit", "name", "what for"), [(getattr(schema, n), f"`{n}`", m) for n, m in text.FORMAT_LIMITS.items()]),
        "state_table": state_table(),
        "may_come": may_come(),
        "limits_table": table(
            ("default", "of", "what", "beyond it"),
            [(numbers[field.name], *text.LIMITS[field.name]) for field in fields(Limits)],
        ),
        "frames": frame_by_frame(command for command in Command if command not in LINKS),
        "link_frames": frame_by_frame(command for command in Command if command in LINKS),
        "enums": enums(),
        "status_table": table(
            ("code", "name", "again?", "meaning", "what to do"),
            [(int(s), f"`{s.name}`", _yes(again), meaning, remedy) for s, (again, meaning, remedy) in STATUS_HELP.items()],
        ),
        "disconnect_table": table(
            ("code", "name", "come back?", "meaning"),
            [(int(d), f"`{d.name}`", _yes(back), meaning) for d, (back, meaning) in DISCONNECT_HELP.items()],
        ),
        "bad_input": table(("what comes", "what answers it"), text.BAD_INPUT),
        "families": ", ".join(f"{number} {name}" for number, name in families),
        "story": story(),
    }
    # The tables have numbers in them too; what the examples show is put in last, so that nothing in them is taken for a name.
    told = tables.pop("story")
    page = Template(text.PAGE.substitute({**numbers, **tables, "story": "$story"})).substitute(numbers | {"story": told})
    return page.rstrip("\n") + "\n"


_KINDS = {
    Kind.REQUEST: "asks for a response",
    Kind.RESPONSE: "answers a request: the same command, the same request id",
    Kind.NOTIFY: "tells something and is not answered; its request id is 0",
}


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def vectors() -> str:
    """docs/vectors.json."""
    found = {
        "protocol": VERSION,
        "frames": [_vector(e.name, e.about, e.frame, FRAMES[e.kind, e.command][0], CODECS[e.kind, e.command]) for e in IN_ORDER],
        "links": [_vector(e.name, e.about, e.frame, FRAMES[e.kind, e.command][0], CODECS[e.kind, e.command]) for e in BETWEEN_NODES],
        "errors": [_vector(name, STATUS_HELP[status][1], frame, schema.Error, ERROR) for name, status, frame in errors()],
        "refused": [
            {"name": r.name, "about": r.about, "state": r.state.value, "hex": r.data.hex(), "answer": _answer(r.answer)} for r in REFUSED
        ],
    }
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def _vector(name: str, about: str, frame: bytes, declaration: Any, codec: Codec) -> dict[str, Any]:
    header = Header.parse(frame)
    return {
        "name": name,
        "about": about,
        "kind": header.kind,
        "command": header.command,
        "request_id": header.request_id,
        "flags": header.flags,
        "status": header.status,
        "body": _as_json(declaration, codec.read(frame[HEADER_SIZE:])),
        "hex": frame.hex(),
    }


def _as_json(declaration: Any, values: Any) -> dict[str, Any]:
    """A body's values as JSON has them: numbers of 64 bits as strings, since many readers of JSON lose their last digits."""
    plain: dict[str, Any] = {}
    for field in declaration.subcons:
        con = bare(field)
        if isinstance(con, Rebuild):
            continue
        value = getattr(values, field.name)
        if isinstance(con, GreedyRange):
            plain[field.name] = [_as_json(con.subcon.subcon, row) for row in value]
        elif isinstance(value, bytes):
            plain[field.name] = value.hex()
        else:
            plain[field.name] = str(value) if con.length == 8 else value
    return plain


def _answer(answer: Status | Disconnect | str) -> dict[str, Any]:
    if isinstance(answer, str):
        return {"nothing": answer}
    return {"status" if isinstance(answer, Status) else "disconnect": int(answer), "name": answer.name}


# ---- the diagram

#: where each state stands: the middle of its box
_PLACES = {
    State.CLOSED: (400, 40),
    State.START: (80, 150),
    State.GREETED: (290, 150),
    State.LOGIN: (500, 150),
    State.OPEN: (710, 150),
    State.CLOSING: (400, 260),
}
_WIDE, _HIGH = 90, 34


def diagram() -> str:
    """docs/connection.svg, drawn from the table of transitions."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 330" font-family="sans-serif" font-size="12" text-anchor="middle">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z"/></marker></defs>',
        '<rect width="800" height="330" fill="#fff"/>',
        *[_arrow(source, event, target) for (source, event), target in TRANSITIONS.items()],
        *[_box(state, x, y) for state, (x, y) in _PLACES.items()],
        f'<path d="M200 305h40" stroke="#36c"/><text x="248" y="309" text-anchor="start">{Event.END.value}</text>',
        f'<path d="M470 305h40" stroke="#999" stroke-dasharray="5 4"/><text x="518" y="309" text-anchor="start">{Event.LOST.value}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _box(state: State, x: int, y: int) -> str:
    return (
        f'<rect x="{x - _WIDE // 2}" y="{y - _HIGH // 2}" width="{_WIDE}" height="{_HIGH}" rx="8" fill="#eef" stroke="#000"/>'
        f'<text x="{x}" y="{y + 4}" font-size="14">{state.value}</text>'
    )


def _arrow(source: State, event: Event, target: State) -> str:
    (x, y), (to_x, to_y) = _PLACES[source], _PLACES[target]
    style = {Event.END: 'stroke="#36c"', Event.LOST: 'stroke="#999" stroke-dasharray="5 4"'}.get(event, 'stroke="#000"')
    if y == to_y:  # along the row; the way back runs below the way there
        side = 1 if to_x > x else -1
        line = y - 6 * side
        start, end = x + side * _WIDE // 2, to_x - side * _WIDE // 2
        label = f'<text x="{(x + to_x) // 2}" y="{line - 5 if side > 0 else line + 14}">{event.value}</text>'
        return f'<path d="M{start} {line}H{end}" {style} fill="none" marker-end="url(#tip)"/>{label}'
    down = 1 if to_y > y else -1
    if source is State.CLOSING:  # round the row, not through it
        return (
            f'<path d="M{x - _WIDE // 2} {y}H30Q10 {y} 10 {y - 20}V{to_y + 20}Q10 {to_y} 30 {to_y}H{to_x - _WIDE // 2}" '
            f'{style} fill="none" marker-end="url(#tip)"/>'
        )
    land = to_x + max(-_WIDE // 3, min(_WIDE // 3, (x - to_x) // 8))
    return f'<path d="M{x} {y + down * _HIGH // 2}L{land} {to_y - down * _HIGH // 2}" {style} fill="none" marker-end="url(#tip)"/>'


FILES: dict[str, Callable[[], str]] = {"protocol.md": specification, "vectors.json": vectors, "connection.svg": diagram}
