"""Everything in this process's memory: for tests, benchmarks, and uses whose messages may go when the process goes.

Strategy: plain dictionaries and lists. A row is the tuple that was appended, as it came; what it got from the store is the same for
a whole batch but for its seq, and that is its place in the list. Tuples of integers and byte strings are soon left alone by the garbage
collector. A log keeps its newest rows and publishes its floor. Client ids are kept for each sender, in two generations, each as long
as the horizon, so that forgetting costs nothing for each id; each leads to the row's place, as one integer, which the collector need not
look at either.

One batch is one step of the commit order: all its rows and receipts share a position.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from operator import itemgetter

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from twisted_im.errors import Disconnect, ImError, Status
from twisted_im.server.interfaces import (
    AHEAD,
    Account,
    Append,
    Cursor,
    Device,
    Ended,
    IStore,
    Lease,
    Members,
    Moved,
    Opened,
    Overview,
    Range,
    Row,
    Stored,
    Summary,
)
from twisted_im.server.names import one_tenant
from twisted_im.wire.schema import ConversationKind, ReceiptType, RowType

#: When and in which batch a row was appended: (milliseconds since 1970, position).
_Stamp = tuple[int, int]
_position_of = itemgetter(1)
#: A row's place is its conversation's id above its seq.
_SEQ_BITS = 40
_READ = int(ReceiptType.READ)


def _no_such() -> ImError:
    return ImError(Status.NO_SUCH, "no such conversation, or none of yours")


#: The same for answers within a batch, which are told and never raised: an exception that is raised again and again keeps every traceback.
_NO_SUCH = _no_such()


#: Larger batches would not help a store that has no disk, and their rows would have left the processor's cache when they are answered:
#: measured, 3.5 µs a message instead of 6 with a thousand busy connections.
BATCH = 256

#: Ended sessions that are remembered, at least, for a node to notice.
ENDED = 10_000


class _Conversation:
    """One log, its members, and how far they are."""

    __slots__ = ("changed", "delivered", "head", "id", "kind", "members", "name", "read", "rows", "stamps", "version")

    def __init__(self, id: int, kind: int, name: bytes, members: tuple[bytes, ...]) -> None:
        self.id = id
        self.kind = kind
        self.name = name
        self.members = members
        self.version = 1
        self.head = 0
        self.rows: list[Append] = []
        self.stamps: list[_Stamp] = []
        self.delivered: dict[bytes, int] = {}
        self.read: dict[bytes, int] = {}
        self.changed = 0

    def slice(self, now: float, start: int, stop: int | None = None) -> list[Row]:
        """The kept rows from one index to another."""
        first = self.head - len(self.rows) + 1
        rows = []
        for i, (row, (moment, position)) in enumerate(zip(self.rows[start:stop], self.stamps[start:stop], strict=True), start):
            over = row[6] and moment + row[6] * 1000 <= now * 1000
            kind, content = (RowType.TOMBSTONE, b"") if over else (RowType.MESSAGE, row[7])
            rows.append(Row(self.id, first + i, moment, row[0], row[1], row[2], kind, row[5], row[6], content, position))
        return rows


class _Device:
    """One device of one user; cursors by conversation; resume tokens as (hash, when given), the one used last and the newest."""

    __slots__ = ("cursors", "id", "label", "last_login", "node", "number", "tokens", "user")

    def __init__(self, user: bytes, id: bytes) -> None:
        self.user = user
        self.id = id
        self.number = 0
        self.node = ""
        self.label = b""
        self.last_login = 0
        self.tokens: list[tuple[bytes, int]] = []
        self.cursors: dict[int, int] = {}


@implementer(IStore)
class MemoryStore:
    """An `IStore` that forgets everything when its process ends.

    Args:
        keep: rows kept of each conversation, at least; twice as many at most.
        horizon: seconds for which a repeated client id is recognised.
        clock: seconds since 1970.
        random: gives so many random bytes, for the epoch.
    """

    def __init__(
        self,
        *,
        keep: int = 10_000,
        horizon: int = 3600,
        clock: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.horizon = horizon
        self.batch = BATCH
        self.epoch = random(16)
        self._keep = keep
        self._clock = clock
        self._position = 0
        self._conversations: dict[int, _Conversation] = {}
        self._direct: dict[tuple[bytes, bytes], _Conversation] = {}
        self._of_user: dict[bytes, list[_Conversation]] = {}
        self._ids: dict[bytes, dict[bytes, int]] = {}
        self._older_ids: dict[bytes, dict[bytes, int]] = {}
        self._ids_since = clock()
        self._accounts: dict[bytes, Account] = {}
        self._devices: dict[bytes, dict[bytes, _Device]] = {}
        self._by_session: dict[int, _Device] = {}  # by each device's newest session
        self._sessions = 0
        self._ended: list[Ended] = []
        self._ended_before = 0
        self._leases: dict[str, Lease] = {}

    def open(self) -> None:
        """Nothing is to be opened."""

    # ---- the log

    def append(
        self, messages: Sequence[Append], cursors: Sequence[Cursor]
    ) -> Deferred[tuple[list[Stored | ImError], list[Moved | ImError]]]:
        self._position += 1
        return succeed((self._append_messages(messages), self._append_cursors(cursors)))

    def _append_messages(self, messages: Sequence[Append]) -> list[Stored | ImError]:
        now = self._clock()
        if now - self._ids_since > self.horizon + AHEAD:
            self._older_ids, self._ids, self._ids_since = self._ids, {}, now
        moment = int(now * 1000)
        stamp = moment, self._position
        ids_of, older_ids_of, conversation_of, direct = self._ids, self._older_ids, self._conversations.get, self._direct
        position, trim_at = self._position, 2 * self._keep
        results: list[Stored | ImError] = []
        for entry in messages:
            sender, _, client_id, number, peer, _, _, _ = entry
            ids = ids_of.get(sender)
            if ids is None:
                ids = ids_of[sender] = {}
            if client_id in ids:
                results.append(self._repeated(entry, ids[client_id]))
                continue
            if older_ids_of and client_id in older_ids_of.get(sender, ids):
                results.append(self._repeated(entry, older_ids_of[sender][client_id]))
                continue
            if number:
                conversation = conversation_of(number)
                if conversation is None or sender not in conversation.members:
                    results.append(_NO_SUCH)
                    continue
            else:
                conversation = direct.get((sender, peer)) or self._open_direct(sender, peer)
                if conversation is None:
                    results.append(_NO_SUCH)
                    continue
                number = conversation.id
            conversation.head = seq = conversation.head + 1
            conversation.changed = position
            rows = conversation.rows
            rows.append(entry)
            conversation.stamps.append(stamp)
            if len(rows) >= trim_at:
                del rows[: self._keep], conversation.stamps[: self._keep]
            ids[client_id] = number << _SEQ_BITS | seq
            results.append((number, seq, moment, conversation.version, False))
        return results

    def _repeated(self, entry: Append, place: int) -> Stored | ImError:
        """The answer to a client id that was used before, for the message at this place."""
        number, seq = place >> _SEQ_BITS, place & (1 << _SEQ_BITS) - 1
        conversation = self._conversations[number]
        index = seq - (conversation.head - len(conversation.rows)) - 1
        if index < 0:  # its row is gone: what it said is not known any more
            return number, seq, conversation.stamps[0][0], conversation.version, True
        if conversation.rows[index][3:] != entry[3:]:
            return ImError(Status.CONFLICT)
        return number, seq, conversation.stamps[index][0], conversation.version, True

    def _open_direct(self, sender: bytes, peer: bytes) -> _Conversation | None:
        if peer not in self._accounts or sender not in self._accounts:
            return None
        members = (sender,) if sender == peer else tuple(sorted((sender, peer)))
        made = self._open(ConversationKind.DIRECT, b"", members)
        self._direct[sender, peer] = self._direct[peer, sender] = made
        return made

    def _open(self, kind: int, name: bytes, members: tuple[bytes, ...]) -> _Conversation:
        made = _Conversation(len(self._conversations) + 1, kind, name, members)
        made.changed = self._position
        self._conversations[made.id] = made
        for user in members:
            self._of_user.setdefault(user, []).append(made)
        return made

    def _append_cursors(self, cursors: Sequence[Cursor]) -> list[Moved | ImError]:
        results: list[Moved | ImError] = []
        conversation_of, device_of, position = self._conversations.get, self._by_session.get, self._position
        for user, device_id, session, number, seq, kind in cursors:
            conversation, device = conversation_of(number), device_of(session)
            if conversation is None or user not in conversation.members:
                results.append(_NO_SUCH)
                continue
            if not 0 < seq <= conversation.head:
                results.append(ImError(Status.BAD_VALUE, f"a receipt for {seq}, where the newest is {conversation.head}"))
                continue
            if device is None or device.id != device_id or device.user != user:
                results.append(ImError(Status.CONFLICT, "the device has a newer session, or was removed"))
                continue
            if seq > device.cursors.get(number, 0):
                device.cursors[number] = seq
            moved = False
            mark = conversation.delivered.get(user, 0)
            if seq > mark:
                conversation.delivered[user] = mark = seq
                moved = True
            if kind == _READ:
                mark = conversation.read.get(user, 0)
                moved = seq > mark
                if moved:
                    conversation.read[user] = mark = seq
            if moved:
                conversation.changed = position
            results.append((moved, mark, conversation.version))
        return results

    def _mine(self, user: bytes, number: int) -> _Conversation | None:
        found = self._conversations.get(number)
        return found if found is not None and user in found.members else None

    def read(self, user: bytes, conversation: int, first: int, last: int, limit: int, backward: bool) -> Deferred[Range]:
        found = self._mine(user, conversation)
        if found is None:
            return fail(_no_such())
        floor = found.head - len(found.rows)
        low, high = max(first, 1), min(last, found.head)
        lowest = max(low, floor + 1)  # what is gone takes no room in the answer
        if high - lowest + 1 > limit:
            low, high = (high - limit + 1, high) if backward else (low, lowest + limit - 1)
        return succeed(Range(low, high, found.head, floor, found.slice(self._clock(), max(low - 1 - floor, 0), max(high - floor, 0))))

    def read_since(self, position: int, limit: int) -> Deferred[tuple[int, Sequence[Row]]]:
        found: list[Row] = []
        for conversation in self._conversations.values():
            if conversation.changed > position:
                found += conversation.slice(self._clock(), bisect_right(conversation.stamps, position, key=_position_of))
        found.sort(key=lambda row: (row.position, row.conversation, row.seq))
        if len(found) <= limit:
            return succeed((self._position, found))
        # Whole commits only: leave out the one that the limit cuts, unless it is the first, which must then come whole.
        positions = [row.position for row in found]
        end = bisect_left(positions, positions[limit]) or bisect_right(positions, positions[limit])
        return succeed((positions[end - 1], found[:end]))

    def position(self) -> Deferred[int]:
        return succeed(self._position)

    def summary(self, user: bytes, device: bytes, since: int, after: int, limit: int, behind: bool) -> Deferred[Summary]:
        known = self._devices.get(user, {}).get(device)
        cursors = known.cursors if known is not None else {}
        changed = [
            c
            for c in self._of_user.get(user, ())
            if c.id > after and (c.changed > since or not since) and not (behind and c.head <= cursors.get(c.id, 0))
        ]
        changed.sort(key=lambda c: c.id)
        rows = []
        for c in changed[:limit]:
            other = user
            if c.kind == ConversationKind.DIRECT:
                other = next((u for u in c.members if u != user), user)
            rows.append(
                Overview(
                    conversation=c.id,
                    kind=c.kind,
                    head=c.head,
                    floor=c.head - len(c.rows),
                    cursor=cursors.get(c.id, 0),
                    delivered=c.delivered.get(user, 0),
                    read=c.read.get(user, 0),
                    peer_delivered=c.delivered.get(other, 0) if c.kind == ConversationKind.DIRECT else 0,
                    peer_read=c.read.get(other, 0) if c.kind == ConversationKind.DIRECT else 0,
                    peer=other if c.kind == ConversationKind.DIRECT else c.name,
                )
            )
        return succeed(Summary(self._position, len(changed) > limit, rows))

    # ---- members

    def members(self, conversations: Sequence[int]) -> Deferred[dict[int, Members]]:
        found = filter(None, map(self._conversations.get, conversations))
        return succeed({c.id: Members(c.version, c.kind, c.members) for c in found})

    def create_group(self, name: bytes, users: Sequence[bytes]) -> Deferred[int]:
        try:
            one_tenant(users)
        except ImError:
            return fail()
        self._position += 1
        return succeed(self._open(ConversationKind.GROUP, name, tuple(dict.fromkeys(users))).id)

    def change_members(self, conversation: int, add: Sequence[bytes], remove: Sequence[bytes]) -> Deferred[Members]:
        group = self._conversations.get(conversation)
        if group is None or group.kind != ConversationKind.GROUP:
            return fail(_no_such())
        try:
            one_tenant((*group.members, *add))
        except ImError:
            return fail()
        self._position += 1
        before, gone = dict.fromkeys(group.members), set(remove)
        group.members = tuple(dict.fromkeys(u for u in (*group.members, *add) if u not in gone))
        group.version += 1
        group.changed = self._position
        for user in before:
            if user in gone:
                self._of_user[user].remove(group)
        for user in group.members:
            if user not in before:
                self._of_user.setdefault(user, []).append(group)
        return succeed(Members(group.version, group.kind, group.members))

    # ---- sessions and accounts

    def open_session(self, user: bytes, device: bytes, label: bytes, node: str, token: bytes = b"") -> Deferred[Opened]:
        if self._account(user).disabled:
            return fail(ImError(Status.NOT_AUTHENTICATED))
        known = self._devices.setdefault(user, {}).setdefault(device, _Device(user, device))
        if known.node not in ("", node):
            self._end(Ended(user, device, known.number, Disconnect.TAKEN_OVER))
        self._sessions += 1
        self._by_session.pop(known.number, None)
        self._by_session[self._sessions] = known
        known.node = node
        known.number, known.label, known.last_login = self._sessions, label, int(self._clock() * 1000)
        if token:
            known.tokens[1:] = [(token, known.last_login)]
            if len(known.tokens) == 1:
                known.tokens *= 2
        return succeed(Opened(known.number, self.epoch, self.horizon))

    def devices(self, user: bytes) -> Deferred[Sequence[Device]]:
        mine = sorted(self._devices.get(user, {}).items())
        return succeed([Device(device, known.number, known.last_login, known.label) for device, known in mine])

    def remove_device(self, user: bytes, device: bytes) -> Deferred[bool]:
        known = self._devices.get(user, {}).pop(device, None)
        if known is not None:
            del self._by_session[known.number]
            self._end(Ended(user, device, self._sessions, Disconnect.KICKED))
        return succeed(known is not None)

    def ended_since(self, mark: int) -> Deferred[tuple[int, Sequence[Ended]]]:
        return succeed((self._ended_before + len(self._ended), self._ended[max(mark - self._ended_before, 0) :]))

    def _end(self, ended: Ended) -> None:
        self._ended.append(ended)
        if len(self._ended) > 2 * ENDED:
            del self._ended[:ENDED]
            self._ended_before += ENDED

    def use_token(self, user: bytes, device: bytes, token: bytes, oldest: int) -> Deferred[bool]:
        known = self._devices.get(user, {}).get(device)
        if known is None or self._accounts[user].disabled:
            return succeed(False)
        for given in reversed(known.tokens):
            if given[0] == token and given[1] > oldest:
                if given is known.tokens[1]:
                    known.tokens[0] = given
                return succeed(True)
        return succeed(False)

    def revoke_tokens(self, user: bytes, device: bytes = b"") -> Deferred[None]:
        for each, known in self._devices.get(user, {}).items():
            if device in (b"", each):
                known.tokens.clear()
        return succeed(None)

    def accounts(self, users: Sequence[bytes], create: bool) -> Deferred[set[bytes]]:
        existing = {user for user in users if user in self._accounts}
        if create:
            for user in users:
                self._account(user)
        return succeed(existing)

    def account(self, user: bytes) -> Deferred[Account | None]:
        return succeed(self._accounts.get(user))

    def set_account(self, user: bytes, password: str | None, disabled: bool | None) -> Deferred[bool]:
        new = user not in self._accounts
        known = self._account(user)
        if password is not None:
            known = known._replace(password=password)
        if disabled is not None:
            known = known._replace(disabled=disabled)
        self._accounts[user] = known
        if password is not None or disabled:
            self._end(Ended(user, b"", self._sessions, Disconnect.KICKED))
        return self.revoke_tokens(user).addCallback(lambda _: new)

    def list_accounts(self, after: bytes, limit: int) -> Deferred[Sequence[Account]]:
        return succeed([self._accounts[user] for user in sorted(self._accounts) if user > after][:limit])

    def _account(self, user: bytes) -> Account:
        known = self._accounts.get(user)
        if known is None:
            known = self._accounts[user] = Account(user, "", False, int(self._clock() * 1000))
        return known

    def lease(
        self, node: str, boot: bytes, address: str, seconds: float, load: int = 0, clients: str = ""
    ) -> Deferred[Sequence[Lease]]:
        now = self._clock()
        held = self._leases.get(node)
        if held is not None and held.boot != boot and held.expires > now:
            return fail(ImError(Status.NO_SUCH, f"another process is the node {node}"))
        self._leases[node] = Lease(node, boot, address, now + seconds, load, clients)
        return self.leases()

    def leases(self) -> Deferred[Sequence[Lease]]:
        now = self._clock()
        return succeed([lease for _, lease in sorted(self._leases.items()) if lease.expires > now])

    def close(self) -> Deferred[None]:
        return succeed(None)
