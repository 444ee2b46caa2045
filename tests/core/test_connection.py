"""The connection machine: its table, what may come when, what a hello may agree on, the windows, and the deadlines.

Strategy: the clock is a number, so nothing waits. Tables are tried whole; what is arithmetic is a property over drawn limits, hellos and
histories. The deadlines have one law, tried after every step of a drawn history: nothing is due before `deadline()`, and something is
due from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twisted_im.core.connection import BEFORE_OPEN, LINK_BEFORE_OPEN, TRANSITIONS, Connection, Due, Event, Limits, LinkConnection, State
from twisted_im.errors import Disconnect, RemoteProtocolError
from twisted_im.wire.codec import CODECS, notify, request, tag
from twisted_im.wire.schema import FRAMES, VERSION, Command, Kind

BORN = 1000.0

#: how to bring a connection into each state
WAYS: dict[State, tuple[Event, ...]] = {
    State.START: (),
    State.GREETED: (Event.HELLO,),
    State.LOGIN: (Event.HELLO, Event.LOGIN),
    State.OPEN: (Event.HELLO, Event.LOGIN, Event.WELCOME),
    State.CLOSING: (Event.END,),
    State.CLOSED: (Event.LOST,),
}


def made(state: State = State.OPEN, *, limits: Limits | None = None, accepting: bool = True, now: float = BORN) -> Connection:
    """A connection in this state."""
    connection = Connection(limits or Limits(), now, accepting=accepting)
    for event in WAYS[state]:
        connection.advance(event, now)
    return connection


def hello(**changes: int) -> Any:
    """A client's hello without wishes."""
    return SimpleNamespace(**{"min_version": 1, "max_version": 1, "max_body": 0, "heartbeat": 0, "window": 0} | changes)


# ---- the table


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("state", State)
def test_every_event_in_every_state(state: State, event: Event) -> None:
    """If this fails, the state diagram that clients are written from is not the one that the server keeps."""
    connection = made(state)
    if state is State.CLOSED or (state is State.CLOSING and event is not Event.LOST):
        connection.advance(event, BORN)  # what still arrives at the end changes nothing
        assert connection.state is state
    elif (state, event) in TRANSITIONS:
        connection.advance(event, BORN)
        assert connection.state is TRANSITIONS[state, event]
    else:
        with pytest.raises(KeyError):
            connection.advance(event, BORN)
        assert connection.state is state


def test_every_state_can_be_reached_and_left() -> None:
    """If this fails, a connection can be stuck where no end reaches it."""
    assert set(TRANSITIONS.values()) | {State.START} == set(State)
    for state in set(State) - {State.CLOSED}:
        assert TRANSITIONS[state, Event.LOST] is State.CLOSED
        assert state is State.CLOSING or TRANSITIONS[state, Event.END] is State.CLOSING


def test_what_may_come_in_each_state() -> None:
    """If this fails, a stranger gets at commands that need a login, or a client cannot log in or say why it goes."""
    known = {tag(*key): key for key in FRAMES}
    may = {state: {known[word] for word in known if made(state).may_come(word)} for state in State}
    end = (Kind.NOTIFY, Command.DISCONNECT)
    pong, moved = (Kind.RESPONSE, Command.PING), (Kind.NOTIFY, Command.REDIRECT)
    assert may[State.START] == {(Kind.REQUEST, Command.HELLO), (Kind.RESPONSE, Command.HELLO), moved, end}
    assert may[State.GREETED] == {(Kind.REQUEST, Command.LOGIN), (Kind.REQUEST, Command.PING), pong, moved, end}
    assert may[State.LOGIN] == {(Kind.RESPONSE, Command.LOGIN), pong, moved, end}
    assert may[State.OPEN] == set(FRAMES)
    for state, allowed in BEFORE_OPEN.items():
        assert not made(state).may_come(tag(Kind.REQUEST, 0xBEEF)), "an unknown command is no way past a login"
        assert allowed <= set(known)
    assert made(State.OPEN).may_come(tag(Kind.REQUEST, 0xBEEF)), "once open it gets an error, and not an end"


# ---- hello

