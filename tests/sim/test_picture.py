"""Whether a picture is one, and shows what happened.

Strategy: a drawing is read as XML. What stands for steps names them in its `<title>`, which is what a viewer shows under the pointer; so
whether a step is shown, and as what, can be asked without knowing where it stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sim.sample import ANY_STEPS, NAMES, story
from twisted_im.sim.picture import LIMIT, diagram, tell
from twisted_im.sim.timeline import plain
from twisted_im.sim.trace import Step

SVG = "{http://www.w3.org/2000/svg}"


def draw(steps: list[Step], **how: object) -> Element:
    """The picture as a tree."""
    return ElementTree.fromstring(diagram(steps, **how))  # type: ignore[arg-type]


def marks(picture: Element) -> Iterator[tuple[set[str], list[str], Element]]:
    """What stands for steps: its classes, the steps that it tells of, and itself."""
    for group in picture.iter(f"{SVG}g"):
        classes = group.get("class", "").split()
        if "step" in classes:
            yield set(classes), (group.findtext(f"{SVG}title") or "").split("\n"), group


def of_class(picture: Element, style: str, tag: str = "*") -> list[Element]:
    """All elements of a class."""
    return [element for element in picture.iter(f"{SVG}{tag}" if tag != "*" else None) if element.get("class") == style]


def texts(picture: Element) -> list[str]:
    """All words that can be seen."""
    return [element.text or "" for element in picture.iter(f"{SVG}text")]


def lanes(picture: Element) -> list[str]:
    """The names of the lanes, from left to right."""
    heads = of_class(picture, "name")
    top = min((float(head.get("y", 0)) for head in heads), default=0.0)
    return [head.text or "" for head in sorted(heads, key=lambda head: float(head.get("x", 0))) if float(head.get("y", 0)) == top]


@given(ANY_STEPS, st.text(), st.lists(NAMES, max_size=3))
def test_any_trace_can_be_drawn(steps: list[Step], title: str, first: list[str]) -> None:
    """If this fails, a text from a program under test breaks the picture, or a process or a step is missing in it."""
    picture = draw(steps, title=title, lanes=first)
    assert plain(title) in (picture.findtext(f"{SVG}title") or "")
    across = ("fault", "heal")
    names = {name for step in steps if step.where and step.kind not in across for name in (step.where, step.to)}
    assert sorted(lanes(picture)) == sorted(plain(name) for name in (names | set(first)) - {""})
    told = {line for _, lines, _ in marks(picture) for line in lines}
    assert {tell(step) for step in steps} <= told


@given(ANY_STEPS, st.floats(-10, 10), st.floats(-10, 10))
def test_any_part_can_be_drawn(steps: list[Step], first: float, last: float) -> None:
    """If this fails, looking closer at a part of a trace shows an error, or not all of that part."""
    picture = draw(steps, first=first, last=last)
    told = {line for _, lines, _ in marks(picture) for line in lines}
    assert {tell(step) for step in steps if first <= step.time <= last} <= told


def test_lanes_stand_in_a_useful_order() -> None:
    """If this fails, arrows run to and fro over the picture because a server stands between its clients."""
    steps = [
        Step(0.0, "start", "node", "", ""),
        Step(0.0, "start", "timer", "", ""),
        Step(0.1, "start", "zoe", "", ""),
        Step(0.2, "connect", "zoe", "node", ""),
        Step(0.3, "connect", "alice", "node", ""),
    ]
    assert lanes(draw(steps)) == ["zoe", "alice", "node", "timer"]
    assert lanes(draw(steps, lanes=["timer", "alice"])) == ["timer", "alice", "zoe", "node"]


def test_story_can_be_seen() -> None:
    """If this fails, a lost or a late message looks like any other, or nobody sees when a process was dead or frozen."""
    steps = story()
    picture = draw(steps, title="A story")
    told = {style: [lines for classes, lines, _ in marks(picture) if style in classes] for style in ("sent", "late", "lost")}

    assert [tell(step) for step in steps if step.time in (5.0, 12.4) and step.kind in ("send", "arrive")] in told["late"]
    assert [tell(step) for step in steps if step.time == 20.0 and step.kind == "send"] in told["lost"]
    assert all("57 bytes" in line or "sent" not in line for lines in told["lost"] for line in lines)
    crosses = [group for classes, _, group in marks(picture) if of_class(group, "cross")]
    assert len(crosses) == 1 + 1 + 3 + 1  # a message, a connection asked for in vain, three resets, a kill
    bulk = [step for step in steps if "1448" in step.text]
    assert sorted(map(tell, bulk)) == sorted({line for lines in told["sent"] for line in lines if "1448" in line})
    assert len({tuple(lines) for lines in told["sent"] if "1448" in lines[0]}) == 2  # a thaw lies between

    seen = texts(picture)
    assert "took 7.4 s: 61 bytes: request MESSAGE" in seen
    assert "not read: 57 bytes: request MESSAGE" in seen
    assert "connect node – no answer" in seen
    assert "KILLED: power loss, unsynced pages gone" in seen
    assert "~ 7.2 s ~" in seen
    lives = [element for element in of_class(picture, "alive", "rect") if element.get("height") != "12"]  # that one is in the legend
    assert len(lives) == 4  # two clients, and a server twice
    assert len(of_class(picture, "frozen", "rect")) == 2


def test_arrows_point_downwards_and_at_their_lane() -> None:
    """If this fails, the picture shows bytes that were read before they were sent, or by somebody else."""
    steps = [
        Step(1.0, "connect", "a", "b", ""),
        Step(1.1, "accept", "b", "a", ""),
        Step(1.2, "send", "b", "a", "5 bytes"),
        Step(1.4, "arrive", "a", "b", "5 bytes"),
    ]
    picture = draw(steps)
    at = {head.text: float(head.get("x", 0)) for head in of_class(picture, "name")}
    arrow = next(path for classes, _, group in marks(picture) if "sent" in classes for path in of_class(group, "arrow"))
    (x0, y0), (x1, y1) = (map(float, point.split()) for point in arrow.get("d", "").removeprefix("M").split("L"))
    assert abs(x0 - at["b"]) < 10 > abs(x1 - at["a"])
    assert y1 > y0


def test_what_is_broken_is_tinted_where_and_as_long_as_it_is() -> None:
    """If this fails, a reader takes a message that was lost in a partition for the fault of the server."""
    steps = [
        Step(0.0, "start", "alice", "", ""),
        Step(0.0, "start", "alice2", "", ""),
        Step(0.0, "start", "node", "", ""),
        Step(1.0, "fault", "", "", "cut: alice – node"),
        Step(1.5, "fault", "", "", "every disk is slow"),
        Step(2.0, "heal", "", "", "mended: alice – node"),
        Step(2.5, "fault", "node", "", "freeze node"),
        Step(3.0, "heal", "", "", "everything"),
        Step(3.5, "log", "node", "", "fine"),
        Step(4.0, "fault", "alice", "", "deaf alice"),
    ]
    picture = draw(steps)
    tints = [tint for tint in of_class(picture, "tint", "rect") if tint.get("height") != "12"]
    at = {head.text: float(head.get("x", 0)) for head in of_class(picture, "name")}
    middles = [float(tint.get("x", 0)) + float(tint.get("width", 0)) / 2 for tint in tints]
    assert [middles[0], middles[1], *middles[3:]] == [at["alice"], at["node"], at["node"], at["alice"]]
    ends = [float(tint.get("y", 0)) + float(tint.get("height", 0)) for tint in tints]
    words = {element.text: float(element.get("y", 0)) - 4 for element in picture.iter(f"{SVG}text")}
    cut, mended = words["⚡ broken: cut: alice – node"], words["✓ mended: mended: alice – node"]
    assert (float(tints[0].get("y", 0)), float(tints[0].get("height", 0))) == (cut, mended - cut)
    assert float(tints[2].get("width", 0)) > at["node"] - at["alice"]  # of no process in particular
    assert ends[:4] == [mended, mended, words["✓ mended: everything"], words["✓ mended: everything"]]
    assert ends[4] > words["⚡ broken: deaf alice"]  # never mended


def test_words_are_escaped_and_the_picture_needs_nothing_else() -> None:
    """If this fails, a message's text becomes part of the page that shows the picture, or the picture asks the network for something."""
    evil = '<script href="http://x">&amp;]]></title>\x00\ud800\x1b[2J'
    source = diagram([Step(0.0, "log", "node", "", evil), Step(0.0, "send", evil, "node", evil)], title=evil)
    picture = ElementTree.fromstring(source.encode("utf-8"))
    assert {element.tag.removeprefix(SVG) for element in picture.iter()} <= {"svg", "title", "style", "g", "rect", "path", "circle", "text"}
    assert not any("href" in name or name.startswith("on") for element in picture.iter() for name in element.keys())  # noqa: SIM118
    assert "url(" not in source
    assert "@import" not in source
    assert picture.findtext(f"{SVG}title") == '<script href="http://x">&amp;]]></title>\ufffd\ufffd\ufffd[2J'


