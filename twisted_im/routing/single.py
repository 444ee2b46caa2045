"""One server: the receiver is parsed out and the message is forwarded at once; nothing leaves the node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zope.interface import implementer

from twisted_im.server.interfaces import Envelope, IRouter


@implementer(IRouter)
class SingleRouter:
    """The strategy of a server that is alone."""

    strategy = "single"
    links = False

    def __init__(self) -> None:
        self._up: Any = None

    def start(self, up: Any) -> None:
        self._up = up

    def stop(self) -> None:
        """Nothing is open."""

    def attach(self, session: Any) -> None:
        """The node's own table has it already."""

    def detach(self, session: Any) -> None:
        """The node's own table has let it go already."""

    def route(self, envelopes: Sequence[Envelope]) -> int:
        reached: int = self._up.deliver_local(envelopes)
        return reached