u8, u16, u32 = st.integers(0, 255), st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)
wishes = st.fixed_dictionaries({"max_body": u32, "heartbeat": u16, "window": u16})
own_limits = st.builds(
    lambda low, span, usual, window, requests, max_body: Limits(
        min_heartbeat=low, max_heartbeat=low + span, heartbeat=low + usual % (span + 1), window=window, requests=requests, max_body=max_body
    ),
    st.integers(1, 100), st.integers(0, 5000), st.integers(0, 5000), st.integers(1, 2**16 - 1), st.integers(1, 2**16 - 1),
    st.integers(1024, 2**24),
)  # fmt: skip


@given(limits=own_limits, wanted=wishes)
def test_hello_agrees_within_the_bounds_of_both(limits: Limits, wanted: dict[str, int]) -> None:
    """If this fails, a client gets more than it can take, or sets a heartbeat that drains it or hides its death."""
    server, client = Connection(limits, BORN, accepting=True), Connection(limits, BORN, accepting=False)
    if 0 < wanted["max_body"] < limits.max_body:
        with pytest.raises(RemoteProtocolError) as refused:
            server.greet(hello(**wanted), BORN)
        assert (refused.value.code, server.state) == (Disconnect.TOO_LARGE, State.START)
        return
    answer = server.greet(hello(**wanted), BORN)
    body = CODECS[Kind.RESPONSE, Command.HELLO]
    agreed = body.read(body.write(**answer, time=0, node=b""))  # so every number fits its field
    client.greeted(agreed, BORN)
    assert server.state is client.state is State.GREETED
    for name in ("max_body", "heartbeat", "window", "requests"):
        assert getattr(server, name) == getattr(client, name) == getattr(agreed, name)
    assert limits.min_heartbeat <= agreed.heartbeat <= limits.max_heartbeat
    if limits.min_heartbeat <= wanted["heartbeat"] <= limits.max_heartbeat or not wanted["heartbeat"]:
        assert agreed.heartbeat == (wanted["heartbeat"] or limits.heartbeat)
    assert 1 <= agreed.window == server.window == server.credit <= min(limits.window, wanted["window"] or limits.window)
    assert (agreed.version, agreed.features, agreed.max_body, agreed.requests) == (VERSION, 0, limits.max_body, limits.requests)


@given(lowest=u8, highest=u8)
def test_versions_meet_or_the_connection_ends(lowest: int, highest: int) -> None:
    """If this fails, an old and a new side talk past each other."""
    server = made(State.START)
    if lowest <= VERSION <= highest:
        assert server.greet(hello(min_version=lowest, max_version=highest), BORN)["version"] == VERSION
    else:
        with pytest.raises(RemoteProtocolError) as refused:
            server.greet(hello(min_version=lowest, max_version=highest), BORN)
        assert (refused.value.code, server.state) == (Disconnect.VERSION, State.START)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"version": 2}, Disconnect.VERSION),
        ({"heartbeat": 0}, Disconnect.MALFORMED),
        ({"window": 0}, Disconnect.MALFORMED),
        ({"requests": 0}, Disconnect.MALFORMED),
        ({"max_body": 2**32 - 1}, Disconnect.TOO_LARGE),
    ],
)
def test_a_client_refuses_a_hello_it_cannot_keep(fault: dict[str, int], code: Disconnect) -> None:
    """If this fails, a broken or hostile server makes a client spin, stall, or reserve 4 GiB."""
    client = made(State.START, accepting=False)
    agreed = {"version": 1, "max_body": 65536, "heartbeat": 300, "window": 64, "requests": 64} | fault
    with pytest.raises(RemoteProtocolError) as refused:
        client.greeted(SimpleNamespace(**agreed), BORN)
    assert (refused.value.code, client.state) == (code, State.START)


def test_the_cap_grows_with_the_login() -> None:
    """If this fails, strangers may send large bodies, or users may not."""
    limits = Limits(max_body=4000, stranger_max_body=1000)
    large = request(Command.SIGNAL, 1, conversation=1, type=1, lifetime=1, target=b"", content=bytes(2000))
    for state in (State.START, State.GREETED, State.LOGIN):
        stranger = made(state, limits=limits)
        assert stranger.receive(large[:16], BORN) == []
        assert stranger.fault is not None
        assert stranger.fault.code is Disconnect.TOO_LARGE
    user = made(State.OPEN, limits=limits)
    assert len(user.receive(large, BORN)) == 1
    assert user.receive((4001).to_bytes(4, "big") + large[4:16], BORN) == []
    assert user.fault is not None


