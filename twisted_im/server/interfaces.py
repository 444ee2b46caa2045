"""The seams of a server: what a router, a store and an authenticator must do, and what they may call.

Strategy: down-calls and up-calls are separate interfaces, so that a router can be read without the node and the other way round.
`IStore` works on batches: one transaction and one Deferred for all that a batch holds. What passes on the hot path is a plain
tuple with its fields named here; everything else is a named tuple.

Users are bytes, as `twisted_im.server.names` makes them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from twisted_im.errors import Disconnect, ImError

#: How far ahead of the server's clock a client id's time may be, in seconds; a store knows ids for its horizon and so much longer.
AHEAD = 3600

#: Seconds that a transaction may last, from the moment at which its node's lease is looked at until others can see what it has written;
#: and a node that has committed, until it has pushed.
LONGEST_TRANSACTION = 5.0

#: A message to be appended: (sender, device, client id, conversation or 0, peer or b"", content type, life in seconds or 0, content). The
#: peer is the user addressed; a direct conversation is found or made for it.
Append = tuple[bytes, bytes, bytes, int, bytes, int, int, bytes]

#: What became of it: (conversation, seq, time in ms, version of the members, whether it is a repeat of an earlier one). A repeat has the
#: first one's place and time.
Stored = tuple[int, int, int, int, bool]

#: A receipt to be kept: (user, device, session number, conversation, seq, `ReceiptType`).
Cursor = tuple[bytes, bytes, int, int, int, int]

#: What became of it: (whether the user's mark has moved, the mark, version of the members).
Moved = tuple[bool, int, int]

#: A frame on its way: (the encoded notify, the users it is for, the session it came from).
Envelope = tuple[bytes, tuple[bytes, ...], Any]


#: In the place of a node's name: all of them.
EVERYWHERE = ""


class Row(NamedTuple):
    """One row of a conversation's log. When its life is over it is a tombstone, with an empty content."""

    conversation: int
    seq: int
    time: int  #: milliseconds since 1970
    sender: bytes
    device: bytes
    client_id: bytes
    row_type: int
    content_type: int
    life: int  #: seconds after its time; 0 for ever
    content: bytes
    position: int  #: in the store's commit order


class Range(NamedTuple):
    """Rows `first` to `last` of a log without a gap, as far as they still exist: those up to the floor are covered, and gone. `last` below
    `first` covers nothing."""

    first: int
    last: int
    head: int
    floor: int
    rows: Sequence[Row]


class Members(NamedTuple):
    """Who belongs to a conversation; the version rises with every change."""

    version: int
    kind: int
    users: tuple[bytes, ...]


class Overview(NamedTuple):
    """One conversation as one device of one member sees it; the fields of a sync row."""

    conversation: int
    kind: int
    head: int
    floor: int
    cursor: int
    delivered: int
    read: int
    peer_delivered: int
    peer_read: int
    peer: bytes


class Summary(NamedTuple):
    """One page of a device's conversations, by rising id."""

    position: int
    more: bool
    conversations: Sequence[Overview]


class Opened(NamedTuple):
    """A session that the store has let in."""

    number: int
    epoch: bytes
    horizon: int  #: seconds for which a repeated client id is recognised


class Device(NamedTuple):
    device: bytes
    session: int
    last_login: int  #: milliseconds since 1970
    label: bytes


class Ended(NamedTuple):
    """Sessions that may not go on: those of one device, or of all (b""), with a number up to this; and why: KICKED, or TAKEN_OVER by a
    login on another node."""

    user: bytes
    device: bytes
    number: int
    code: Disconnect


class Account(NamedTuple):
    """A user, as the store knows it."""

    user: bytes
    password: str  #: its argon2id hash, or "" for none
    disabled: bool
    created: int  #: milliseconds since 1970


class Lease(NamedTuple):
    """A node that is alive as far as the store knows."""

    node: str
    boot: bytes
    address: str  #: where other nodes reach it
    expires: float  #: seconds by the store's clock
    load: int = 0  #: its connections
    clients: str = ""  #: where clients reach it, with spaces between; empty if they are not to come (`twisted_im.server.elsewhere`)


