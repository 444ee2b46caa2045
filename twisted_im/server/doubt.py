"""What a node does about the peers that it does not hear: it reads the store instead.

Strategy: routers carry hints, and a hint may be lost with a link, a route server or a process. So for each peer there is an interval in
which what it has pushed may not have come, and while any is open the node polls the store: rows committed since before the interval began
go to the sessions here, as if they had just been pushed. Clients drop what they have, by seq. The cost follows the messages in the
interval, and not the sessions.

An interval, by this node's monotonic clock:

    begins   at the last moment at which the peer was surely heard; for one that never was, at the last look at the leases without it
    ends     when it is heard again; or when its lease has ended, and the longest transaction with it. One last read follows

    looks    ├────────┼────────┼────────┼────────┼────────┼──────    each a sample: (time, position of the store)
    peer     ── heard ─────┤ since               │ lease ended
    read from     ▲ the newest sample that is older than `since` by the longest transaction
    polls                       │ │ │ │ │ │ │ │ │ │ │ │ ┆ +5 s │ the last one

A sample's time is that of its answer, so what is committed later has a higher position. What the peer has pushed since the moment
`since` may be lost, and so may what it committed shortly before and was about to push: hence the older sample. If there is none, or the
backlog is too large, every session here is told to read for itself, which is always right.

What peers find this node's sessions by, a table in Redis, is doubted in the same way, but for its end: it has no lease, so it is doubted
until it is heard.

Only messages are read so. Receipts are state: a mark that has moved meanwhile is told with its next move, and with every sync.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred
from twisted.logger import Logger

from twisted_im.counters import Counters
from twisted_im.pump import Turn
from twisted_im.server.interfaces import LONGEST_TRANSACTION, Look, Row

log = Logger()

#: Seconds between two polls while a peer is not heard.
POLL = 0.5
#: Samples of the store's position that are kept: a minute of looks.
SAMPLES = 30
#: Rows read at a time. With contents of the largest size that is 13 MB.
PAGE = 200
#: Rows read in one poll before the sessions are told to read for themselves.
BACKLOG = 4000


class Doubts:
    """The peers that one node does not hear.

    Args:
        store: an `IStore`.
        turn: for its reactor and its clock.
        name: this node's own.
        links: whether its router links nodes: each that lives is then doubted until it is heard. Else nothing is done unless `doubt` is
            called.
        fall_behind: has every session here read for itself.

    Attributes:
        open: those that are doubted now → when they can have written their last; infinite while they live.
        push: gets rows, in commit order, and pushes them to those of their audience who are here; may give a Deferred.
    """

    def __init__(self, store: Any, turn: Turn, counters: Counters, *, name: str, links: bool, fall_behind: Callable[[], object]) -> None:
        self._store = store
        self._turn = turn
        self._counters = counters
        self._name = name
        self._links = links
        self._fall_behind = fall_behind
        self.push: Callable[[Sequence[Row]], Deferred[None] | None] = lambda rows: None
        self._samples: deque[tuple[float, int]] = deque(maxlen=SAMPLES)
        self._looked = 0.0  # when the last look was asked for
        self._live: dict[str, None] = {}
        self._heard: dict[str, None] = {}
        self._unleased: dict[str, None] = {}  # of those that are or were doubted, the ones that have no lease
        self.open: dict[str, float] = {}
        self._closing: dict[str, None] = {}  # those for which the poll under way is the last
        self._position: int | None = 0  # everything up to it has been pushed; None if nobody knows from where to read
        self._counted = 0.0
        self._said = ""
        self._timer: Any = None
        self._polling = self._again = self._stopped = False

    # ---- who lives

    @inlineCallbacks
    def start(self, look: Look) -> Any:
        """Comes before anybody can log in: all who do will read what was committed until now."""
        if self._links:
            position = yield self._store.position()
            self._samples.append((-math.inf, position))
            self._looked = look.asked
            self._see(look)

    def look(self, look: Look) -> Deferred[None] | None:
        """The leases were looked at."""
        if not self._links or self._stopped:
            return None
        self._see(look)
        asked: Deferred[int] = self._store.position()
        return asked.addCallback(lambda position: self._samples.append((self._turn.now(), position)))

    def _see(self, look: Look) -> None:
        before, self._live = self._live, {lease.node: None for lease in look.leases if lease.node != self._name}
        for peer in self._live:
            if peer in self.open:
                self.open[peer] = math.inf
                if peer not in self._heard:
                    self._closing.pop(peer, None)
            elif peer not in before and peer not in self._heard:
                self._begin(peer, self._looked)
        for peer, last in self.open.items():
            if peer not in self._live and peer not in self._unleased and last == math.inf:
                self.open[peer] = self._turn.now() + LONGEST_TRANSACTION
        self._looked = look.asked

    # ---- who is heard

    def doubt(self, peer: str, since: float, *, leased: bool = True) -> None:
        """A peer is not heard any more; see `IRouterUp`."""
        self._heard.pop(peer, None)
        if not leased:
            self._unleased[peer] = None
        self._begin(peer, since)

    def heard(self, peer: str) -> None:
        """A peer is heard from now on. What it committed until now and did not push is read once more."""
        new = peer not in self._heard
        if new and peer not in self._live and peer not in self.open:
            self._begin(peer, self._looked)  # it has come since the last look, and accepted something perhaps before it was heard
        self._heard[peer] = None
        self._closing.pop(peer, None)  # the poll under way may have begun before that
        if peer in self.open:
            self._poll_soon()
        elif new:
            log.info("{peer} is heard", event="certain", peer=peer)

    def _begin(self, peer: str, since: float) -> None:
        if self._stopped:
            return
        now = self._turn.now()
        older = [position for time, position in self._samples if time <= since - LONGEST_TRANSACTION]
        if not self.open:
            self._position = older[-1] if older else None
            self._counted = now
        elif self._position is not None:
            self._position = min(self._position, older[-1]) if older else None
        leased = peer not in self._unleased
        if peer not in self.open:
            what = "what it accepts" if leased else "what others accept"
            log.info("{peer} is not heard: {what} is read from the store", event="doubt", peer=peer, what=what)
        self.open[peer] = math.inf if peer in self._live or not leased else now + LONGEST_TRANSACTION
        self._closing.pop(peer, None)
        self._poll_soon()

    # ---- reading

    def _poll_soon(self) -> None:
        if self._polling:
            self._again = True
        elif self._timer is None:
            self._timer = self._turn.reactor.callLater(0, self._poll)
        else:
            self._timer.reset(0)

    @inlineCallbacks
    def _poll(self) -> Any:
        self._timer = None
        self._polling, self._again = True, False
        now = self._turn.now()
        self._closing = {peer: None for peer, last in self.open.items() if peer in self._heard or last <= now}
        try:
            yield self._read()
            self._said = ""
        except Exception as error:
            if str(error) != self._said:  # once, and not at each poll
                self._said = str(error)
                log.warn("what peers have accepted could not be read, and is tried again: {why}", why=self._said)
            self._closing.clear()
        self._polling = False
        if self._stopped:
            return
        now = self._turn.now()
        self._counters.doubt_seconds += now - self._counted
        self._counted = now
        for peer in self._closing:
            del self.open[peer]
            log.info("{peer} is {how}", event="certain", peer=peer, how="heard" if peer in self._heard else "gone")
            if self._unleased.pop(peer, peer) is None:
                self._heard.pop(peer, None)  # nothing else would ever forget it
        self._closing = {}
        if self.open:
            self._timer = self._turn.reactor.callLater(0 if self._again else POLL, self._poll)

    @inlineCallbacks
    def _read(self) -> Any:
        """Pushes all rows that are committed by now. A page that fails is pushed again."""
        target = yield self._store.position()
        rows_read = 0
        while not self._stopped:
            position = self._position
            if position is not None and position >= target:
                return
            if position is None or rows_read > BACKLOG:
                self._fall_behind()  # they read what is committed by now, and more than the target is
                self._position = target
                return
            reached, rows = yield self._store.read_since(position, PAGE)
            if rows and not self._stopped:
                yield maybeDeferred(self.push, rows)
            rows_read += len(rows)
            if self._position == position:  # else an earlier interval has been opened meanwhile
                self._position = reached

    def stop(self) -> None:
        """Nothing is read any more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
