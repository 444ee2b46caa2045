"""Mistakes that somebody could make in the shipped code, to see the simulator find each of them.

Strategy: a bug is a change of a few words in the source of a shipped function, as it would stand in a diff. `planted` reads the source,
makes the change, puts the function in its place, and takes it out again. The simulator's own parts are not touched, but for the model of
the store where a mistake is one of every store. A bug whose place has changed is refused: it would not be the bug that it says.

`python -m tests.sim.planted` searches the seeds from 0 on for each, and prints what it took. With `--page` that is a page of the
documentation; the tests begin at the seeds which stand there.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from textwrap import dedent
from typing import Any, NamedTuple

from twisted_im.client.reading import Reader
from twisted_im.core.connection import Connection
from twisted_im.core.delivery import Inbox, Outbox
from twisted_im.pump import Pump
from twisted_im.routing.incoming import Incoming
from twisted_im.routing.link import Link
from twisted_im.routing.mesh import MeshRouter
from twisted_im.routing.star import StarRouter
from twisted_im.routing.table_memory import MemoryTable
from twisted_im.routing.table_redis import RedisTable, _Shard
from twisted_im.server.access import Access
from twisted_im.server.doubt import Doubts
from twisted_im.server.features.history import History
from twisted_im.server.features.messages import Messages
from twisted_im.server.ledger import Ledger
from twisted_im.server.sessions import Session, Sessions
from twisted_im.server.tenure import Tenure
from twisted_im.sim.disk import ModelStore
from twisted_im.sim.run import law, run, settle_in
from twisted_im.sim.scenario import draw
from twisted_im.storage.memory import MemoryStore
from twisted_im.storage.sqlite_log import Log

#: Seeds that are tried, and the seconds of load and faults in each.
SEEDS = 500
SECONDS = 20.0


#: What the page says before its rows.
HEAD = """# Bugs that the simulator finds

A simulator that finds nothing may be looking at nothing. So each of these mistakes is planted in the shipped code, alone, by a change of
a few words in one function or two, and seeds are tried from 0 on, with {seconds:.0f} seconds of load and faults each, until something is
violated that is not without the mistake. The test suite does it as well, for each of them. The page is written by
`python -m tests.sim.planted --page`.

L0, D0, O0, P0 and A0 are the laws of [the oracle](faults.md); the others are what a run looks at inside.