class Look(NamedTuple):
    """What a node sees of all nodes when it takes or renews its own lease."""

    asked: float  #: when it asked the store, in seconds by its monotonic clock
    leases: Sequence[Lease]  #: of all nodes that live, its own too, by name


class Credentials(NamedTuple):
    """What a login brought."""

    method: int
    tenant: str
    uid: str
    secret: bytes
    device: bytes
    address: str  #: where the connection comes from


class StoreError(Exception):
    """A store that cannot be used, or no longer: one line that says why, and what to do."""


class IStore(Interface):
    """The truth: logs, members, cursors, sessions, accounts. Every method returns a Deferred.

    A failure of the store itself is an `ImError` UNAVAILABLE (temporary: nothing was kept) or any other exception (it is broken,
    and the node stops).
    """

    batch = Attribute("messages that are worth a transaction of their own, before the end of a reactor turn")
    horizon = Attribute("seconds for which a repeated client id is recognised")

    def open() -> None:
        """Comes first, once, in the process that uses the store. `StoreError` if it cannot be used: one line that says why."""

    def append(messages: Sequence[Append], cursors: Sequence[Cursor]) -> Deferred[tuple[list[Stored | ImError], list[Moved | ImError]]]:
        """Keeps messages and receipts in one transaction; fires when it is durable, with an answer for each, in their order. The messages
        come first, and each entry sees what those before it have done.

        A message: NO_SUCH if the sender is not a member of the conversation, or one of the two users is no account; CONFLICT if its
        client id was used by this sender for another message, that is with another conversation, peer, type, life or content (as far as the
        log still has the first). A repeat gets the first answer again, whatever has changed since. What is refused leaves nothing behind,
        and its client id is free.
        A receipt: NO_SUCH if the user is no member; else BAD_VALUE if there is no such row yet; else CONFLICT if this is not the number of
        the device's newest session, or the device was removed. A read counts as delivered too. Marks and cursors never go back.
        """

    def read(user: bytes, conversation: int, first: int, last: int, limit: int, backward: bool) -> Deferred[Range]:
        """A range of a log, at most `limit` rows (one or more) from its lower end, or from its upper end if `backward`. It covers what was
        asked for, as far as the log goes, unless the limit cuts it short. NO_SUCH for strangers, and for who was removed."""

    def read_since(position: int, limit: int) -> Deferred[tuple[int, Sequence[Row]]]:
        """Rows of all conversations in commit order after a position, and the position to go on from. Whole commits only (each by
        conversation and seq), and nothing that may still become visible before it: no row is ever skipped. At most `limit` rows, unless
        the first commit alone has more."""

    def position() -> Deferred[int]:
        """Where `read_since` stands when it has read everything: what was committed before is at or below it, and what is committed after
        it has been told is above."""

    def summary(user: bytes, device: bytes, since: int, after: int, limit: int, behind: bool) -> Deferred[Summary]:
        """The user's conversations with an id above `after`, at most `limit`: those with a row, a change of members, or a receipt that
        moved a mark after the position `since`; with `behind` only those whose head is above the device's cursor. Its position was
        true before anything else was read, so that a summary since then misses nothing."""

    def members(conversations: Sequence[int]) -> Deferred[dict[int, Members]]:
        """The members of each conversation that exists."""

    def create_group(name: bytes, users: Sequence[bytes]) -> Deferred[int]:
        """Makes a group and gives its conversation's id. BAD_VALUE unless all are of one tenant."""

    def change_members(conversation: int, add: Sequence[bytes], remove: Sequence[bytes]) -> Deferred[Members]:
        """Changes a group's members: who is removed sees nothing committed after this, nor anything else of it any more. Who is in both
        lists is removed. NO_SUCH if it is no group, BAD_VALUE if not all would be of one tenant."""

    def open_session(user: bytes, device: bytes, label: bytes, node: str, token: bytes = b"") -> Deferred[Opened]:
        """Lets one device in, with a number above all its earlier ones; makes the account and the device if they are new.
        NOT_AUTHENTICATED if the account is disabled. If the device's newest session was opened by another node, that one is among those
        that have ended, as TAKEN_OVER: it may live there still.
        `token` is the hash of the resume token that the device is about to get, or b"": it counts from now on, beside the one that was used
        last."""

    def use_token(user: bytes, device: bytes, token: bytes, oldest: int) -> Deferred[bool]:
        """Whether this is the hash of a resume token of this device, given after the time `oldest` (milliseconds). The one given last takes
        the place of the one before, which is good until then: its answer may have been lost on the way."""

    def revoke_tokens(user: bytes, device: bytes = b"") -> Deferred[None]:
        """Forgets the resume tokens of one device, or of all the user's."""

    def devices(user: bytes) -> Deferred[Sequence[Device]]:
        """The user's devices, by id."""

    def remove_device(user: bytes, device: bytes) -> Deferred[bool]:
        """Forgets a device, its cursors and its resume tokens, and leaves the user's marks; True if there was one. Numbers of later
        sessions still rise."""

    def accounts(users: Sequence[bytes], create: bool) -> Deferred[set[bytes]]:
        """Which of these existed already; with `create` the others are made."""

    def ended_since(mark: int) -> Deferred[tuple[int, Sequence[Ended]]]:
        """Whose sessions have been ended since a mark, by a change of their account, the removal of their device, or its login on another
        node, whoever did it; and the next mark. 0 is the first. What is older than some thousands of these may be left out."""

    def account(user: bytes) -> Deferred[Account | None]:
        """One account, or None."""

    def set_account(user: bytes, password: str | None, disabled: bool | None) -> Deferred[bool]:
        """Makes an account, or changes what is not None of it; True if it is new. Either change revokes its resume tokens."""

    def list_accounts(after: bytes, limit: int) -> Deferred[Sequence[Account]]:
        """Accounts in the order of their users, those after one; at most `limit`."""

    def lease(
        node: str, boot: bytes, address: str, seconds: float, load: int = 0, clients: str = ""
    ) -> Deferred[Sequence[Lease]]:
        """Says that a node lives for so long, and gives all that live, by name; 0 seconds end its lease. NO_SUCH if another boot of this
        name holds a lease that has not ended.

        In a store that several processes may use, the lease that was taken here last is looked at within each transaction that writes, by
        the store's clock. Once it has ended every write but `lease` fails as UNAVAILABLE, until it is renewed; once another boot has the
        name, as broken, for ever. So what a node writes is visible at the latest `LONGEST_TRANSACTION` after its lease has ended, and at
        once if the name has gone to another boot.
        """

    def leases() -> Deferred[Sequence[Lease]]:
        """All nodes that live, by name."""

    def close() -> Deferred[None]:
        """Finishes what is under way and lets go; also if `open` has not come, or has failed."""


