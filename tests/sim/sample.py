"""Traces for whatever shows them: a story of two clients and a server with all that can happen to them, and any steps at all.

Strategy: the story is told on a little stage that knows one thing, how long bytes take, so that it is a list of what people and machines
do.
"""

from __future__ import annotations

from hypothesis import strategies as st

from twisted_im.sim.trace import KINDS, Step

#: seconds that bytes take from one process to another
LATENCY = 0.012

#: a few names that meet again, and rubbish
NAMES = st.sampled_from(["alice", "bob", "node", ""]) | st.text(max_size=8)

#: what may be said, and rubbish
TEXTS = (
    st.sampled_from(["3 bytes", "5 bytes: request MESSAGE", "0 bytes", "cut: alice – node", "alice"])
    | st.text(st.characters(), max_size=40)
    | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Mn", "Lo"]), max_size=200)
)

#: steps that nobody has made with care; many are at the same moment
ANY_STEPS = st.lists(
    st.builds(
        Step,
        time=st.sampled_from([0.0, 0.01, 1.0, 5.0]) | st.floats(),
        kind=st.sampled_from([*KINDS]) | st.sampled_from(["send", "arrive"]) | st.text(max_size=5),
        where=NAMES,
        to=NAMES,
        text=TEXTS,
    ),
    max_size=40,
)


class Stage:
    """Collects steps in any order of writing, and gives them in the order of time."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def add(self, time: float, kind: str, where: str, to: str = "", text: str = "") -> None:
        """One step."""
        self.steps.append(Step(time, kind, where, to, text))

    def bytes(self, time: float, where: str, to: str, text: str, *, took: float = LATENCY) -> None:
        """A send and its arrival."""
        self.add(time, "send", where, to, text)
        self.add(time + took, "arrive", to, where, text)

    def join(self, time: float, client: str, server: str, said: str) -> None:
        """A connection, hello and login."""
        self.add(time, "life", client, text="online")
        self.add(time, "connect", client, server)
        self.add(time + LATENCY, "accept", server, client)
        self.bytes(time + 2 * LATENCY, client, server, f"71 bytes: HELLO, request {said}")
        self.bytes(time + 4 * LATENCY, server, client, f"64 bytes: HELLO, response {said}")

    def story(self) -> list[Step]:
        """The steps in order."""
        return sorted(self.steps, key=lambda step: step.time)


def story() -> list[Step]:
    """Alice writes to Bob: once in peace, once through a partition, once into a server that is killed; a history is read at the end."""
    stage = Stage()
    stage.add(0.0, "start", "node", text="sqlite, one process")
    stage.add(0.001, "start", "alice")
    stage.add(0.002, "start", "bob")
    stage.join(0.1, "alice", "node", "LOGIN")
    stage.join(0.13, "bob", "node", "LOGIN")
    _message(stage, 0.5, "hello")
    # A message that the network holds back for two and a half seconds.
    stage.add(4.0, "fault", "", text="cut: alice – node")
    stage.add(5.0, "sent", "alice", text="“are you there?”")
    stage.bytes(5.0, "alice", "node", "61 bytes: request MESSAGE", took=7.4)
    stage.add(5.0, "delay", "alice", "node", "sent again until it gets through")
    stage.add(12.2, "heal", "", text="cut: alice – node")
    _message(stage, 12.4 - LATENCY, "are you there?", from_server=True)
    # A server that is killed with a message in its hands.
    stage.add(20.0, "sent", "alice", text="“lost?”")
    stage.add(20.0, "send", "alice", "node", "57 bytes: request MESSAGE")
    stage.add(20.005, "kill", "node", text="power loss, unsynced pages gone")
    stage.add(20.02, "reset", "alice", "node", "connection refused by a dead host")
    stage.add(20.02, "life", "alice", text="away")
    stage.add(20.02, "reset", "bob", "node")
    stage.add(20.5, "connect", "alice", "node")
    stage.add(21.0, "reset", "alice", "node", "no answer")
    stage.add(22.0, "start", "node", text="log replayed: 2 messages")
    stage.add(22.1, "connect", "bob", "node")
    stage.add(22.1 + LATENCY, "refuse", "node", "bob", "not ready yet")
    stage.join(22.5, "alice", "node", "RESUME")
    stage.join(22.7, "bob", "node", "RESUME")
    _message(stage, 22.8, "lost?", again=True)
    # A frozen client, for which much is waiting.
    stage.add(30.0, "freeze", "bob", text="SIGSTOP")
    for number in range(14):
        stage.add(30.5 + number * 0.001, "send", "node", "bob", "1448 bytes: notify MESSAGE")
        stage.add(34.0 + number * 0.001, "arrive", "bob", "node", "1448 bytes: notify MESSAGE")
    stage.add(34.0, "thaw", "bob", text="SIGCONT")
    stage.add(34.1, "close", "alice", "node", "logout <&> done")
    stage.add(34.2, "stop", "alice")
    stage.add(34.3, "log", "node", text="one session left")
    return stage.story()


def _message(stage: Stage, time: float, words: str, *, from_server: bool = False, again: bool = False) -> None:
    """A message with its six packets."""
    if not from_server:
        if not again:
            stage.add(time, "sent", "alice", text=f"“{words}”")
        stage.bytes(time, "alice", "node", "58 bytes: request MESSAGE")
    time += LATENCY
    stage.add(time + 0.004, "disk", "node", text="commit, 1 message, fsync")
    stage.bytes(time + 0.005, "node", "alice", "22 bytes: response MESSAGE")
    stage.add(time + 0.005 + LATENCY, "accepted", "alice", text=f"“{words}” is number 1")
    stage.bytes(time + 0.005, "node", "bob", "66 bytes: notify MESSAGE")
    stage.add(time + 0.005 + LATENCY, "shown", "bob", text=f"“{words}”")
    stage.bytes(time + 0.006 + LATENCY, "bob", "node", "18 bytes: acknowledge")