# ---- windows


@given(window=st.integers(1, 20), steps=st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=60))
def test_windows_count_alike_at_both_ends(window: int, steps: list[tuple[bool, int]]) -> None:
    """If this fails, a server pushes more than the client agreed to hold, or the two wait for each other for ever."""
    limits = Limits(window=window)
    server, client = Connection(limits, BORN, accepting=True), Connection(limits, BORN, accepting=False)
    client.greeted(SimpleNamespace(**server.greet(hello(), BORN)), BORN)
    for push, amount in steps:
        if push:
            count = min(amount, server.credit)
            server.credit -= count
            client.taken += count
        else:
            count_told = client.acknowledgement(all=amount % 2 == 0)
            if count_told is not None:
                server.acknowledge(count_told, BORN)
            assert client.taken - client.told < max(window // 2, 1), "half a window is told at once"
        out = server.pushed - server.acknowledged
        assert 0 <= out <= window
        assert server.credit == window - out
    # And so a server that fills the window is never left waiting.
    server.credit, client.taken = 0, client.taken + server.credit
    while (told := client.acknowledgement()) is not None:
        server.acknowledge(told, BORN)
    assert server.pushed - server.acknowledged < max(window // 2, 1)
    assert server.credit > 0
    last = client.acknowledgement(all=True)
    assert last is None or last == client.taken
    assert client.acknowledgement(all=True) is None


@given(pushed=st.integers(0, 5), counts=st.lists(st.integers(0, 7) | st.just(2**64 - 1), max_size=10))
def test_a_count_above_what_was_sent_ends_it_and_an_old_one_is_nothing(pushed: int, counts: list[int]) -> None:
    """If this fails, a client opens its window without limit, or a late count takes back what was acknowledged."""
    server = made()
    server.credit -= pushed
    best = 0
    for count in counts:
        if count > pushed:
            with pytest.raises(RemoteProtocolError) as refused:
                server.acknowledge(count, BORN)
            assert refused.value.code is Disconnect.ACK_ABOVE_SENT
        else:
            server.acknowledge(count, BORN)
            best = max(best, count)
        assert (server.acknowledged, server.pushed, server.credit) == (best, pushed, server.window - pushed + best)


# ---- deadlines

Step = Callable[[Connection, float], None]
LIMITS = Limits(handshake=5, login=10, frame=15, unacknowledged=10, ping=5, close=3, heartbeat=100)
SOON = 0.001


def pushes(connection: Connection, now: float) -> None:
    """What a driver does when it sends notifies."""
    connection.credit -= 1
    connection.sent = now
    if not connection.unacknowledged_since:
        connection.unacknowledged_since = now


def speaks(connection: Connection, now: float) -> None:
    """A frame leaves."""
    connection.sent = now


FRAME = notify(Command.WINDOW, count=0)


def hears(connection: Connection, now: float) -> None:
    """A frame comes, or the rest of the one that has begun."""
    assert len(connection.receive(FRAME[len(connection.kept) :], now)) == 1


def drips(connection: Connection, now: float) -> None:
    """One more byte of a frame comes."""
    at = len(connection.kept)
    connection.receive(FRAME[at : at + 1], now)


@pytest.mark.parametrize(
    ("state", "after", "due"),
    [
        (State.START, 5, Disconnect.HANDSHAKE_TIMEOUT),
        (State.GREETED, 10, Disconnect.LOGIN_TIMEOUT),
        (State.LOGIN, 10, Disconnect.LOGIN_TIMEOUT),
        (State.CLOSING, 3, Due.ABORT),
    ],
)
@pytest.mark.parametrize("step", [speaks, hears, drips])
def test_deadlines_before_and_after_a_session(state: State, after: float, due: Disconnect | Due, step: Step) -> None:
    """If this fails, a stranger holds a slot for ever by sending a byte now and then, or an honest login is cut off."""
    connection = made(state, limits=LIMITS)
    step(connection, BORN + after - 1)  # a sign of life is no login
    assert connection.check(BORN + after - SOON) is None
    assert connection.check(BORN + after) is due
    assert connection.deadline() == BORN + after


def test_a_frame_begun_must_end() -> None:
    """If this fails, a byte a minute keeps a connection and its buffer for ever; or a slow but honest upload dies at its second frame."""
    connection = made(limits=LIMITS)
    for second in range(15):
        drips(connection, BORN + second)
        assert connection.partial
        assert connection.check(BORN + second) is None
    assert connection.check(BORN + 15) is Disconnect.FRAME_TIMEOUT
    assert len(connection.receive(FRAME[15:] + FRAME[:1], BORN + 15)) == 1  # it came after all, and the next has begun
    assert connection.check(BORN + 30 - SOON) is None
    assert connection.check(BORN + 30) is Disconnect.FRAME_TIMEOUT
    hears(connection, BORN + 30)
    assert not connection.partial
    assert connection.check(BORN + 30) is None


def test_heartbeat_of_the_accepting_end() -> None:
    """If this fails, a client that is gone stays online, or a quiet one that still pings is cut off."""
    server = made(limits=LIMITS)
    hears(server, BORN + 100)
    speaks(server, BORN + 200)  # what it says itself proves nothing
    assert server.check(BORN + 250 - SOON) is None
    assert server.check(BORN + 250) is Disconnect.HEARTBEAT_TIMEOUT


def test_heartbeat_of_the_connecting_end() -> None:
    """If this fails, a client does not keep its promise to be heard, pings too often, or never notices that the server is gone."""
    client = made(limits=LIMITS, accepting=False)
    speaks(client, BORN + 50)
    hears(client, BORN + 149)
    assert client.check(BORN + 150 - SOON) is None
    assert client.check(BORN + 150) is Due.PING
    assert client.check(BORN + 155 - SOON) is None, "the ping has its whole time, even if it has not left yet"
    assert client.check(BORN + 155) is Disconnect.HEARTBEAT_TIMEOUT
    hears(client, BORN + 155)
    client.ponged()
    speaks(client, BORN + 155)
    assert client.check(BORN + 255 - SOON) is None
    assert client.check(BORN + 255) is Due.PING


def test_a_stray_pong() -> None:
    """If this fails, answers to pings that nobody sent keep a connection looking alive."""
    connection = made(limits=LIMITS)
    pushes(connection, BORN)
    assert connection.check(BORN + 10) is Due.PING
    connection.ponged()
    with pytest.raises(RemoteProtocolError) as caught:
        connection.ponged()
    assert caught.value.code is Disconnect.UNEXPECTED


@given(heartbeat=st.integers(1, 20), ping=st.integers(1, 20))
def test_a_ping_has_its_time_whatever_the_heartbeat(heartbeat: int, ping: int) -> None:
    """If this fails, a short heartbeat makes clients give up on servers that were about to answer."""
    client = Connection(Limits(ping=ping), BORN, accepting=False)
    client.greeted(SimpleNamespace(version=1, max_body=1024, heartbeat=heartbeat, window=1, requests=1), BORN)
    client.advance(Event.LOGIN, BORN)
    client.advance(Event.WELCOME, BORN)
    assert client.check(BORN + heartbeat) is Due.PING
    assert client.deadline() == BORN + heartbeat + ping
    assert client.check(BORN + heartbeat + ping - SOON) is None
    assert client.check(BORN + heartbeat + ping) is Disconnect.HEARTBEAT_TIMEOUT


def test_notifies_without_acknowledgement_are_asked_after() -> None:
    """If this fails, a phone whose cable was pulled stays reachable until the heartbeat, or a slow reader is taken for dead."""
    server = made(limits=LIMITS)
    pushes(server, BORN)
    pushes(server, BORN + 9)
    hears(server, BORN + 9.5)
    assert server.check(BORN + 10 - SOON) is None
    assert server.check(BORN + 10) is Due.PING
    hears(server, BORN + 14)  # bytes, but no answer
    assert server.check(BORN + 15 - SOON) is None
    assert server.check(BORN + 15) is Disconnect.UNRESPONSIVE

    slow = made(limits=LIMITS)
    pushes(slow, BORN)
    for asked in (10, 21, 32):  # it answers a second later, each time, and reads nothing: it stays
        assert slow.check(BORN + asked - SOON) is None
        assert slow.check(BORN + asked) is Due.PING
        hears(slow, BORN + asked + 1)
        slow.ponged()
    pushes(slow, BORN + 34)
    slow.acknowledge(1, BORN + 40)  # one of two: the time of the other runs from here
    assert slow.check(BORN + 50 - SOON) is None
    assert slow.check(BORN + 50) is Due.PING
    slow.acknowledge(2, BORN + 51)  # as good as an answer
    assert slow.check(BORN + 51 + 20) is None


def pongs(connection: Connection, now: float) -> None:
    """The other side answers a ping, or means to."""
    hears(connection, now)
    try:
        connection.ponged()
    except RemoteProtocolError as stray:
        assert stray.code is Disconnect.UNEXPECTED


def acknowledges(connection: Connection, now: float) -> None:
    """The other side has counted all, and says so."""
    hears(connection, now)
    connection.acknowledge(connection.pushed, now)


steps = st.sampled_from([pushes, speaks, hears, drips, pongs, acknowledges, None])


@settings(max_examples=200)
@given(accepting=st.booleans(), history=st.lists(st.tuples(steps, st.floats(0, 200) | st.floats(0, 8)), max_size=40))
def test_due_exactly_from_the_deadline_on(accepting: bool, history: list[tuple[Step | None, float]]) -> None:
    """If this fails, the one timer of a node spins at a deadline where nothing is due, or sleeps past one."""
    connection = made(limits=LIMITS, accepting=accepting)
    now = BORN
    for step, passed in history:
        when = connection.deadline()
        assert when > now
        assert connection.check(when - SOON) is None
        now += passed
        due = connection.check(now)
        assert (due is not None) == (now >= when)
        if isinstance(due, Disconnect):
            assert due in (Disconnect.FRAME_TIMEOUT, Disconnect.HEARTBEAT_TIMEOUT, Disconnect.UNRESPONSIVE)
            connection.advance(Event.END, now)
            assert connection.deadline() == now + LIMITS.close
            assert connection.check(now + LIMITS.close) is Due.ABORT
            return
        assert due in (None, Due.PING)
        if due is Due.PING:
            speaks(connection, now)
        if step is not None:
            step(connection, now)


# ---- links


def test_a_link_knows_no_login_and_a_client_no_link() -> None:
    """If this fails, a client gets in among the nodes by the port for links, or a node's command is taken from a stranger."""
    known = {tag(*key): key[1] for key in FRAMES}
    for state in (State.START, State.GREETED, State.LOGIN):
        link, client = LinkConnection(Limits(), BORN, accepting=True), made(state)
        for event in WAYS[state]:
            link.advance(event, BORN)
        taken = {known[word] for word in known if link.may_come(word)}
        assert taken == {known[word] for word in LINK_BEFORE_OPEN[state]}
        assert not taken & {Command.LOGIN, Command.ATTACH, Command.FORWARD}
        assert not {known[word] for word in known if client.may_come(word)} & {Command.LINK, Command.PROOF}


@pytest.mark.parametrize("accepting", [False, True])
def test_a_link_asks_each_beat_and_believes_only_answers(accepting: bool) -> None:
    """If this fails, a dead peer is not noticed in time, or bytes that were long on their way pass for a sign of life."""
    link = LinkConnection(Limits(heartbeat=1, min_heartbeat=1), BORN, accepting=accepting)
    for event in WAYS[State.OPEN]:
        link.advance(event, BORN)
    link.heartbeat = 1.0
    for beat in range(1, 4):  # whatever else is sent and received
        now = BORN + beat
        link.receive(b"", now - 0.5)
        link.sent = now - 0.1
        assert link.check(now - 0.01) is None
        assert link.check(now) is Due.PING
    assert link.confirmed == BORN
    link.receive(b"", BORN + 3.5)
    for beat in (1, 2):
        link.ponged()
        assert link.confirmed == BORN + beat, "the answers come in the order of the questions"
    assert link.check(BORN + 4) is Due.PING
    assert link.check(BORN + 5) is Due.PING
    assert link.check(BORN + 6) is Due.PING
    assert link.check(BORN + 6.5) is Disconnect.HEARTBEAT_TIMEOUT