| bug | the mistake | what users would see | seeds until found | found by |
|---|---|---|---|---|"""


class Edit(NamedTuple):
    """A change of one function.

    Attributes:
        owner: the class that has it.
        function: its name.
        changes: old words → new words; the old ones stand there once.
    """

    owner: Any
    function: str
    changes: dict[str, str]


@dataclass(frozen=True)
class Bug:
    """A mistake.

    Attributes:
        mistake: what the code does wrong.
        seen: what users would see of it.
    """

    mistake: str
    seen: str
    edits: tuple[Edit, ...]


BUGS = {
    "accepted before the commit": Bug(
        "the store writes a batch's rows together with the next batch's, and answers at once",
        "a message that was accepted is gone after a crash",
        (
            Edit(
                Log,
                "_append_messages",
                {"    _insert(": '    rows, self._rows = self.__dict__.get("_rows", []), rows\n    _insert('},
            ),
        ),
    ),
    "a repeat is stored again": Bug(
        "the store does not know a client id again",
        "a message that was sent again after a lost answer stands there twice",
        (Edit(MemoryStore, "_append_messages", {"if client_id in ids:": "if False:"}),),
    ),
    "a repeat is shown again": Bug(
        "a client that comes back goes on from the server's cursor, which is older than what it has shown",
        "the last messages before a lost connection appear twice",
        (Edit(Inbox, "listed", {"if place.shown is None:": "if True:"}),),
    ),
    "cursors are not remembered": Bug(
        "a client that starts does not look at the cursors that it has kept",
        "the last messages before a crash appear again",
        (Edit(Reader, "_begin", {"Inbox(self._kept.device, self._kept.cursors,": "Inbox(self._kept.device, {},"}),),
    ),
    "a gap is not pulled": Bug(
        "a client does not ask for what is missing as long as something later is held",
        "a conversation stands still until the next login",
        (Edit(Inbox, "_rise", {"if place.head > (place.shown or 0):": "if place.head > (place.shown or 0) and not place.held:"}),),
    ),
    "the fence is ignored": Bug(
        "a process whose name another has taken goes on, and the store takes its writes",
        "two servers serve at once, and messages reach only the users of one",
        (
            Edit(Log, "begin", {"if held is None or held[0] != self.tenant[1]:": "if held is None:"}),
            Edit(Tenure, "_renew", {"if error.code is Status.NO_SUCH:": "if False:"}),
            Edit(ModelStore, "_is_tenant", {"return self._tenant is None or": "return True or"}),
        ),
    ),
    "the cursor moves early": Bug(
        "a message counts as shown when it has come, before the application has it",
        "after a crash of the application it is never shown",
        (Edit(Reader, "_queued", {"self._queue.extend(": "[self._taken(self._era, step) for step in steps]\n    self._queue.extend("}),),
    ),
    "resent newest first": Bug(
        "what was in flight when a connection broke goes back into the queue the wrong way round",
        "messages stand in another order than they were written in",
        (Edit(Outbox, "disconnected", {"reversed(self._flying.values())": "self._flying.values()"}),),
    ),
    "resent under new ids": Bug(
        "a message gets a new client id each time it leaves",
        "a message whose answer was lost stands there twice",
        (Edit(Outbox, "take", {"if not entry.client_id:": "if True:"}),),
    ),
    "behind, and not told": Bug(
        "a session whose window is used up is not told to read the log",
        "a device that was slow for a while shows nothing more, until it connects again",
        (Edit(Session, "fall_behind", {"self.pump.write(_BEHIND)": "pass"}),),
    ),
    "answers to the wrong senders": Bug(
        "a batch is sorted by conversation for the store, and its answers are not sorted back",
        "a sender is told of another message's place, and others get it under the wrong seq",
        (
            Edit(
                Ledger,
                "commit",
                {"self._store.append, messages, cursors": "self._store.append, sorted(messages, key=lambda each: each[3:5]), cursors"},
            ),
        ),
    ),
    "one audience for all": Bug(
        "messages whose members had to be looked up all go to the members of the last of them",
        "somebody sees a message of a conversation that is none of theirs",
        (
            Edit(
                Messages,
                "_follow",
                {
                    "envelopes = [": "audience = self._audiences[late[-1][0]]\n    envelopes = [",
                    "self._audiences[conversation].users": "audience.users",
                },
            ),
        ),
    ),
    "a position too high": Bug(
        "a sync adds the number of its rows to the position that it gives",
        "a device that comes back is not told of what a few commits have brought",
        (Edit(History, "sync", {"position=found.position,": "position=found.position + len(rows),"}),),
    ),
    "marks go back": Bug(
        "the store takes every receipt as the newest, also one from a device that is behind the user's others",
        "a message that was delivered is shown as not delivered",
        (Edit(MemoryStore, "_append_cursors", {"if seq > mark:": "if True:"}),),
    ),
    "a timer is left": Bug(
        "a node that stops goes on renewing its lease",
        "a server that was asked to end does not",
        (Edit(Tenure, "release", {"self._timer.active():": "not self._timer.active():"}),),
    ),
    "a session is left": Bug(
        "a session stays in its node's table when its connection is gone",
        "a user who has gone is online for ever, and memory grows",
        (Edit(Access, "lost", {"isinstance(session, Session) and": "False and"}),),
    ),
    "a session is removed by another": Bug(
        "the end of a device's old connection removes the session of its new one",
        "a device that has come back gets no messages",
        (Edit(Sessions, "remove", {"is not session:": "is None:"}),),
    ),
    "two sessions of a device": Bug(
        "a login of a device does not end its older session",
        "two windows of one device both think that they are connected, and one gets nothing",
        (Edit(Access, "_login", {"self.end(older, ImError(Disconnect.TAKEN_OVER))": "pass"}),),
    ),
    "a silent client is never noticed": Bug(
        "the server has no deadline for the heartbeat of its clients",
        "a user whose phone has lost its network stays online",
        (Edit(Connection, "_next_beat", {"self.heard + self.heartbeat * 1.5 if self.accepting": 'float("inf") if self.accepting'}),),
    ),
    "a dead server is never noticed": Bug(
        "a client sends no heartbeat",
        "after a power cut of the server it waits for ever",
        (Edit(Connection, "_next_beat", {"else self.sent + self.heartbeat": 'else float("inf")'}),),
    ),
    "frames are dropped in a wait": Bug(
        "what comes on a connection behind a command that waits is thrown away",
        "messages hang, and then stand in another order",
        (
            Edit(Pump, "dataReceived", {"self._held.extend(frames)": "pass"}),
            Edit(Pump, "_dispatch", {"self._held.extend(rest)": "return"}),
        ),
    ),
    "a newcomer is trusted": Bug(
        "a node that has just come is not doubted, though nobody hears it yet",
        "somebody on another node is not shown what it accepts before there is a link",
        (Edit(Doubts, "_see", {"elif peer not in before and peer not in self._heard:": "elif False:"}),),
    ),
    "a lost link is no doubt": Bug(
        "a node that loses its link to another does not read the store",
        "messages between two nodes that are parted come when they are no more, or with the next one",
        (Edit(MeshRouter, "link_down", {"self._up.doubt(name, link.heard)": "pass"}),),
    ),
    "heard before it is told": Bug(
        "a node hears another as soon as their link is up, before that one has acknowledged who is here",
        "what is accepted in between is not shown",
        (
            Edit(
                MeshRouter,
                "link_up",
                {
                    "link.attach(rows, whole=True).addCallback(self._whole_acknowledged, link)": (
                        "link.attach(rows, whole=True)\n    self._same_place[link] = None\n    self._whole_acknowledged(True, link)"
                    )
                },
            ),
        ),
    ),
    "doubt reads from now on": Bug(
        "a node that loses another reads what is written from then on, and not from when it has surely heard it",
        "messages of the seconds in which the loss was not noticed are not shown",
        (Edit(Doubts, "_begin", {"if time <= since - LONGEST_TRANSACTION]": "]"}),),
    ),
    "the store is read once": Bug(
        "a node that does not hear another reads the store when that begins, and not again",
        "what is accepted while two nodes are parted is not shown before they are no more",
        (Edit(Doubts, "_poll", {"if self.open:": "if self._again:"}),),
    ),
    "a login does not wait": Bug(
        "a node answers a login before the others have acknowledged the session",
        "a message that is accepted on another node in that moment is not shown",
        (Edit(MeshRouter, "attach", {"return DeferredList(told, consumeErrors=True) if told else None": "return None"}),),
    ),
    "a device takes others with it": Bug(
        "when a device of a user goes from a node, the route table takes the user off that node",
        "a user whose phone goes gets nothing more on the laptop",
        (
            Edit(
                MemoryTable,
                "_take_off",
                {
                    "nodes = self._nodes[user]": "nodes = self._nodes.get(user, {})",
                    "nodes[node] -= 1": "nodes[node] = 0",
                    "del self._nodes[user]": "self._nodes.pop(user, None)",
                },
            ),
        ),
    ),
    "a lost route server is nobody's": Bug(
        "a node that has lost one of two route servers relies on the other at once, though some may still send by the first",
        "what is sent in the seconds in which they have not noticed is not shown",
        (Edit(StarRouter, "link_down", {"self._be_careful(self._others)": "pass"}),),
    ),
    "the first route server only": Bug(
        "a node sends by its first route server, also when that one does not reach all",
        "users of a node that has lost that route server are shown nothing of what others accept",
        (Edit(StarRouter, "_choose", {"if left and all(name in server.reaches for name in left):": "if left:"}),),
    ),
    "a full link drops": Bug(
        "what does not fit into a link's window is thrown away, and the link stays",
        "in a rush some messages are not shown on other nodes",
        (Edit(Link, "_tell", {'self.abort(f"{connection.window} notifies are unacknowledged")': "pass"}),),
    ),
    "what is late is dropped": Bug(
        "a push that has waited for its predecessor in vain is thrown away",
        "when two write to one group on two nodes, one of the messages is not shown",
        (Edit(Incoming, "_late", {"if late:": "if False:"}),),
    ),
    "one envelope for the first node": Bug(
        "a message whose receivers are on several nodes goes to the first of them",
        "of a group, those on one node are shown a message, and others are not",
        (Edit(MeshRouter, "_send", {"in nodes.items():": "in list(nodes.items())[:1]:"}),),
    ),
    "a renewal that fails is the last": Bug(
        "a node whose lease could not be renewed does not try again",
        "after a moment of a full disk nobody can send on that node any more",
        (Edit(Tenure, "_renew", {"if str(error) != self._said:": "return\n        if str(error) != self._said:"}),),
    ),
    "an end elsewhere is not looked at": Bug(
        "a node does not end the sessions of devices that have logged in on another node",
        "two windows of one device on two nodes both go on",
        (Edit(Access, "look_for_ended", {"if session.number <= ended.number and": "if False and"}),),
    ),
    "a flushed Redis stays empty": Bug(
        "a node whose entries are gone from Redis does not write them again",
        "after a flush of Redis nobody gets a push from another node",
        (Edit(_Shard, "_is_wrong", {"if self.standing is Standing.SURE:": "if False:"}),),
    ),
    "who cannot be looked up is nowhere": Bug(
        "a node that cannot ask Redis sends its messages to no other node",
        "while a node has lost Redis, what it accepts is not shown on others",
        (Edit(RedisTable, "_answer", {"(EVERYWHERE,) if nodes is None else nodes": "nodes or ()"}),),
    ),
}


@contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """Has the shipped code make a mistake for a while.

    Raises:
        LookupError: the words that it changes do not stand where they did.
    """
    originals: list[tuple[Any, str, Any]] = []
    try:
        for owner, name, changes in bug.edits:
            original = vars(owner)[name]
            source = dedent(inspect.getsource(original))
            for old, new in changes.items():
                if source.count(old) != 1:
                    raise LookupError(f"{old!r} stands {source.count(old)} times in {owner.__name__}.{name}, and not once")
                source = source.replace(old, new)
            code = compile(source, f"<{owner.__name__}.{name}, planted>", "exec", annotations.compiler_flag, dont_inherit=True)
            made: dict[str, Any] = {}
            exec(code, vars(sys.modules[original.__module__]), made)
            originals.append((owner, name, original))
            setattr(owner, name, made[name])
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


class Found(NamedTuple):
    """The first seed of a search with a violation, and its laws; -1 if there was none."""

    seed: int
    laws: tuple[str, ...]


def judged(seed: int) -> list[str]:
    """What is violated in the scenario of a seed."""
    return run(draw(seed, seconds=SECONDS)).violations


@cache
def without(seed: int) -> list[str]:
    """What is violated without any bug."""
    return judged(seed)


def search(name: str, seeds: int, first: int = 0) -> Found:
    """Plants a bug, and tries seeds until it is found: until something is violated that is not without it.

    Args:
        seeds: how many, from 0 on.
        first: one that is tried before them.
    """
    for seed in dict.fromkeys((first, *range(seeds))):
        with planted(BUGS[name]):
            violations = judged(seed)
        if violations and not without(seed):
            return Found(seed, tuple(dict.fromkeys(map(law, violations))))
    return Found(-1, ())


def main(arguments: list[str]) -> int:
    """Searches for every bug; 1 if one was not found."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.planted", description="Plants bugs, and sees the simulator find them.")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="seeds that are tried for each (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once (%(default)s)")
    parser.add_argument("--page", action="store_true", help="print a page of the documentation")
    parser.add_argument("names", nargs="*", metavar="BUG", help="only these")
    asked = parser.parse_args(arguments)
    unknown = [name for name in asked.names if name not in BUGS]
    if unknown:
        parser.error(f"there is no bug {unknown[0]!r}; there are: {', '.join(BUGS)}")
    names = asked.names or list(BUGS)
    with ProcessPoolExecutor(asked.jobs, initializer=settle_in) as pool:
        searches = {name: pool.submit(search, name, asked.seeds) for name in names}
        found: dict[str, Found] = {}
        for name, searching in searches.items():
            found[name] = searching.result()
            if not asked.page:
                where = f"seed {found[name].seed}" if found[name].laws else "NOT FOUND"
                print(f"{name:<34}{where:<10} {' '.join(found[name].laws):<12} {BUGS[name].mistake}", flush=True)
    if asked.page:
        print(page(found), end="")
    return 0 if all(each.laws for each in found.values()) else 1


def page(found: dict[str, Found]) -> str:
    """The page of the documentation."""
    lines = [HEAD.format(seconds=SECONDS)]
    for name, each in found.items():
        bug = BUGS[name]
        tried = f"{each.seed + 1}" if each.laws else "–"
        lines.append(f"| {name} | {bug.mistake} | {bug.seen} | {tried} | {' '.join(each.laws) or 'not found'} |")
    return "\n".join([*lines, ""])


def on_page(text: str) -> dict[str, int]:
    """The bugs of a page → the seed that has found each; -1 if none has."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")][1:]
    return {row[0]: int(row[3]) - 1 if row[3].isdigit() else -1 for row in rows}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
