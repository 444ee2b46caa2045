"""One device with an application that writes down what it sends and shows: the witness of a run.

Strategy: the application's journal is its only memory, as a chat program's database is. A message counts as shown when its event is in the
journal, so that also says where the device stands: `Memory` takes the cursors from there, and message and cursor are one event, as the
client library wants it of an application that stores messages itself (docs/client.md). A process that is killed at any moment so comes
back without a repeat and without a hole; if it does not, the client library or the server has not kept a promise.

For sending it is the same: an event before the message leaves, with the client id that the application has chosen, and one when it was
answered. What has no answer when the process comes back is sent again under its id.

The content of a message is made from its client id, and what is written down as shown is the id that was found in the content: a body that
came under another message's header is seen as well.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from random import Random, SystemRandom
from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_im.client.client import Client
from twisted_im.client.state import Kept, State
from twisted_im.client.values import Accepted as Place
from twisted_im.client.values import LeftOut, Life, Message, Standing
from twisted_im.core.connection import Limits
from twisted_im.core.delivery import ClientIds
from twisted_im.errors import ImError
from twisted_im.faults.journal import Journal
from twisted_im.oracle import Accepted, Anchored, Event, Pulled, Refused, Sent, Shown, Started
from twisted_im.wire.schema import LoginMethod

log = Logger()

#: A network that swallows everything is noticed after a heartbeat and a ping: seconds, so that a short run sees it happen and mend.
LIMITS = Limits(handshake=5.0, login=10.0, heartbeat=5, ping=5.0, max_body=16 * 2**20)

#: Seconds until a request without an answer ends the connection.
ANSWER = 10.0

#: Messages that may wait to be accepted; then the application sends nothing new.
WAITING = 100

#: Rows asked for at once, of what was passed over.
PAGE = 200

#: Faults of the application's own that can be asked for, so that one can see the oracle find them.
PLANTED = {
    "repeat": "a device that comes back has forgotten the last messages that it showed, and shows them again",
    "lose": "a device shows only 49 of 50 messages",
}


class Memory:
    """What the device keeps, as a `State`; of what was shown, the application's journal knows more.

    Args:
        state: what is under it.
        fresh: what a device without a state begins with.
        shown: conversation → last seq in the application's journal.
        forget: so many of the last messages of each conversation are forgotten.
    """

    def __init__(self, state: State, fresh: Kept, shown: dict[int, int], *, forget: int = 0) -> None:
        self.interval = state.interval
        self.save = state.save
        self._state = state
        self._fresh = fresh
        self._shown = shown
        self._forget = forget

    def load(self) -> Kept:
        kept = self._state.load() or self._fresh
        for conversation, seq in self._shown.items():
            kept.cursors[conversation] = max(0, max(seq, kept.cursors.get(conversation, 0)) - self._forget)
        return kept


class Recorder:
    """A device of a run.

    Args:
        journal: what is left of its earlier runs, and will be of this one.
        name: the device's, unique among its user's.
        endpoint: where the server is; see `Client`.
        plant: a key of `PLANTED`, or nothing.
        now: seconds, on one clock for all devices of a run.
        random: for ids, and for the client; by default the system's.
        moved: told how the client stands, whenever that changes.
        limits, answer, client: see `Client`.

    Attributes:
        sent, accepted, shown: how many, all runs of the process together.
        covered: messages of other devices that were shown here or read from the log.
        errors: how often the application was told of an error, in this run of the process.
        ended: why the client was told not to come back; empty if it was not.
        client: the client library.
    """

    def __init__(
        self,
        journal: Journal,
        user: str,
        name: str,
        endpoint: str | IStreamClientEndpoint,
        *,
        plant: str = "",
        now: Callable[[], float] = time.monotonic,
        random: Random | None = None,
        limits: Limits = LIMITS,
        answer: float = ANSWER,
        moved: Callable[[Standing], object] = lambda standing: None,
        **client: Any,
    ) -> None:
        self.user, self.name = user, name
        self.sent = self.accepted = self.shown = self.covered = self.errors = 0
        self.ended = ""
        self._plant = plant
        self._journal = journal
        self._now = now
        self._told = moved
        random = random or SystemRandom()
        self._ids = ClientIds(random.getrandbits)
        self._unanswered: dict[str, str | int] = {}  # client id → target
        self._passed: list[tuple[int, int, int]] = []  # conversation, first, last: passed over, and still to be read
        self._reading = False
        fresh = Kept(device_id(user, name), f"/{user}")
        state = Memory(journal.state, fresh, self._recall(), forget=3 if plant == "repeat" else 0)
        self.client = Client(
            endpoint,
            uid=user,
            method=LoginMethod.ANONYMOUS,
            label=name,
            state=state,
            random=random,
            limits=limits,
            answer=answer,
            on_message=self._show,
            on_left_out=self._left_out,
            on_state=self._moved,
            **client,
        )
        for client_id, target in list(self._unanswered.items()):
            self._leave(client_id, target)

    def _write(self, event: Callable[..., Event], /, **values: Any) -> None:
        self._journal.append(event(time=self._now(), **values))

    @property
    def _me(self) -> dict[str, str]:
        return {"user": self.user, "device": self.name}

    def _recall(self) -> dict[int, int]:
        """What earlier runs of the process have written; gives conversation → last seq shown, or passed over."""
        cursors: dict[int, int] = {}
        passed: dict[tuple[int, int], int] = {}  # (conversation, next seq to be read) → last
        mine: set[str] = set()
        for event in self._journal.past():
            if isinstance(event, Sent):
                self.sent += 1
                mine.add(event.client_id)
                self._unanswered[event.client_id] = event.target
            elif isinstance(event, Accepted | Refused):
                self.accepted += isinstance(event, Accepted)
                self._unanswered.pop(event.client_id, None)
            elif isinstance(event, Shown):
                self.shown += 1
                cursors[event.conversation] = event.seq
            elif isinstance(event, Anchored):
                cursors[event.conversation] = event.seq - 1
                passed[event.conversation, event.first] = event.seq - 1
            elif isinstance(event, Pulled):
                self.covered += sum(client_id not in mine for _, client_id, _ in event.rows)
                last = passed.pop((event.conversation, event.first))
                if event.last < last:
                    passed[event.conversation, event.last + 1] = last
        self.covered += self.shown
        self._passed = [(conversation, first, last) for (conversation, first), last in passed.items()]
        return cursors

    # ---- coming and going

    def come(self) -> None:
        """Goes online, and stays there."""
        self._write(Started, **self._me)
        self.client.startService()

    def close(self) -> None:
        """Nothing more is written."""
        self._journal.close()

    @property
    def online(self) -> bool:
        return self.client.standing.life is Life.ONLINE

    @property
    def unanswered(self) -> int:
        """Messages that were sent, and neither accepted nor refused."""
        return len(self._unanswered)

    def _moved(self, standing: Standing) -> None:
        self.errors += standing.error is not None
        if standing.life is Life.ENDED:
            self.ended = f"{self.user}/{self.name}: {standing.reason}"
            log.error("{why}", why=self.ended)
        elif standing.life is Life.ONLINE:
            self._read_on()
        self._told(standing)

    # ---- sending

    def send(self, target: str | int) -> None:
        """One message to a user, or to a conversation by its id, unless too many wait."""
        if len(self._unanswered) >= WAITING:
            return
        client_id = self._ids.make(self.client.server_time()).hex()
        self._write(Sent, **self._me, client_id=client_id, target=target)
        self.sent += 1
        self._unanswered[client_id] = target
        self._leave(client_id, target)

    def _leave(self, client_id: str, target: str | int) -> None:
        """Has the client library send it; the same bytes however often."""
        sending = self.client.send(target, content_of(bytes.fromhex(client_id)), client_id=bytes.fromhex(client_id))
        sending.accepted.addCallbacks(self._accepted, self._refused, callbackArgs=(client_id,), errbackArgs=(client_id,))

    def _accepted(self, place: Place, client_id: str) -> None:
        self._write(Accepted, client_id=client_id, conversation=place.conversation, seq=place.seq)
        self._unanswered.pop(client_id, None)
        self.accepted += 1

    def _refused(self, failure: Failure, client_id: str) -> None:
        error = failure.value
        assert isinstance(error, ImError)
        self._write(Refused, client_id=client_id, code=error.code.name)
        self._unanswered.pop(client_id, None)

    # ---- showing

    def _show(self, message: Message) -> None:
        self.shown += 1
        self.covered += 1
        if self._plant == "lose" and self.shown % 50 == 0:
            return
        where = {"conversation": message.conversation, "seq": message.seq}
        self._write(Shown, **self._me, **where, client_id=id_in(message.content), sender=message.sender)

    def _left_out(self, left: LeftOut) -> None:
        self._write(Anchored, **self._me, conversation=left.conversation, first=left.first, seq=left.last + 1)
        self._passed.append((left.conversation, left.first, left.last))
        self._read_on()

    def _read_on(self) -> None:
        if not self._reading:
            self._reading = True
            ensureDeferred(self._read()).addErrback(lambda failure: log.failure("what was passed over could not be read", failure))

    async def _read(self) -> None:
        """Reads what was passed over, page by page; a lost connection is for the next login to go on from."""
        try:
            while self._passed and self.online:
                conversation, first, last = self._passed[0]
                page = await self.client.history(conversation, first, last, limit=PAGE, newest=False)
                rows = [(row.seq, id_in(row.content), row.sender) for row in page.messages]
                where = {"conversation": conversation, "first": first, "last": page.last, "floor": min(page.floor, last)}
                self._write(Pulled, **self._me, **where, rows=rows)
                self.covered += sum(row.device != self.client.device for row in page.messages)
                if first <= page.last < last:
                    self._passed[0] = conversation, page.last + 1, last
                else:
                    del self._passed[0]
        except ImError as error:
            log.info("reading is put off: {reason}", reason=error.reason)
        finally:
            self._reading = False


def device_id(user: str, name: str) -> bytes:
    """The 16 bytes of a device of a run."""
    return hashlib.sha256(f"{user}/{name}".encode()).digest()[:16]


def content_of(client_id: bytes) -> bytes:
    """What a message says: its client id, several times over."""
    return client_id * (1 + client_id[-1] % 16)


def id_in(content: bytes) -> str:
    """The client id that a content was made from, in hexadecimal; one that nobody has sent if it was made from none."""
    client_id = content[:16]
    genuine = len(client_id) == 16 and content == content_of(client_id)
    return client_id.hex() if genuine else f"not a content: {hashlib.sha256(content).hexdigest()[:16]}"
