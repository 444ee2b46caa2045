"""What a node can do for its sessions. Each feature registers its commands with the node; this list is all that names them."""

from __future__ import annotations

from twisted_im.server.access import Access
from twisted_im.server.features.history import History
from twisted_im.server.features.messages import Messages
from twisted_im.server.features.signals import Signals

FEATURES = (Access, Messages, History, Signals)