@pytest.mark.parametrize(
    ("how", "out", "times"),
    [
        ({}, "Left out: 1600 steps after", (0, 399)),
        ({"first": 500.0}, "Left out: 500 steps before, 1100 steps after", (500, 899)),
        ({"last": 999.0}, "Left out: 600 steps before, 1000 steps after", (600, 999)),
        ({"first": 10.0, "last": 19.0}, "Left out: 10 steps before, 1980 steps after", (10, 19)),
        ({"first": 5000.0}, "Left out: 2000 steps at other times", None),
    ],
)
def test_a_long_trace_says_what_is_left_out(how: dict[str, float], out: str, times: tuple[int, int] | None) -> None:
    """If this fails, whoever looks at a long run takes a part of it for the whole."""
    steps = [Step(float(number), "log", "node", "", f"number {number}") for number in range(2000)]
    picture = draw(steps, **how)
    assert out in texts(picture)
    told = [int(lines[0].rpartition(" ")[2]) for _, lines, group in marks(picture) if group.find(f"{SVG}text") is not None]
    assert told == (list(range(times[0], times[1] + 1)) if times else [])
    assert len(told) <= LIMIT


def test_what_lies_outside_still_counts() -> None:
    """If this fails, a part of a trace shows a process as dead that had started before, or as lost what is read after it."""
    picture = draw(story(), first=5.0, last=6.0)
    (tall,) = [style for classes, _, group in marks(picture) if "late" in classes and (style := of_class(group, "arrow"))]
    assert len(tall) == 1
    assert not of_class(picture, "head", "path")[:-3]  # no arrow ends here; three heads are in the legend
    assert len([life for life in of_class(picture, "alive", "rect") if life.get("height") != "12"]) == 2
    assert len([tint for tint in of_class(picture, "tint", "rect") if tint.get("height") != "12"]) == 2