class IRouter(Interface):
    """The strategy: how a frame finds its audience."""

    strategy = Attribute("the name by which `--strategy` chooses it")
    links = Attribute("whether it links the nodes of one store: each that lives is then doubted until it is heard")

    def start(up: IRouterUp) -> Deferred[None] | None:
        """Begins; `up` takes what arrives."""

    def stop() -> Deferred[None] | None:
        """Ends; also when `start` has not come, or has failed."""

    def attach(session: Any) -> Deferred[None] | None:
        """A session has come; fires when every node that may send to it knows, and at once if it returns None."""

    def detach(session: Any) -> None:
        """It has gone."""

    def route(envelopes: Sequence[Envelope]) -> int:
        """Gets frames to their audiences, this node's sessions first; gives how many sessions here took one. Frames for one audience arrive
        in the order in which they were given."""


class IRouteTable(Interface):
    """Who is where: for each user, the nodes that have sessions of theirs.

    An entry is a hint: one that is missing is somebody's doubt, and one too many costs a copy. A table is filled in one of two ways. With
    `told` each node tells its peers of its sessions by its links, so each has all in its own memory, and `put` and `remove` come with what
    peers say. Without, each node tells the table of its own sessions, and `place` says which table that is.
    """

    told = Attribute("whether nodes tell each other by links who is there; else the table is told, each by its own node")
    place = Attribute("at most 16 bytes: nodes find each other's sessions only if this is the same for both")

    def start(up: IRouterUp) -> Deferred[None] | None:
        """Begins; fires when the table can be asked, or after half a second. While it cannot, it doubts."""

    def stop() -> Deferred[None] | None:
        """Ends; also when `start` has not come, or has failed."""

    def put(node: str, rows: Sequence[Any], *, whole: bool = False) -> Deferred[None] | None:
        """Sessions of a node have come, as (user, device, number); with `whole` it has no others. Fires when everybody finds them, or if
        that is in doubt; within half a second, without an error."""

    def remove(node: str, rows: Sequence[Any]) -> None:
        """Sessions of a node have gone: exactly these, and not a newer one of the device."""

    def forget(node: str) -> None:
        """The link with a node is down."""

    def nodes_of(audience: Sequence[bytes]) -> dict[str, list[bytes]] | Deferred[dict[str, list[bytes]]]:
        """Node → those of an audience who have sessions there; under `EVERYWHERE` those of whom it cannot be said now: they may be on any.
        Within half a second, in the order of the calls, without an error."""

    def stray(users: Sequence[bytes]) -> None:
        """Somebody has sent here for these users, who are not here."""


