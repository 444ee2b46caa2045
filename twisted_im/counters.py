"""The one place of figures: what this process has done so far, as plain integers.

Strategy: the hot path adds to local sums and puts them here once a turn or once a batch; whoever shows figures (the log line at
the end, a test, later a metrics page) takes a snapshot.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Counters:
    """Sums since the start; `sessions` and `connections` are the present numbers."""

    frames_in: int = 0  #: whole frames received
    bytes_in: int = 0
    frames_out: int = 0
    bytes_out: int = 0
    writes: int = 0  #: socket writes: one for each connection and reactor turn
    connections: int = 0
    sessions: int = 0
    logins: int = 0
    refused: int = 0  #: logins refused
    resumed: int = 0  #: logins granted by a resume token
    held_back: int = 0  #: logins that were not judged, after too many wrong secrets
    accepted: int = 0  #: messages stored
    duplicates: int = 0  #: messages that came again and got their first answer
    delivered: int = 0  #: message notifies pushed to devices
    receipts: int = 0  #: receipts that moved a cursor
    behind: int = 0  #: times that a slow session was told to pull
    signals: int = 0
    copies_sent: int = 0  #: envelopes given to links with other nodes and route servers, one for each link
    copies_taken: int = 0  #: envelopes that came by a link
    copies_wasted: int = 0  #: of these, those that were for nobody here
    hops: int = 0  #: links that the other copies have crossed to come here: one from a node, two by way of a route server
    link_bytes: int = 0  #: bytes given to links, of whatever kind: copies, sessions, heartbeats
    copy_bytes: int = 0  #: of these, the copies with their audiences
    look_ups: int = 0  #: users who were looked for in a route table elsewhere
    stale_routes: int = 0  #: entries for sessions that are not here, found when somebody sent to them, and removed
    table_away_seconds: float = 0.0  #: in which a server of the route table could not be asked; of several, the sum
    errors: int = 0  #: requests answered with an error
    disconnects: int = 0  #: connections that this side ended with a code
    redirected: int = 0  #: connections that were sent to another node
    doubt_seconds: float = 0.0  #: in which at least one peer was not heard, and the store was read instead
    commits: int = 0  #: store transactions
    turns: int = 0  #: reactor turns that had work at their end
    turn_seconds: float = 0.0  #: spent at the end of turns: commits, fan-out, writes
    longest_turn: float = 0.0  #: seconds

    def snapshot(self) -> dict[str, float]:
        """A copy, by name."""
        return asdict(self)
