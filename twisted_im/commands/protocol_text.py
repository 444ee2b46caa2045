"""What docs/protocol.md says beyond what can be derived: the rules that are no field and no number.

Strategy: the page is one template, in the order in which somebody reads who writes a client. Every table, number and example that stands
elsewhere in the source is a `$name` and is put in by `twisted_im.commands.protocol`, so a number in this text can only be a count or
a piece of advice. A test knows every name in capitals, so that no code can be renamed behind this page's back.
"""

from __future__ import annotations

from string import Template

#: what a server's limits mean, by their names in `twisted_im.core.connection.Limits`: (unit, meaning, what happens beyond it)
LIMITS = {
    "handshake": ("s", "from the connection (TLS handshake included) to a whole hello", "`HANDSHAKE_TIMEOUT`"),
    "login": ("s", "from the connection to a granted login, however many are tried", "`LOGIN_TIMEOUT`"),
    "frame": ("s", "after login: from the first byte of a frame to its last", "`FRAME_TIMEOUT`"),
    "unacknowledged": ("s", "notifies are out for so long without a rise of the client's count", "a ping, again and again until it rises"),
    "ping": ("s", "that ping is unanswered for so long", "`UNRESPONSIVE`"),
    "close": ("s", "after the last frame, for its bytes to leave and the stream to end", "the connection is cut"),
    "heartbeat": ("s", "the heartbeat of clients that wish for none", "after 1.5 times this without a byte: `HEARTBEAT_TIMEOUT`"),
    "min_heartbeat": ("s", "the shortest heartbeat granted", "a lower wish is raised to it"),
    "max_heartbeat": ("s", "the longest heartbeat granted", "a higher wish is lowered to it"),
    "window": ("notifies", "the most that are sent unacknowledged", "the session is behind"),
    "requests": ("requests", "the most that a client may have unanswered", "`WINDOW_EXCEEDED`"),
    "max_body": ("bytes", "the largest body after login", "`TOO_LARGE`, and the connection ends"),
    "stranger_max_body": ("bytes", "the largest body from a client before its login is granted", "`TOO_LARGE`, and the connection ends"),
    "write_budget": ("bytes", "notifies that wait because a client reads slowly", "the session is behind"),
}

#: what the limits of the format mean, by their names in `twisted_im.wire.schema`
FORMAT_LIMITS = {
    "MAX_UID": "a uid: 1 to this many bytes",
    "MAX_TENANT": "a tenant: 0 to this many bytes",
    "MAX_LABEL": "a device's label; a longer one is a `BAD_VALUE`",
    "MAX_SECRET": "a login's secret; a longer one is a `BAD_VALUE`",
    "MAX_AGENT": "a client's name in its hello; a longer one ends the connection: `MALFORMED`",
    "MAX_REASON": "a reason in an error or a disconnect",
    "MAX_ROWS": "rows in one sync or history answer, not bytes",
    "MAX_NODE": "a node's name, on links",
    "CONTENT_ROOM": "a message's content is at most the agreed largest body less this, so that it also fits into a history answer",
}

#: what each value means, by enumeration: (heading, meanings)
ENUMS = {
    "Role": ("Roles of connections", {
        "CLIENT": "a client's; no frame names it", "PEER": "a link to a node", "ROUTE": "a link to a route server",
    }),
    "LoginMethod": ("Login methods", {
        "PASSWORD": "the secret is the user's password, in UTF-8",
        "TOKEN": "the secret is a token that something else has issued",
        "ANONYMOUS": "the secret is empty; only where the operator lets anybody in",
        "RESUME": "the secret is the `resume` field of this device's last login",
    }),
    "ContentType": ("Content types", {
        "TEXT": "UTF-8 text", "JSON": "a JSON document, in UTF-8", "BINARY": "bytes, of whatever the application means by them",
        "REFERENCE": "a URI, in UTF-8, of something that is kept elsewhere, such as a file",
    }),
    "RowType": ("Row types", {
        "MESSAGE": "a message",
        "TOMBSTONE": "something that has expired or may not be seen any more: its seq stays, its content is empty",
    }),
    "ReceiptType": ("Receipt types", {
        "DELIVERED": "this device has it: kept, or shown",
        "READ": "the user has seen it; includes delivered",
    }),
    "ConversationKind": ("Kinds of conversation", {
        "DIRECT": "two users, or one with oneself", "GROUP": "any number of members; no command makes or changes one yet",
        "SYSTEM": "one reader, and the system writes; there is none yet",
    }),
    "SyncScope": ("Scopes of a sync", {
        "CHANGED": "conversations with a row or a receipt after the position `since`",
        "BEHIND": "of those, only the ones with rows, one's own included, that this device has not acknowledged",
    }),
    "Direction": ("Directions of a history request", {
        "FORWARD": "if not all rows fit, the answer begins at `first`", "BACKWARD": "if not all rows fit, the answer ends at `last`",
    }),
    "DevicesAction": ("Actions on devices", {
        "LIST": "lists all devices of the user", "REMOVE": "ends the device's session and forgets the device and its cursors",
    }),
    "SignalType": ("Signal types", {
        "TYPING": "the sender is typing", "RINGING": "the sender calls", "CUSTOM": "whatever the application means by the content",
    }),
}  # fmt: skip

