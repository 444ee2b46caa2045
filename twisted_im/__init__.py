"""twisted_im: an instant-messaging server, and a client library, for Twisted programs.

The names in `__all__` are the public ones; everything else may change. docs/embedding.md shows them at work. They are loaded when they
are first used, so that a client does not load a server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twisted_im.client.client import Client as Client
    from twisted_im.core.connection import Limits as Limits
    from twisted_im.counters import Counters as Counters
    from twisted_im.edge.peers import LinkEnds as LinkEnds
    from twisted_im.errors import Disconnect as Disconnect
    from twisted_im.errors import ImError as ImError
    from twisted_im.errors import LocalProtocolError as LocalProtocolError
    from twisted_im.errors import RemoteProtocolError as RemoteProtocolError
    from twisted_im.errors import Status as Status
    from twisted_im.routing.broadcast import BroadcastRouter as BroadcastRouter
    from twisted_im.routing.mesh import MeshRouter as MeshRouter
    from twisted_im.routing.route_server import RouteServer as RouteServer
    from twisted_im.routing.single import SingleRouter as SingleRouter
    from twisted_im.routing.star import StarRouter as StarRouter
    from twisted_im.server.authenticators import Anybody as Anybody
    from twisted_im.server.authenticators import Methods as Methods
    from twisted_im.server.authenticators import PasswordFile as PasswordFile
    from twisted_im.server.authenticators import StoreAccounts as StoreAccounts
    from twisted_im.server.guesses import Guesses as Guesses
    from twisted_im.server.interfaces import Credentials as Credentials
    from twisted_im.server.interfaces import IAuthenticator as IAuthenticator
    from twisted_im.server.interfaces import IPasswords as IPasswords
    from twisted_im.server.interfaces import IRouter as IRouter
    from twisted_im.server.interfaces import IStore as IStore
    from twisted_im.server.interfaces import StoreError as StoreError
    from twisted_im.server.passwords import PasswordChecks as PasswordChecks
    from twisted_im.server.tokens import SignedTokens as SignedTokens
    from twisted_im.service import ImServer as ImServer
    from twisted_im.storage.memory import MemoryStore as MemoryStore
    from twisted_im.storage.sqlite import SqliteStore as SqliteStore
    from twisted_im.wire.schema import ContentType as ContentType
    from twisted_im.wire.schema import LoginMethod as LoginMethod

__version__ = "0.1.0"

_HOMES = {
    "Anybody": "server.authenticators",
    "BroadcastRouter": "routing.broadcast",
    "Client": "client.client",
    "ContentType": "wire.schema",
    "Counters": "counters",
    "Credentials": "server.interfaces",
    "Disconnect": "errors",
    "Guesses": "server.guesses",
    "IAuthenticator": "server.interfaces",
    "IPasswords": "server.interfaces",
    "IRouter": "server.interfaces",
    "IStore": "server.interfaces",
    "ImError": "errors",
    "ImServer": "service",
    "Limits": "core.connection",
    "LinkEnds": "edge.peers",
    "LocalProtocolError": "errors",
    "LoginMethod": "wire.schema",
    "MemoryStore": "storage.memory",
    "MeshRouter": "routing.mesh",
    "Methods": "server.authenticators",
    "PasswordChecks": "server.passwords",
    "PasswordFile": "server.authenticators",
    "RemoteProtocolError": "errors",
    "RouteServer": "routing.route_server",
    "SignedTokens": "server.tokens",
    "SingleRouter": "routing.single",
    "SqliteStore": "storage.sqlite",
    "StarRouter": "routing.star",
    "Status": "errors",
    "StoreAccounts": "server.authenticators",
    "StoreError": "server.interfaces",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"twisted_im.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
