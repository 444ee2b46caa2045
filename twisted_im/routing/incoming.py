"""What other nodes push, on its way to this node's sessions; and this node's own pushes, so that the two are in order.

Strategy: the pushes of one conversation that come from several nodes may cross, so those with a seq go through `Reorder`, this node's own
among them. Nothing is looked up for an envelope whose audience is not here: with the broadcast scheme that is most of them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from twisted_im.core.reorder import Reorder
from twisted_im.server.interfaces import Envelope
from twisted_im.wire.codec import tag
from twisted_im.wire.schema import Command, Kind

#: A message's notify, as far as its place in the log: header, conversation, seq.
_MESSAGE = tag(Kind.NOTIFY, Command.MESSAGE)
_HEAD = struct.Struct(">4xI8xQQ")


class Incoming:
    """The last step of a clustered node's router.

    Args:
        up: the node.
        hops: links that another node's push crosses to come here.
    """

    def __init__(self, up: Any, hops: int) -> None:
        self._up = up
        self._hops = hops
        self._counters = up.counters
        self._reorder: Reorder[Envelope] = Reorder()
        self._here: dict[bytes, int] = {}
        self._timer: Any = None

    def attach(self, user: bytes) -> None:
        """A session of a user has come."""
        self._here[user] = self._here.get(user, 0) + 1

    def detach(self, user: bytes) -> None:
        """One has gone."""
        left = self._here.get(user, 0) - 1
        if left > 0:
            self._here[user] = left
        else:
            self._here.pop(user, None)

    def strays(self, envelopes: Sequence[Envelope]) -> list[bytes]:
        """The users of their audiences who are not here."""
        here = self._here
        return list(dict.fromkeys(user for envelope in envelopes for user in envelope[1] if user not in here))

    def own(self, envelopes: Sequence[Envelope]) -> int:
        """This node's own pushes; gives how many sessions took one now."""
        return sum(self._deliver(envelopes))

    def came(self, envelopes: Sequence[Envelope]) -> None:
        """Another node's; those that are for nobody here are counted as wasted."""
        here = self._here
        wanted = [envelope for envelope in envelopes if any(user in here for user in envelope[1])]
        self._counters.copies_taken += len(envelopes)
        self._counters.copies_wasted += len(envelopes) - len(wanted)
        self._counters.hops += self._hops * len(wanted)
        if wanted:
            messages, _ = self._deliver(wanted)
            self._counters.delivered += messages

    def _deliver(self, envelopes: Sequence[Envelope]) -> tuple[int, int]:
        """Pushes them, in order; gives how many sessions took messages, and how many took something else."""
        messages: list[Envelope] = []
        others: list[Envelope] = []
        now = self._up.turn.now()
        for envelope in envelopes:
            frame = envelope[0]
            if len(frame) >= _HEAD.size:
                command, conversation, seq = _HEAD.unpack_from(frame)
                if command == _MESSAGE:
                    messages += self._reorder.put(conversation, seq, envelope, now)
                    continue
            others.append(envelope)
        if self._timer is None:
            self._watch()
        deliver = self._up.deliver_local
        return deliver(messages) if messages else 0, deliver(others) if others else 0

    def _watch(self) -> None:
        deadline = self._reorder.deadline()
        if deadline is not None:
            turn = self._up.turn
            self._timer = turn.reactor.callLater(max(deadline - turn.now(), 0.0), self._late)

    def _late(self) -> None:
        self._timer = None
        late = self._reorder.due(self._up.turn.now())
        if late:
            self._counters.delivered += self._up.deliver_local(late)
        self._watch()

    def stop(self) -> None:
        """What is held is not pushed: this node ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