class IRouterUp(Interface):
    """What a router may ask of its node.

    A node *hears* another when that one has acknowledged that from now on it sends it what is for it. Whom it does not hear, and who lives,
    it doubts: it reads the store instead.
    """

    name = Attribute("the node's name, unique in its cluster")
    boot = Attribute("16 bytes of this run's own, as in its lease")
    sessions = Attribute("the sessions that are here, to be iterated over; each has user, device and number")
    turn = Attribute("the node's `Turn`: its clock, its reactor, and what is done at the end of each of its turns")
    counters = Attribute("the node's `Counters`")

    def announce(address: str) -> None:
        """Says where other nodes reach this one: its lease has it as soon as may be."""

    def watch(call: Callable[[Look], object]) -> None:
        """Calls at once, with who lives, and again whenever this node has looked, about every other second."""

    def deliver_local(envelopes: Sequence[Envelope]) -> int:
        """Pushes to this node's sessions of each audience; gives how many took one."""

    def doubt(peer: str, since: float, *, leased: bool = True) -> None:
        """This peer is not heard any more. `since` is the last moment at which it surely was, by the node's monotonic clock: the last bytes
        from it, and not when that was noticed. Until it is heard again, or can write no more, the store is read.

        Something else than a node, by which peers find what is here, has no lease: without `leased` it is doubted until it is heard."""

    def heard(peer: str) -> None:
        """This peer is heard from now on."""


class IAuthenticator(Interface):
    """Who may log in."""

    def authenticate(credentials: Credentials) -> bool | Awaitable[bool] | Deferred[bool]:
        """Whether they are who they say."""

    def knows(tenant: str, uid: str) -> bool | Awaitable[bool] | Deferred[bool]:
        """Whether there is such a user, so that messages to somebody who has never logged in can be kept."""


class IPasswords(IAuthenticator):
    """An authenticator that keeps passwords: they change, and checking them takes threads."""

    def seal(tenant: str, uid: str) -> bytes | Awaitable[bytes] | Deferred[bytes]:
        """Something that changes with the user's password, such as its hash: resume tokens given under another seal count no more."""

    def close() -> Awaitable[None] | Deferred[None] | None:
        """Lets go of what it holds; the node calls this when it stops."""


#: The plain form of an authenticator: a callable with the credentials.
Authenticate = Callable[[Credentials], "bool | Awaitable[bool] | Deferred[bool]"]