#: what answers a request beyond the errors that every request can get (BAD_BODY, BAD_VALUE, BUSY, UNAVAILABLE)
ANSWERS = {
    "HELLO": "Or it ends the connection: `VERSION`, `TOO_LARGE`, `MALFORMED` (an agent that is too long).",
    "LOGIN": "Errors: `NOT_AUTHENTICATED`, `UNSUPPORTED` (the method), `BUSY` (too many were wrong before). Instead of the `NOT_AUTHENTICATED` number $refusals: "
    "the end, `LOGIN_FAILED`.",
    "LOGOUT": "What was sent before it is answered first. The response is the last frame: no disconnect notify follows, and nothing sent behind the request is answered.",
    "PING": "",
    "KICK": "To name one's own device, or one that does not exist, is no error and does nothing.",
    "DEVICES": "Errors: `NO_SUCH` (to remove a device that does not exist), `BAD_VALUE` (to remove the device that asks).",
    "MESSAGE": "Errors: `NO_SUCH`, `CONFLICT`, `STALE_ID`, `TOO_LARGE`, `UNSUPPORTED` (the content type).",
    "RECEIPT": "Errors: `NO_SUCH`, `BAD_VALUE` (above the head, or 0), `CONFLICT` (the device has a newer session, or was removed).",
    "SYNC": "",
    "HISTORY": "Errors: `NO_SUCH`.",
    "SIGNAL": "Errors: `NO_SUCH`, `TOO_LARGE`, `BAD_VALUE` (a conversation and a target at once, or neither).",
    "LINK": "",
    "PROOF": "",
    "ATTACH": "",
    "NODES": "",
}

#: (what comes, what answers it)
BAD_INPUT = [
    ("garbage before hello", "Judged as a header, as soon as 16 bytes are there. `MALFORMED` if the sixth byte is no kind, `VERSION` if "
     "the fifth is not $version, `TOO_LARGE` if the first four are above the cap. Fewer than 16 bytes: as silence."),
    ("silence, or half a header", "Before hello `HANDSHAKE_TIMEOUT` after $handshake s; before login `LOGIN_TIMEOUT` after $login s, both "
     "counted from the connection. Once open, half a frame: `FRAME_TIMEOUT` after $frame s; nothing at all: `HEARTBEAT_TIMEOUT`."),
    ("a length of 2³²−1", "`TOO_LARGE`, judged by the header: nothing is kept and nothing is waited for."),
    ("a body over the cap", "The same. The cap is $stranger_max_body bytes until a login is granted, then what hello agreed on."),
    ("a content over its limit, in a body under the cap", "Error `TOO_LARGE`; the connection lives."),
    ("an unknown version in a header", "`VERSION`. Versions that do not meet in a hello: the same."),
    ("an unknown command", "A request: error `UNKNOWN_COMMAND`; the connection lives. A notify is passed over. "
     "HELLO, LOGIN and a WINDOW request on an open connection are unknown, too. Before login: `UNEXPECTED`."),
    ("a response to nothing", "`UNEXPECTED`; a PING response when no ping is unanswered, too."),
    ("a notify that only servers send", "Passed over, on an open connection."),
    ("a request before login", "`UNEXPECTED`. Only what stands in “What may come” is not."),
    ("a body of another shape", "In a request: error `BAD_BODY`; the connection lives. In a notify or a response: `MALFORMED`."),
    ("a wrong password, or an unknown user", "Error `NOT_AUTHENTICATED`, the same for both, and another login may be tried on the "
     "connection. Number $refusals on one connection: `LOGIN_FAILED`. Other errors do not count."),
    ("a resume token of another user or device, a replaced, revoked or expired one", "Error `NOT_AUTHENTICATED`, the same for all. It "
     "counts among the $refusals."),
    ("many wrong passwords or tokens, on any number of connections", "Error `BUSY` with the time to wait, for the account and for the "
     "address that they came from; what is right is not looked at either, until then. Resume tokens are."),
    ("a uid that is not UTF-8, not NFC, empty, too long, or has control characters", "Error `BAD_VALUE`, as a target too."),
    ("a WINDOW count above what was sent", "`ACK_ABOVE_SENT`. A count that is not above the last one is passed over."),
    ("more messages and receipts unanswered than agreed", "`WINDOW_EXCEEDED`."),
    ("the same client id with the same body", "The first answer again; nobody is told twice."),
    ("the same client id with another body", "Error `CONFLICT`; the first message stands."),
    ("a client id from before the horizon, or from the future", "Error `STALE_ID`."),
    ("a message to nobody", "Error `NO_SUCH`."),
    ("a message to oneself", "A conversation with one member. It is accepted, and one's other devices get it."),
    ("a message, receipt, signal or history across tenants", "Error `NO_SUCH`, as if there were nothing: other tenants' users and "
     "conversations cannot be seen."),
    ("a conversation of which one is no member", "The same."),
]  # fmt: skip

