"""Broadcast through a route server: it copies every message to every other node, and those without the receiver ignore it."""

from __future__ import annotations

from twisted_im.routing.star import StarRouter


class BroadcastRouter(StarRouter):
    """The broadcast strategy: nobody says where a session is, so nothing of it can be stale, and N - 1 copies are made of each message."""

    strategy = "broadcast"
    attaches = False
