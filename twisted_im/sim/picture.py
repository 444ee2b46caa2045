"""A trace as a sequence diagram in SVG.

Strategy: `flights` says which bytes were read where. Each step that an arrow does not stand for gets a place of its own, and what is too
much is cut. Then everything is drawn into layers, so that words lie over lines.

Time runs downwards, but only its order is to scale: each moment gets a row, and a pause becomes a mark that says how long it was. Nobody
has to read a picture by its colours, and each mark carries its steps, in full, as `<title>`: viewers show it under the pointer.

The words of the steps come from programs under test; they are cleaned (`timeline.plain`) and escaped.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from twisted_im.sim.flights import Flight, Wire
from twisted_im.sim.timeline import PAUSE, columns, duration, frames, moment, plain, shorten, size
from twisted_im.sim.trace import Step

#: A picture has no more steps with a place of their own than this. It is then some 9,000 pixels high: viewers still move it with ease.
LIMIT = 400

#: Pixels: between lanes, between those of a crowd, from the left edge to the first lane, from the last lane to the right edge.
PITCH, CLOSE, LEFT, RIGHT = 290, 220, 370, 310

#: More lanes than this are a crowd.
CROWD = 5

#: Pixels: the left edge of the times, and of what is drawn beside them.
AXIS, FIELD = 14, 104

#: Pixels: the next row, a further row at the same moment, what an arrow's words need above it, a pause, the names said again.
ROW, LINE, ABOVE, BREAK, NAMES = 24, 18, 6, 34, 34

#: Pixels: after so many the names of the lanes are said again, for those who have scrolled.
AGAIN = 800

#: A mark tells no more steps than this one by one.
TITLE = 50

#: Pixels: a character of a monospaced font of 11 pixels is 0.6 of that wide.
CHARACTER = 6.62

#: kind → colour of its mark at the lifeline
MARKS = {
    "start": "#15803d",
    "stop": "#4b5563",
    "freeze": "#6b7280",
    "thaw": "#15803d",
    "connect": "#0f766e",
    "accept": "#0f766e",
    "refuse": "#c81e1e",
    "close": "#4b5563",
    "delay": "#b45309",
    "disk": "#92400e",
    "sent": "#1d4ed8",
    "accepted": "#0f766e",
    "refused": "#c81e1e",
    "shown": "#15803d",
    "life": "#7e22ce",
}

STYLE = """
text { font: 11px "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #1f2933 }
.title { font-size: 16px; font-weight: bold }
.quiet { fill: #5b6673 }
.name { font-size: 12px; font-weight: bold }
.box { fill: #eef2f7; stroke: #5b6673 }
.paper { fill: #ffffff }
.under { fill: #ffffff; fill-opacity: 0.85 }
.life { stroke: #9aa5b1; stroke-dasharray: 2 4 }
.alive { fill: #c7d7f5; stroke: #4a6fb5 }
.frozen { fill: #8b929b; stroke: #4b5563 }
.arrow { fill: none; stroke: #1d4ed8; stroke-width: 1.3 }
.head { fill: #1d4ed8 }
.wedge { fill: #1d4ed8; fill-opacity: 0.12 }
.knock .arrow { stroke: #0f766e; stroke-dasharray: 2 3 }
.knock .head { fill: #0f766e }
.late .arrow { stroke: #b45309; stroke-dasharray: 7 4 }
.late .head { fill: #b45309 }
.late text { fill: #92400e }
.lost .arrow { stroke: #c81e1e; stroke-dasharray: 7 4 }
.lost text { fill: #c81e1e }
.cross { fill: none; stroke: #c81e1e; stroke-width: 2.6 }
.fault { stroke: #c81e1e; stroke-width: 1.6 }
.faulttext { fill: #c81e1e; font-weight: bold }
.tint { fill: #ef4444; fill-opacity: 0.13 }
.heal { stroke: #15803d; stroke-width: 1.6 }
.healtext { fill: #15803d; font-weight: bold }
.rule { stroke: #eceff3 }
.gap { fill: #f1f3f6 }
"""


def diagram(
    steps: Sequence[Step],
    *,
    title: str = "",
    first: float | None = None,
    last: float | None = None,
    lanes: Sequence[str] = (),
) -> str:
    """Draws what happened as an SVG 1.1 document, which needs nothing but itself.

    At most `LIMIT` steps have a place of their own. If there are more, the picture goes as far as it can from `first`, or back from `last`
    if only that is given, and says what it leaves out. What lies outside still counts: a process may live before the picture begins.

    Args:
        steps: the whole trace, in the order in which things happened.
        title: stands at the top.
        first: leaves out what was before, in seconds of the trace.
        last: leaves out what was later, in seconds of the trace.
        lanes: processes from left to right; those not named follow: clients, servers, others, each in order of appearance.
    """
    return _Page(steps, title=title, first=first, last=last, lanes=lanes).document()


def _lanes(steps: Sequence[Step], whole: Sequence[Step], first: Iterable[str]) -> list[str]:
    """The processes of some steps, from left to right: those named first, clients, servers, others."""
    names = dict.fromkeys(name for step in steps if not _is_across(step) for name in (step.where, step.to) if name)
    servers = {step.to for step in whole if step.kind == "connect"} | {step.where for step in whole if step.kind in ("accept", "refuse")}
    clients = {step.where for step in whole if step.kind in ("connect", "sent", "accepted", "refused", "shown", "life")} - servers
    rest = sorted(names, key=lambda name: 0 if name in clients else 1 if name in servers else 2)
    return list(dict.fromkeys([*filter(None, first), *rest]))


def _faults(steps: Sequence[Step]) -> list[tuple[int, int]]:
    """Each fault with what mended it: indices, the second beyond all steps if nothing did."""
    mended: dict[int, int] = {}
    for index, step in enumerate(steps):
        if step.kind == "fault":
            mended[index] = len(steps)
        elif step.kind == "heal":
            open_ = [i for i, end in mended.items() if end == len(steps)]
            same = [i for i in open_ if steps[i][2:] == step[2:]]
            alike = [i for i in open_ if _what(steps[i]) == _what(step)]
            # What names nothing that is broken mends all: it says "everything", say.
            for i in same[-1:] or alike[-1:] or open_:
                mended[i] = index
    return list(mended.items())


def _what(step: Step) -> tuple[str, str, str]:
    """What a fault or its end is about: "cut: alice – node" and "mended: alice – node" are about the same."""
    return step.where, step.to, step.text.rpartition(":")[2].strip()


def _is_across(step: Step) -> bool:
    """Whether a step is about the whole world, not one process."""
    return step.kind in ("fault", "heal") or not step.where


class _Page:
    """One picture while it is made."""

    def __init__(self, steps: Sequence[Step], *, title: str, first: float | None, last: float | None, lanes: Sequence[str]) -> None:
        self.steps = steps
        self.wire = Wire(steps)
        self.title = plain(title)
        self.told = {flight.sends[0]: self._tell_flight(flight) for flight in self.wire.flights}
        #: the steps that are drawn lie from `low` to below `high`; those of them in `placed` have a place of their own
        self.low, self.high, self.placed = self._choose(first, last)
        names = _lanes(steps[self.low : self.high], steps, lanes)
        self.pitch = PITCH if len(names) <= CROWD else CLOSE
        self.x: dict[str, float] = {name: LEFT + self.pitch * number for number, name in enumerate(names)}
        self.width = LEFT + self.pitch * max(len(names) - 1, 0) + RIGHT
        self.layers = {name: Element("g") for name in ("tints", "lives", "arrows", "words")}
        self.y: dict[int, float] = {}
        self.top = 112.0
        self.bottom = self._place()

    def document(self) -> str:
        """Draws all, and returns it as XML."""
        self._draw_lives()
        self._draw_faults()
        for flight in self.wire.flights:
            if any(self._inside(index) for index in flight.steps()):
                self._draw_flight(flight)
        for index in range(self.low, self.high):
            step = self.steps[index]
            if _is_across(step):
                self._draw_across(index)
            elif step.kind == "connect":
                self._draw_connect(index)
            elif index not in self.wire.part:
                self._draw_note(index)
        foot = Element("g")
        height = self._draw_legend(foot, self.bottom + 50)
        root = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "version": "1.1"})
        root.set("width", _number(self.width))
        root.set("height", _number(height))
        root.set("viewBox", f"0 0 {_number(self.width)} {_number(height)}")
        _add(root, "title", text=self.title or "What happened")
        _add(root, "style", text=STYLE)
        _add(root, "rect", "paper", width=self.width, height=height)
        root.extend(self.layers.values())
        self._draw_frame(root)
        root.append(foot)
        return ElementTree.tostring(root, encoding="unicode") + "\n"

    # Which steps, and where

    def _choose(self, first: float | None, last: float | None) -> tuple[int, int, list[int]]:
        """Cuts to the times that are wanted, and then to what a picture can hold."""
        wanted = [
            index
            for index, step in enumerate(self.steps)
            if (first is None or step.time >= first) and (last is None or step.time <= last)
        ]
        if not wanted:
            return 0, 0, []
        low, high = wanted[0], wanted[-1] + 1
        hidden = {index for flight in self.wire.flights for index in flight.steps()}
        hidden -= {index for flight in self.wire.flights for index in flight.edges()}
        placed = [index for index in range(low, high) if index not in hidden]
        if len(placed) > LIMIT and first is None and last is not None:
            placed = placed[-LIMIT:]
            low = placed[0]
        elif len(placed) > LIMIT:
            high = placed[LIMIT]
            placed = placed[:LIMIT]
        return low, high, placed

    def _inside(self, index: int) -> bool:
        return self.low <= index < self.high

    def _height(self, index: int) -> float:
        """The y of a step; the edge of the picture if it lies outside."""
        return self.y.get(index, self.top if index < self.low else self.bottom)

    def _place(self) -> float:
        """Gives each placed step its y, draws the time axis on the way, and returns where the lanes end."""
        y = named = self.top
        before: float | None = None
        label = ""
        taken: list[tuple[float, float]] = []
        for index in self.placed:
            time = self.steps[index].time
            left, right = self._extent(index)
            if time != before:
                pause = time - self.steps[index - 1].time if index > self.low else 0.0
                if pause >= PAUSE:
                    y += BREAK
                    self._draw_pause(y, pause)
                if y - named > AGAIN:
                    y += NAMES
                    named = y
                    self._draw_names(y)
                y += ROW
                taken = [(left, right)]
                near = moment(time)[:-3] if abs(time) < 1e6 else moment(time)  # not rounded: rows must not seem out of order
                _add(self.layers["tints"], "path", "rule", d=_path((FIELD, y), (self.width, y)))
                _add(self.layers["words"], "text", "quiet", moment(time) if near == label else near, x=AXIS, y=y + 4)
                before, label = time, near
            elif any(left < other[1] and other[0] < right for other in taken):
                y += LINE + ABOVE * (self.steps[index].kind in ("send", "connect"))
                taken = [(left, right)]
            else:
                taken.append((left, right))
            self.y[index] = y
        return y + ROW

    def _extent(self, index: int) -> tuple[float, float]:
        """From where to where a step needs the row for itself."""
        step = self.steps[index]
        if _is_across(step):
            return 0, self.width
        x = self.x[step.where]
        if step.kind == "arrive" and index in self.wire.part:
            return x - 9, x + 9
        side, room = self._side(step)
        reach = side * min(room, 30 + CHARACTER * columns(self._words(index)))
        return min(x - 9, x + reach), max(x + 9, x + reach)

    def _side(self, step: Step) -> tuple[int, float]:
        """On which side of its lifeline a step's words stand, and how much room they have."""
        here = self.x[step.where]
        there = self.x.get(step.to, here)
        if step.kind in ("send", "connect") and here != there:
            return (1 if here < there else -1), abs(there - here) - 24
        if here == LEFT:
            return -1, LEFT - FIELD - 14
        return 1, (RIGHT if here == max(self.x.values()) else self.pitch) - 20

    # What is said

    def _words(self, index: int) -> str:
        """What stands at a step."""
        if index in self.told:
            return self.told[index]
        step = self.steps[index]
        kind = "KILLED" if step.kind == "kill" else plain(step.kind)
        words = " ".join(filter(None, [kind, plain(step.to)]))
        return ": ".join(filter(None, [words, plain(step.text)]))

    def _tell_flight(self, flight: Flight) -> str:
        """What stands at an arrow: its bytes and frames, and whatever is unusual about it."""
        steps = [self.steps[i] for i in flight.sends]
        words = plain(steps[0].text)
        if len(steps) > 1:
            kinds = Counter(filter(None, (frames(step.text) for step in steps)))
            names = ", ".join(name if times == 1 else f"{name} ×{times}" for name, times in kinds.items())
            words = f"{len(steps)} segments, {sum(size(step.text) for step in steps)} bytes" + (names and f": {names}")
        if flight.ends and (took := self.steps[flight.ends[0][-1]].time - steps[0].time) >= PAUSE:
            words = f"took {duration(took)}: {words}"
        if flight.lost:
            words = f"{'partly' if flight.ends else 'not'} read: {words}"
        return words

    def _title(self, indices: Iterable[int]) -> str:
        """All that is known of some steps, a line each."""
        told = [tell(self.steps[index]) for index in sorted(set(indices))]
        return "\n".join(told if len(told) <= TITLE else [*told[: TITLE - 1], f"… and {len(told) - TITLE + 1} more"])

    # Drawing

    def _draw_flight(self, flight: Flight) -> None:
        start = flight.sends[0]
        group = "late" if flight.late else "sent"
        title = self._title(flight.steps())
        for end in flight.ends:
            self._draw_arrow(start, end, group, title)
        if flight.lost:
            self._draw_lost(start, title)
        if self._inside(start):
            self._draw_label(start, self._words(start), "lost" if flight.lost else group, title, above=True)

    def _draw_connect(self, index: int) -> None:
        title = self._title([index])
        answer = self.wire.answers.get(index)
        if answer is None:
            self._draw_lost(index, title)
        else:
            self._draw_arrow(index, [answer], "knock", title)
        words = self._words(index) + " – no answer" * (answer is None)
        self._draw_label(index, words, "lost" if answer is None else "knock", title, above=True)

    def _draw_arrow(self, index: int, end: list[int], group: str, title: str) -> None:
        """An arrow from a step to the last of `end`; the wedge is the time in which the bytes were read."""
        here, there = self.x.get(self.steps[index].where), self.x.get(self.steps[end[0]].where)
        if here is None or there is None:
            return
        layer = self._group("arrows", group, title)
        y0, y1, y2 = self._height(index), self._height(end[0]), self._height(end[-1])
        if here == there:
            _add(layer, "path", "arrow", d=_path((here + 6, y0), (here + 40, y0), (here + 40, y2), (here + 6, y2)))
            here += 40
            y0 = y2
        else:
            side = 1 if here < there else -1
            here, there = here + 6 * side, there - 6 * side
            if y1 != y2:
                _add(layer, "path", "wedge", d=_path((here, y0), (there, y1), (there, y2)) + "Z")
            _add(layer, "path", "arrow", d=_path((here, y0), (there, y2)))
        if self._inside(end[-1]):
            along, down = there - here, y2 - y0
            length = (along * along + down * down) ** 0.5 or 1.0
            along, down = along / length, down / length
            back = (there - 9 * along, y2 - 9 * down)
            corners = [(back[0] - 4 * down, back[1] + 4 * along), (back[0] + 4 * down, back[1] - 4 * along)]
            _add(layer, "path", "head", d=_path((there, y2), *corners) + "Z")

    def _draw_lost(self, index: int, title: str) -> None:
        """An arrow that ends in a cross halfway."""
        step = self.steps[index]
        if step.where not in self.x:
            return
        layer = self._group("arrows", "lost", title)
        side, room = self._side(step)
        x, y = self.x[step.where] + side * 6, self._height(index)
        reach = (x + side * min(room / 2, 130), y + 9)
        _add(layer, "path", "arrow", d=_path((x, y), reach))
        self._draw_cross(layer, *reach, 5)

    def _draw_cross(self, layer: Element, x: float, y: float, size: float) -> None:
        falling, rising = _path((x - size, y - size), (x + size, y + size)), _path((x - size, y + size), (x + size, y - size))
        _add(layer, "path", "cross", d=falling + rising)

    def _draw_note(self, index: int) -> None:
        """A mark at the lifeline, and words."""
        step = self.steps[index]
        title = self._title([index])
        layer = self._group("arrows", "note", title)
        x, y = self.x[step.where], self.y[index]
        if step.kind in ("kill", "reset"):
            self._draw_cross(layer, x, y, 8 if step.kind == "kill" else 4)
        else:
            _add(layer, "circle", cx=x, cy=y, r=4, fill=MARKS.get(step.kind, "#5b6673"), stroke="#ffffff")
        group = "lost" if step.kind in ("kill", "reset", "refuse", "refused") else "late" if step.kind == "delay" else "note"
        self._draw_label(index, self._words(index), group, title, above=False)

    def _draw_label(self, index: int, words: str, group: str, title: str, *, above: bool) -> None:
        """Words beside a step, on paper of their own."""
        step = self.steps[index]
        side, room = self._side(step)
        words = shorten(words, int(room / CHARACTER))
        wide = CHARACTER * columns(words)
        x, y = self.x[step.where] + side * 14, self._height(index) + (-4 if above else 4)
        layer = self._group("words", group, title)
        _add(layer, "rect", "under", x=x - 2 if side > 0 else x - wide - 2, y=y - 10, width=wide + 4, height=13)
        _add(layer, "text", "", words, x=x, y=y, text_anchor="start" if side > 0 else "end")

    def _draw_across(self, index: int) -> None:
        """A step of the whole world: a line through all lanes."""
        step = self.steps[index]
        kind = step.kind if step.kind in ("fault", "heal") else "rule"
        layer = self._group("words", "note", self._title([index]))
        y = self.y[index]
        _add(layer, "path", kind, d=_path((FIELD, y), (self.width - 10, y)))
        head = {"fault": "⚡ broken", "heal": "✓ mended"}.get(kind, plain(step.kind))
        about = " ".join(plain(name) for name in (step.where, step.to) if name not in step.text)
        words = shorten(": ".join(filter(None, [head, about, plain(step.text)])), int((self.width - FIELD - 40) / CHARACTER))
        _add(layer, "rect", "paper", x=FIELD + 8, y=y - 8, width=CHARACTER * columns(words) + 12, height=16)
        _add(layer, "text", f"{kind}text", words, x=FIELD + 14, y=y + 4)

    def _draw_faults(self) -> None:
        """A tint for as long as something is broken: at the processes it names, or over all."""
        for start, end in _faults(self.steps):
            step = self.steps[start]
            y, height = self._height(start), self._height(end) - self._height(start)
            if height <= 0:
                continue
            said = f"{step.where} {step.to} {step.text}"
            named = [x for name, x in self.x.items() if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", said)]
            strips = [(x - 24, 48) for x in named] or [(FIELD, self.width - FIELD - 10)]
            for x, width in strips:
                _add(self.layers["tints"], "rect", "tint", x=x, y=y, width=width, height=height)

    def _draw_lives(self) -> None:
        """Lifelines; a bar where the process lives, a darker one where it is frozen."""
        turns: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for index, step in enumerate(self.steps):
            if step.kind in ("start", "stop", "kill", "freeze", "thaw"):
                turns[step.where].append((index, step.kind))
        for name, x in self.x.items():
            _add(self.layers["lives"], "path", "life", d=_path((x, self.top - 14), (x, self.bottom)))
            # A process that is not seen to start lived before all.
            born = next((kind for _, kind in turns[name] if kind in ("start", "stop", "kill")), "") == "start"
            self._draw_bars("alive", x, 10, turns[name], None if born else -1, "start", ("stop", "kill"))
            self._draw_bars("frozen", x, 14, turns[name], None, "freeze", ("thaw", "stop", "kill"))

    def _draw_bars(
        self, style: str, x: float, wide: float, turns: list[tuple[int, str]], since: int | None, begin: str, ends: tuple[str, ...]
    ) -> None:
        """Bars on a lifeline; `since` is the step with which one has begun already."""
        for index, kind in [*turns, (len(self.steps), ends[0])]:
            if since is not None and kind in ends:
                y = self._height(since)
                if (height := self._height(index) - y) > 0:
                    _add(self.layers["lives"], "rect", style, x=x - wide / 2, y=y, width=wide, height=height)
                since = None
            elif since is None and kind == begin:
                since = index

    def _draw_pause(self, y: float, seconds: float) -> None:
        _add(self.layers["tints"], "rect", "gap", x=0, y=y - 22, width=self.width, height=20)
        _add(self.layers["words"], "text", "quiet", f"~ {duration(seconds)} ~", x=AXIS, y=y - 8)

    def _draw_names(self, y: float) -> None:
        """The names of the lanes, once more."""
        for name, x in self.x.items():
            words = shorten(plain(name), 30)
            wide = CHARACTER * columns(words) + 10
            _add(self.layers["words"], "rect", "under", x=x - wide / 2, y=y - 16, width=wide, height=16)
            _add(self.layers["words"], "text", "quiet", words, x=x, y=y - 4, text_anchor="middle")

    def _draw_frame(self, root: Element) -> None:
        """What stands above and below the lanes."""
        drawn = self.steps[self.low : self.high]
        _add(root, "text", "title", shorten(self.title or "What happened", int(self.width / 10) - 3), x=AXIS, y=28)
        span = f"{len(drawn)} steps, {moment(drawn[0].time)} s to {moment(drawn[-1].time)} s" if drawn else "no steps"
        _add(root, "text", "quiet", span, x=AXIS, y=48)
        out = [(self.low, "before"), (len(self.steps) - self.high, "after")] if drawn else [(len(self.steps), "at other times")]
        if any(count for count, _ in out):
            words = ", ".join(f"{count} steps {when}" for count, when in out if count)
            _add(root, "text", "faulttext", f"Left out: {words}", x=AXIS, y=64)
        _add(root, "text", "quiet", "seconds", x=AXIS, y=self.top - 20)
        for name, x in self.x.items():
            words = shorten(plain(name), int(self.pitch / 8))
            wide = 7.4 * columns(words) + 24
            for y in (self.top - 36, self.bottom):
                _add(root, "rect", "box", x=x - wide / 2, y=y, width=wide, height=22, rx=4)
                _add(root, "text", "name", words, x=x, y=y + 15, text_anchor="middle")

    def _draw_legend(self, root: Element, y: float) -> float:
        """How to read it: a sample of each line and bar, and what it means. Returns where the picture ends."""
        samples = [
            ("sent", "bytes, from write to read"),
            ("late", "held back by the network"),
            ("lost", "not read in this trace"),
            ("knock", "a connection is asked for"),
            ("alive", "the process lives"),
            ("frozen", "it is frozen"),
            ("tint", "broken on purpose"),
            ("gap", "nothing happens"),
        ]
        across = max(1, int((self.width - AXIS) / 260))
        for number, (style, words) in enumerate(samples):
            x, line = AXIS + 260 * (number % across), y + 20 * (number // across)
            if style in ("alive", "frozen", "tint", "gap"):
                _add(root, "rect", style, x=x, y=line - 10, width=30, height=12)
            else:
                group = _add(root, "g", style)
                _add(group, "path", "arrow", d=_path((x, line - 4), (x + 30, line - 4)))
                if style == "lost":
                    self._draw_cross(group, x + 30, line - 4, 4)
                else:
                    _add(group, "path", "head", d=_path((x + 34, line - 4), (x + 26, line - 8), (x + 26, line)) + "Z")
            _add(root, "text", "quiet", words, x=x + 42, y=line)
        y += 20 * -(-len(samples) // across) + 4
        _add(root, "text", "quiet", "Point at anything to read all of it.", x=AXIS, y=y)
        return y + 20

    def _group(self, layer: str, name: str, title: str) -> Element:
        """A place in a layer to draw in, which shows `title` under the pointer."""
        group = _add(self.layers[layer], "g", f"step {name}")
        _add(group, "title", text=title)
        return group


def tell(step: Step) -> str:
    """All of a step on one line."""
    where = " ".join(filter(None, [plain(step.where), plain(step.to) and f"({plain(step.to)})"]))
    return f"{moment(step.time)} s  {where}  {plain(step.kind)}: {plain(step.text)}"


def _add(parent: Element, tag: str, style: str = "", text: str = "", **attributes: float | str) -> Element:
    """Adds an element; `_` in the names of attributes stands for `-`."""
    child = ElementTree.SubElement(parent, tag, {"class": style} if style else {})
    for name, value in attributes.items():
        child.set(name.replace("_", "-"), value if isinstance(value, str) else _number(value))
    child.text = text or None
    return child


def _path(*points: tuple[float, float]) -> str:
    """A line through some points."""
    return "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in points)


def _number(value: float) -> str:
    """A number of pixels, no longer than is needed."""
    return f"{value:.1f}".removesuffix(".0")
