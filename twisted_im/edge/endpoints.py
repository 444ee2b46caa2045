"""Endpoint strings as operators write them: what they mean here, whether they can be used, and what stood in the way of a port.

Strategy: `edge.tls` and Twisted parse them, and raise whatever their parts raise; here that becomes one line that says what to do. A port
that is opened without a word about its interface is this machine's own.
"""

from __future__ import annotations

import errno
import os
import re
from typing import Any

from twisted.internet.error import CannotListenError

from twisted_im.cork import corked
from twisted_im.edge.tls import TlsEndpoint, endpoint_from
from twisted_im.pem import CertificateError

DEFAULT_LISTEN = "tcp:7777:interface=127.0.0.1"

#: What an endpoint string may say without naming it, in this order; only as far as somebody here asks for it.
POSITIONS = {
    "tcp": ("port", "interface", "backlog"),
    "tcp6": ("port", "backlog", "interface"),
    "ssl": ("port", "privateKey", "certKey", "interface", "backlog"),
    "tls": ("path", "port", "interface", "backlog"),
    "unix": ("address", "mode", "backlog"),
}


def parts_of(description: str) -> dict[str, str]:
    """What an endpoint string says, by name; of a kind that is not listed above, only what it names itself."""
    kind, *parts = re.split(r"(?<!\\):", description)
    plain = [part for part in parts if not re.search(r"(?<!\\)=", part)]
    found = dict(zip(POSITIONS.get(kind.lower(), ()), plain, strict=False))
    for part in parts:
        name, equals, value = part.partition("=")
        if equals and part not in plain:
            found[name] = value
    return found


#: What listens on every address of the machine unless it is told better, and how each names this machine alone.
_OPEN_TO_ALL = {"tcp": "127.0.0.1", "ssl": "127.0.0.1", "tcp6": r"\:\:1", "tls": "127.0.0.1"}


def local_unless_said(description: str) -> str:
    """The endpoint string, with this machine's own address if it names no interface.

    Raises:
        ValueError: it names an empty one, which would be all of them.
    """
    kind, _, rest = description.partition(":")
    if kind.lower() == "haproxy":
        return f"{kind}:{local_unless_said(rest)}"
    own = _OPEN_TO_ALL.get(kind.lower())
    if own is None:
        return description
    interface = parts_of(description).get("interface")
    if interface == "":
        raise ValueError("an empty interface is every one: say interface=0.0.0.0, or leave it out for this machine only")
    return description if interface else f"{description}:interface={own}"


def usable(description: str) -> Any:
    """The endpoint of an endpoint string, certificates and keys read.

    Raises:
        ValueError: it cannot be used; says why, and what can be.
    """
    from twisted.internet import reactor

    try:
        return endpoint_from(corked(reactor), local_unless_said(description))
    except (OSError, CertificateError) as error:
        raise ValueError(explained(error)) from None
    except Exception as error:  # endpoint parsers raise whatever their parts raise
        examples = f"{DEFAULT_LISTEN} or tls:im.pem:port=7778"
        raise ValueError(f"not an endpoint that can be used ({explained(error)}); for example {examples}") from None


def private_keys(description: str) -> list[str]:
    """The paths of the private keys that an endpoint reads."""
    endpoint = usable(description)
    return [str(path) for path in endpoint.certificates.keys] if isinstance(endpoint, TlsEndpoint) else []


def explained(error: BaseException | None) -> str:
    """What stands in the way of a start, in words, and what can be done."""
    if isinstance(error, CannotListenError):
        where = f"{error.interface}:{error.port}" if isinstance(error.port, int) else os.fsdecode(error.port)
        number = getattr(error.socketError, "errno", None)  # a locked Unix socket has words instead
        busy = number == errno.EADDRINUSE or not isinstance(error.socketError, OSError)
        why = os.strerror(errno.EADDRINUSE) if busy else error.socketError.strerror
        return f"{where}: {why}; {'stop what uses it, or ' if busy else ''}change --listen"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename2 or error.filename)}: {error.strerror}"
    return str(error) or type(error).__name__