PAGE = Template(
    """\
# Protocol, version $version

<!-- Generated by `python -m twisted_im protocol` from the declarations in the source. Do not edit. -->

This page is all that is needed to write a client, in any language. Test vectors for each frame are in [vectors.json](vectors.json);
[the last section](#test-vectors) says how to use them.

A client and a server exchange *frames* over one stream. A *request* is answered by a *response*; a *notify* is not answered. A user
logs in on any number of *devices*, each with a connection of its own. Messages are rows of *conversations*: each row has a *seq*,
1, 2, 3, … without gaps, and every member sees the same rows in the same order. What a push loses, reading the conversation gives
again.

The least that a client has to do:

1. connect; send a HELLO request; keep to what its response says
2. send a LOGIN request; wait for its response
3. send a SYNC request, and read with HISTORY what this device has not got
4. send a MESSAGE request with a new client id; it is accepted when its response comes; if none comes, reconnect and send the same
   again
5. show the rows that MESSAGE notifies bring, each seq once, in order; fill a gap with HISTORY
6. send a RECEIPT request for what was shown, and WINDOW notifies for the notifies that came
7. answer PING requests, and send one when nothing else was sent for a heartbeat
8. when the connection ends, look whether to come back, and when

## Transport

The stream is TCP, or TLS from the first byte on. There is no upgrade from one to the other, and no ALPN; frames are the same on
both. TLS is 1.2 or higher; the client checks the certificate against the name that it connected to. Host and port are the
operator's choice. Where a Unix socket is offered, it carries the same stream.

Several frames may be written at once and read at once; where the network cuts them means nothing. Switch Nagle's algorithm off, and
write what belongs together in one call.

## Frames

All integers are unsigned and big-endian. Nothing is padded or aligned. A frame is a header of $header_size bytes and a body:

```text
0       4    5     6         8            12      14       16
+--------+----+-----+---------+------------+-------+--------+------------
| length | v. | kind| command | request id | flags | status | body ...
+--------+----+-----+---------+------------+-------+--------+------------
  u32      u8   u8    u16       u32          u16     u16      length bytes
```

$header_table

A receiver judges a header before it reads the body, in this order: the kind, the version, the length against its cap. What fails
ends the connection. This comes first for a HELLO too: its header has version $version, whatever versions its body offers.

Kinds:

$kind_table

- **Request ids** are chosen by the side that asks, and pair a response with its request. Any number will do, 0 too. Let those of
  one side's unanswered requests differ: a server answers each, equal ids or not. The two sides' ids have nothing to do with each
  other. Responses may come in another order than their requests. In a notify the id is 0, and ignored.
- **Flags** are 0 when sent; receivers ignore flags that they do not know.
- **Status** is 0 in requests and notifies, and ignored there. In a response, 0 means that the body is the
  command's own; any other status means that the body is an *error*, whatever the command:

$error_table

### Bodies

A body has three parts, each of which may be missing:

```text
+----------------------+-------------------------+-----------------------+
| fixed-size fields    | sized byte strings, in  | the rest: one byte    |
| (sizes among them)   | the order of their sizes| string, or rows       |
+----------------------+-------------------------+-----------------------+
```

- Fixed-size fields are integers (`u8`, `u16`, `u32`, `u64`) and byte strings of 16 bytes (`bytes[16]`).
- A sized byte string has its size in a `u8` among the fixed fields, by the name `…_size`; its bytes stand after all fixed fields.
- The rest takes what is left of the body, and may be empty.
- **Rows** are the rest of some bodies: any number of them, each a `u32` size and then so many bytes, which are again a body of
  these three parts.

A body that ends early, or has bytes left over, is refused as a whole: in a request with the error `BAD_BODY`, in a notify or a
response by ending the connection. The length in the header must be the body's.

### Text and names

Text is UTF-8 without a byte order mark and without a final zero. A server checks that of uids and tenants only: be ready for labels
and contents that are none.

- A **uid** names a user within a tenant: UTF-8 in Unicode normal form C, 1 to $MAX_UID bytes, no control characters (Unicode
  category Cc), case-sensitive.
- A **tenant** is the same, but may be empty: the default tenant. Users of one tenant cannot see or reach those of another.
- A **device** is 16 bytes, chosen at random once by the device and kept for ever. (tenant, uid, device) is what logs in.
- **Times** are milliseconds since 1970-01-01 00:00 UTC, by the server's clock, unless a field says otherwise.

### Limits of the format

In bytes, unless said otherwise:

$format_limits

## Life of a connection

![State diagram: start, greeted, login, open; each may go to closing and closed](connection.svg)

Both ends keep the same state, moved by what passes on the stream. Each cell is the next state:

$state_table

A DISCONNECT or a REDIRECT begins the closing from any state, a LOGOUT *request* once open. The end of the bytes ends it
from any state.

### What may come

Before a connection is open, only these frames may come. Any other ends the connection with `UNEXPECTED`, unknown commands included.

$may_come

A server need not read anything between a login request and its answer. On an open connection anything may come:

- a request that is unknown, or none of an open connection's (HELLO, LOGIN, a WINDOW request), gets the error `UNKNOWN_COMMAND`
- a notify that is unknown, or one that only servers send, is passed over
- a response to nothing ends the connection with `UNEXPECTED`

A client treats what a server sends in the same way.

### Hello

The client speaks first, and waits for the response before it sends anything else. In its hello request it says what it can do and
wishes for; the response holds what both keep to:

- **version**: this page is version $version, so `min_version` ≤ $version ≤ `max_version`; else the connection ends with `VERSION`.
- **features**: no bit is defined in version $version. A client sets none; a server grants none.
- **max_body**: the server's own largest body, for both directions. A client that wishes for less cannot be served, since any
  message for it may need as much: `TOO_LARGE`. Send 0, and be able to take what the response says ($max_body bytes by default), or
  end the connection. It holds for a client's bodies once the login is granted ($stranger_max_body bytes before), and for a server's
  from the hello response on. Up to that response, let a client take $max_body bytes.
- **heartbeat**: the client's wish, raised or lowered into $min_heartbeat to $max_heartbeat s; for 0, the server's ($heartbeat s by
  default). Networks cut idle connections after 5 to 30 minutes, and each beat wakes a phone's radio.
- **window**: the client's wish, or the server's ($window by default) if that is lower or the wish is 0; at least 1.
- **requests**: the server's alone ($requests by default).
- **time**: keep the difference to your own clock; client ids carry the server's time.

A refused body of a hello (`BAD_BODY`) leaves the connection where it was, and another hello may follow until the deadline.

### Login

One login request, one device of one user. Granted: the connection is open, the session's `session` number is higher than that of
each earlier login of this device, and notifies may come at once. Refused: an error response, and another login may be tried on the
same connection until the deadline. After $refusals wrong secrets (`NOT_AUTHENTICATED`; no other error counts) on one connection it
ends with `LOGIN_FAILED`.

Which of methods 1 to 3 a server takes is its operator's choice; it answers `UNSUPPORTED` to the others. A server with a password file
takes method 1. One that lets anybody in takes all of them, with any secret.

**Resume tokens.** The response's `resume` is the secret of this device's next login, with method 4: no password is needed then, and the
server need not do the slow work of checking one. It may be empty: this server gives none.

- Keep the newest one in place of the one before, where others cannot read it: it opens the door like a password, for this user on this
  device. It is $resume_size bytes, and means nothing to a client.
- Log in with it first. If that is refused (`NOT_AUTHENTICATED`, `UNSUPPORTED`), forget it, and log in with the password on the same
  connection.
- Each login gives a new one, a login by method 4 too. The one that was used last stays good until the new one has been used, so an
  answer that is lost shuts nobody out.
- It ends when it has not been used for the time that the operator has set ($resume_days days by default), when the password changes,
  when the account is disabled, and when the device is removed or logs out.

- **epoch** names the life of the server's store. Keep it with your cursors. If it is another than the kept one, the store began
  anew: conversation ids, seqs and positions kept from before mean nothing. Forget them, sync from 0, and tell the person.
- **A backup that was put back by hand** keeps the epoch. Do the same as with a new epoch when a sync's `position` is below the `since` that you sent,
  or a conversation's head is below what you have shown.
- **horizon**: for so many seconds the server recognises the repeat of a client id.
- **resume** is told above.

**Takeover**: a login of a device that has a live session, anywhere, ends that session with `TAKEN_OVER`. The client that is told so
must not come back by itself, or the two would take over from each other for ever.

### Heartbeat

Let H be the agreed heartbeat in seconds. The client sends a frame at least every H seconds; if it has nothing to say, a PING
request. Any byte counts. A server that has heard nothing for 1.5 H ends the connection with `HEARTBEAT_TIMEOUT`. A client whose
ping is not answered within $ping s takes the connection for dead: it closes it and comes back.

The server pings too: when notifies are out for $unacknowledged s and the client's count has not risen. Answer a PING request at
once, with a PING response that repeats its request id and has your clock. No answer within $ping s: `UNRESPONSIVE`. A client that
answers, and still does not count, is asked again every $unacknowledged s, and its connection lives.

### Deadlines and limits of a server

The defaults; an operator may choose others. What a client needs to know of them is in the hello response.

$limits_table

While a server does not read from a connection because it is busy, that connection's deadlines stand still.

### The end

A side that ends a connection says why in a DISCONNECT notify, its last frame, and closes the stream when it has left. Nobody
answers it: the other side closes too. The table of [disconnect codes](#disconnect-codes) says what each means. In the notify
itself, `come_back` says whether the client should reconnect by itself, and `retry_after` how many milliseconds to wait first.

- A client that leaves for good sends a LOGOUT request, and waits for the response and the end of the stream. What it asked before
  that is answered first; the server takes nothing behind it, and its response is the last frame. Notifies that were on their way may
  come before it.
- A client that only closes may send a DISCONNECT notify with code $NORMAL (`NORMAL`), `come_back` 0 and `retry_after` 0, or nothing.
  The server then closes without a word.
- Do not close one direction and read on: the end of the client's bytes ends the connection, and what is not answered by then may
  stay so.
- A **REDIRECT** notify is also a last frame: wait `delay` milliseconds, connect to `address` (or to the same address, if it is
  empty) by the same kind of connection, TLS or not, and log in there. It may be the first frame too, before the hello's response. It is
  the client that closes the stream, or else the server after a few seconds. The server has answered all that it has taken: a request
  without an answer was not taken, and may be asked again there. Of several redirects without a login between them only the first is
  followed at once; before the others, wait as below too.
- A stream that ends without a word is a lost connection: come back.

Coming back: before attempt n = 0, 1, 2, … wait a random time, evenly from 0 to min(60, 2ⁿ) seconds (full jitter), and not less than
`retry_after`. Begin at n = 0 again after a granted login.

## Windows

Two windows bound what is in flight. Neither is stored; both begin anew with each connection.

**Requests.** A client has at most `requests` requests unanswered. If they are messages and receipts, one more ends the connection
with `WINDOW_EXCEEDED`; behind another one that takes time, the server does not read on until it is answered.

**Notifies.** Both ends count the NOTIFY frames that the server has sent on this connection since it began. *Every notify counts*:
MESSAGE, RECEIPT, SIGNAL, SYNC, and those with commands that you do not know. (Only DISCONNECT and REDIRECT do not, and they are the
last.) The client tells its count in a WINDOW notify; the count is the total, not the difference. The server sends as long as fewer
than `window` notifies are above the client's count.

- Send a WINDOW notify when half of the window has come since the last one, and in any case within 1 s of a notify that it does not
  cover yet.
- Count a notify when you have taken it over: kept it, or queued it where it cannot get lost while the process lives.
- A count above what was sent ends the connection (`ACK_ABOVE_SENT`). A count that is not above the last one is passed over.
- It is not a receipt: it only makes room. What a user's device *has* is told by RECEIPT requests.

**Behind.** If a notify does not fit into the window, or too many bytes wait because the client reads slowly, the server leaves it
out and sends a SYNC notify, once; that one may go over the window by one, and counts. The session is then *behind*: it gets no more
MESSAGE, RECEIPT and SIGNAL notifies until it sends a SYNC request. See [Sync and history](#sync-and-history).

## The six packets

```text
 Alice's phone                 server                 Bob's devices, Alice's others
      |                          |                          |
      |  1  MESSAGE request      |                          |
      |------------------------->|  the store keeps it      |
      |  2  MESSAGE response     |                          |
      |<-------------------------|  3  MESSAGE notify       |
      |     accepted             |------------------------->|  shown, or kept
      |                          |  4  RECEIPT request      |
      |                          |<-------------------------|
      |                          |  the store keeps it      |
      |  6  RECEIPT notify       |  5  RECEIPT response     |
      |<-------------------------|------------------------->|
      |     delivered, or read   |                          |
```

*Accepted* means that the store has it, not that anybody has got it: a receiver who is away is no failed send. Any of the six may be
lost, and its connection with it:

| lost | what is left | what mends it |
|---|---|---|
| 1 | the sender waits | it reconnects and sends the same again |
| 2 | the store has it, the sender waits | the same; the server knows the client id and gives the first answer again; nobody is told twice |
| 3 | the receiver lacks a row | it sees the gap at the next row, or the head in its next sync, and reads with HISTORY |
| 4 | the server does not know that it was delivered | the receiver sends the receipt again after its next login; receipts are cumulative |
| 5 | the same, seen from the receiver | the same; a repeat changes nothing |
| 6 | the sender does not know that it was delivered | the next receipt, or `peer_delivered` and `peer_read` of its next sync |

## Sending

A message is addressed to a conversation (`conversation` set, `target` empty), or to a user of one's own tenant (`conversation` 0,
`target` the uid), which finds or makes the direct conversation of the two. The response names the conversation; use it from then
on. A user exists from the first login on, or because the server's accounts know the name; a message to anybody else gets `NO_SUCH`,
and one to something that is no uid `BAD_VALUE`. Version $version has no commands for groups and system conversations: where there are
any, the operator has made them.

- **Client id.** Each message gets one, once, before it is sent the first time: a UUIDv7 (RFC 9562) by the *server's* clock. Its
  bytes: 6 of milliseconds since 1970, big-endian; then `7x xx`; then `yx` and seven more, where the two highest bits of `y` are 1
  and 0, and every other `x` is random. Corrected time = own clock + (time in the hello response − own clock when it came). So that
  one device's ids rise, take max(corrected time, last id's time + 1) as the milliseconds; but if the last one is more than a minute
  ahead, the clock was set back: take the corrected time. The server checks nothing but the time.
- **Repeats.** (user, client id) is the message's identity: a user's devices share one room of ids. The same id with the same
  body, byte for byte, gets the first answer again, and no second row. With another body it gets `CONFLICT`; so keep the body as
  it was sent, and do not exchange a user for the conversation when you send again.
- **Horizon.** Ids are recognised for `horizon` seconds by their own time. Older ones, and those more than $ahead s ahead of the
  server's clock (always so many, whatever the horizon), get `STALE_ID`. If a message waited longer than that, look in the
  conversation's history whether its client id is there; if it is not, send it under a new id.
- **Checks** come in this order: the body's shape, the requests window, the target, the content's type, its size, the id's time, the
  repeat, and last the conversation (`NO_SUCH`, if it is none of one's own).
- **Order.** Messages of one connection get their seqs in the order in which they were sent. Have at most `requests` unanswered.
- **No answer** in time (20 s is a good time): close the connection, come back, and send all unanswered ones again, oldest first,
  with the same ids and bodies. Never send again on a connection that lives: it adds repeats and no safety.
- **A temporary error** (`temporary` is 1): nothing of it was kept. So that nothing behind it overtakes it, the server answers
  the messages that you have in flight behind it in the same way, or not at all, and ends the connection with `STORE_FAILED`.
  Send nothing further, come back after `retry_after`, and send again in order.
- **A lasting error**: tell the person, drop the message, go on.
- Keep messages that are not accepted yet where they outlive the process. If one is not accepted after 120 s, tell the person that
  it is not sent *yet*.

## Receiving

For each conversation keep `shown`: the seq up to which everything was shown (and kept) in order. When a row comes, by notify or by
history:

| seq | do |
|---|---|
| ≤ shown | drop it: a repeat |
| shown + 1 | show it; shown rises; then look whether rows held back follow |
| > shown + 1 | hold it back, and ask with HISTORY for shown + 1 to seq − 1 |

- **A conversation that you do not know**: its rows say neither its kind nor its peer, and the sender may be yourself, on another
  device. Send a SYNC request; its row says both.
- A **history answer** says “rows `first` to `last`, with nothing left out”. Rows of that range which are not in it are gone for
  good: after showing those that are there, `shown` is `last`. Never wait for a row that an answer has covered. If the answer covers
  less than was asked, ask for the rest. With `last` below `first` it covers nothing: there is nothing there yet. (It
  may be far below: a range above the head is answered with the `first` that was asked for, and the head as `last`.)
- **Floor**: rows up to it are gone. There is no use in asking for them: continue at `floor` + 1.
- A **tombstone** counts like any row, and shows nothing.
- **Own messages.** The device that sent a message gets no notify for it; its response is the news. Its seq counts as shown when its
  turn comes: rows below it that are missing are still missing. When a device meets a message of its own in a history answer, it
  knows it by the client id, and then it has been accepted, even if no response has come. One's *other* devices get a notify.
- **Sender**, device, seq and time are set by the server and can be relied on.
- **Content types and row types that you do not know** count like any row: show a placeholder.
- A device that is far behind need not read everything: show the newest rows (direction 1), and read on downwards as the person
  scrolls. Then order and completeness hold for the range that is shown.

## Receipts

A receipt is a state, not an event: “everything up to this seq”. Send one when rows were shown or kept (delivered), and when a
person has seen them (read); not one for each row, but the newest now and then. A lower seq than before changes nothing. After a
login, send again what was not answered.

Delivered moves this device's cursor and the user's delivered mark, the highest of all devices. Read moves the user's read mark, and
includes delivered. When a mark has moved, a RECEIPT notify goes out with the mark, the type and the user. A read that has moved both
sends one notify, of type read: raise delivered with it.

| in | delivered goes to | read goes to |
|---|---|---|
| a direct conversation | the other user's devices | those, and the reader's other devices |
| one with oneself | one's other devices | one's other devices |
| a group | nobody | the reader's other devices |

Keep, for each conversation, user and type, the highest seq that you were told.

**One's own rows.** Sending moves no cursor and no mark. A client takes its own rows as delivered and read: it leaves them out when it
counts what is unread (head − read has them in it), and need not acknowledge them. It may, since a receipt is for everything up to a
seq; and with `scope` 1 it should, or a conversation with only one's own rows is listed again and again.

## Sync and history

A SYNC request asks which conversations have changed since a *position*, a place in the order in which the store has committed. The
rows of its answer say for each where it stands, and HISTORY reads what is missing.

1. First page: `after` 0, `since` the kept position (0 on a new device), `scope` 0.
2. While `more` is 1: the same request, with `after` the last conversation id of the page before.
3. Keep the position of the *first* page as the next `since`, with the epoch, once all rows are worked in (for each, the head that
   it must reach is kept, or its rows are read).
4. For each row with `head` above `shown`: HISTORY from max(shown, floor) + 1 to head. `peer_delivered` and `peer_read` bring the
   receipts up to date.

**After a login** do this at once. The server has put the session among those that get notifies before it answers the login; what
was committed before is in the sync, what is committed after is pushed. Between the two lies nothing; some rows may come by both
ways, and seqs tell.

**After a SYNC notify** send a WINDOW notify with the present count, and then do the same. (Without room in the window, the session
is behind again at the next row.) The server sends notifies again from the SYNC request on, before it reads for the answer, so again
nothing lies between.

`scope` 1 leaves out conversations in which this device has acknowledged every row; receipts of others are then not seen.

A **history** request asks for seqs `first` to `last`, 1 ≤ first ≤ last; `last` may be above the head. The answer holds at most
`limit` rows, at most $MAX_ROWS, and at most what fits into a body; a higher limit is no error. The same goes for a sync.

## Signals

A signal matters only now: typing, ringing. It goes to every session of the conversation's members, or of the user named, but for
the one that sent it. It is not stored, and is left out where a session is behind; one that does not fit makes a session behind,
like any notify. It names a conversation or a user, not both. Its content is at most $signal_content bytes; a `lifetime` above
$signal_lifetime ms counts as that. A signal to a user carries conversation 0 and head 0.

Drop a signal when the server's time is past `expires`, or when a row of the conversation above `head` has come: it says what was
before that row.

## Devices

- **KICK** ends the session of another device of one's own, with `KICKED`. It may log in again, but not by itself.
- **DEVICES** lists one's devices, or removes one: its session ends in the same way, and its cursors are forgotten, so that its next
  login is a new device's.

## Frame by frame

Offsets are within the body. The arrow says who may send the frame. Any request may get `BAD_BODY`, `BAD_VALUE`, `BUSY` or
`UNAVAILABLE`; what else it may get stands with it.

$frames

## Between nodes

*Clients never speak this:* on a client's port these commands are unknown, and on a port for links there are no others. It stands here
because it travels in the same frames, and for whoever looks at what passes between the servers of a cluster.

A link is a connection between two nodes, or a node and a route server. The side that connected says HELLO like a client; both then
keep to the answer. LINK and PROOF stand where a client has LOGIN. After that, both sides are alike.

- **Who may link.** Over TLS (1.3) both show certificates of the cluster's authority, and each looks whether the other's is for the
  name that it gives itself, and for both ends of a connection (server and client). On one machine, over loopback or a Unix
  socket, a shared secret stands in for that: each side proves that it knows it, the side that was connected to first. A proof is
  HMAC-SHA256, by the secret, over one byte (0 by the side that connected, 1 by the other) and the bodies of the LINK request and of the
  LINK response, the latter with an empty proof. Over TLS the secret is empty.
- **Who may not.** The end is `LINK_REFUSED`, with the reason: a cluster protocol other than version $link_version, a clock that is more than
  $link_clocks s away, a wrong proof or certificate, a name of one's own, or one for which a newer run of that node has linked since. A
  second link of the same two ends the first.
- **Heartbeat**: each side pings every $link_beat s, whatever else it sends: an answer is the only proof that the other side was still there
  when it was asked. $link_silence s of silence are the end.
- **Window**: each side has at most $link_window notifies unacknowledged, and acknowledges those of the other with WINDOW.
  Nothing waits for room: whoever has none cuts the link, and the other side reads the log, as it does whenever it does not hear a node.
- Any body of another shape, and any command that is not one of these, PING, WINDOW or DISCONNECT, ends the link.

$link_frames

## Enumerations

Values that are not listed are refused with `BAD_VALUE` or `UNSUPPORTED` when a client sends them. A client that meets one passes
over what it does not understand.

$enums

## Status codes

In the header of a response. *Again?* says whether the same request can succeed later; it is also in the error's `temporary`. A
status that you do not know: go by `temporary`.

$status_table

## Disconnect codes

In a DISCONNECT notify. A code that you do not know: go by `come_back`.

$disconnect_table

A client that ends a connection because the server broke these rules uses the same codes.

## Bad input and its answer

In every case other connections notice nothing. Where a code stands without “error”, the connection ends with it.

$bad_input

## Extension rules

- Flags, features and statuses that one does not know are ignored; statuses and disconnect codes say in their bodies what to do.
- Commands that one does not know get `UNKNOWN_COMMAND`, or are passed over. The families of commands (the high byte) are:
  $families.
- A body changes only with a higher version, or with a feature bit that the client has asked for and the server has granted. Nobody
  has to be able to read fields that he has not agreed to.
- The same holds for fields of rows. Rows stand behind their sizes, so that one that cannot be understood can be passed over.
- New values of enumerations may appear in what a server sends; see [Enumerations](#enumerations).

## A login and a message, byte by byte

C → S is from the client to the server. Alice's phone logs in and writes to Bob; his phone acknowledges; she is told.

$story

## Test vectors

`vectors.json` holds every frame at least once, and the edges. It is one object:

- `frames`: each has `name`, `about`, `kind`, `command`, `request_id`, `flags`, `status`, `body` (field values by name, sizes left
  out) and `hex`, the whole frame. Numbers of 64 bits are strings of decimal digits; byte strings are hex; rows are lists of
  objects. A reader must get the values from the hex; a writer must get the hex from the values.
- `links`: the same, of what passes [between nodes](#between-nodes); a client needs none of it.
- `errors`: the same, of responses with an error.
- `refused`: bytes that are not in order: `state` is the connection's when they come (open as alice, who has one device and no
  conversation), `hex` the bytes, and `answer` what a server does that has the defaults, and one account: alice, with the password of
  `login-request`: `{"disconnect": code, "name": …}`, `{"status":
  code, "name": …}`, or `{"nothing": what happens instead}`.

Devices, ids and times in them are made up so that an eye finds them; real ones are random. The `client_id` is from 2026-01-01: a
server that knows bob refuses the message as stale, and one that does not has refused it already, with `NO_SUCH`. To try it, put the
present time into its first 6 bytes.
"""
)
