"""`python -m twisted_im chat alice@host:port`: talk to somebody, line by line. The conversation is `twisted_im.client.terminal`'s."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from twisted.internet import stdio
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import react

from twisted_im.client.client import Client
from twisted_im.client.destination import split_address
from twisted_im.client.state import FileState
from twisted_im.client.terminal import Terminal
from twisted_im.commands.asking import hidden
from twisted_im.errors import ImError, Status
from twisted_im.wire.schema import LoginMethod

EXAMPLES = """Examples:
  python -m twisted_im chat alice@127.0.0.1:7777 --anonymous
  python -m twisted_im chat alice@im.example.org:7778 --tls --to bob
  echo "The backup is done." | python -m twisted_im chat robot@im.example.org:7778 --tls --password-file robot.txt --to alice
A password is needed once: after that the server knows this device again, unless it stays away for long.
The status is 0 if everything was sent, else 1."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("who", metavar="NAME@HOST:PORT", help="who you are, and where the server is")
    parser.add_argument("--to", default="", metavar="NAME", help="whom to talk to")
    parser.add_argument("--tls", action="store_true", help="the port speaks TLS")
    parser.add_argument("--ca", "--trust", metavar="FILE", help="certificates to trust (PEM) instead of the system's; implies --tls")
    parser.add_argument("--certificate", metavar="FILE", help="your key and certificate (PEM), if the server asks for one; implies --tls")
    proof = parser.add_mutually_exclusive_group()
    proof.add_argument("--anonymous", action="store_true", help="log in without a password, where the server allows it")
    proof.add_argument("--password-file", metavar="FILE", help="a file whose first line is the password; by default you are asked")
    proof.add_argument("--token-file", metavar="FILE", help="a file with a token instead of a password; it is read at each login")
    parser.add_argument("--tenant", default="", help="your tenant; by default the default one")
    memory = parser.add_mutually_exclusive_group()
    memory.add_argument("--state", metavar="FILE", help="what this device remembers; by default a file for each name and server")
    memory.add_argument("--new-device", action="store_true", help="be another device than last time, and remember nothing")
    parser.add_argument("--label", default="terminal", help="what your other devices call this one")


def run(arguments: argparse.Namespace) -> int:
    try:
        options = client_options(arguments)
        options |= {"secret": secret(arguments, options.get("state")), "method": method(arguments)}
    except (ImError, OSError, ValueError) as error:
        return complain(error)
    status = 1

    async def main(reactor: Any) -> None:
        nonlocal status
        terminal = Terminal(arguments.to)
        try:
            client = Client(reactor=reactor, **options, **terminal.callbacks())
        except (ImError, OSError, ValueError) as error:
            status = complain(error)
            return
        terminal.use(client)
        reactor.addSystemEventTrigger("before", "shutdown", lambda: client.stopService() if client.running else None)
        stdio.StandardIO(terminal, reactor=reactor)
        client.startService()
        status = await terminal.done
        await client.stopService()
        terminal.close()
        await terminal.closed.addTimeout(2, reactor)

    try:
        react(lambda reactor: ensureDeferred(main(reactor)))
    except SystemExit as end:
        return status if not end.code else 1
    finally:
        for descriptor in (0, 1):
            os.set_blocking(descriptor, True)  # StandardIO has set it, for whoever shares the terminal as well
    return status


def complain(error: Exception) -> int:
    """Says what is wrong in one line; gives the status."""
    if isinstance(error, OSError) and error.filename is not None:
        reason = f"{error.filename}: {(error.strerror or 'it cannot be read').lower()}"
    else:
        reason = error.reason if isinstance(error, ImError) else str(error)
    print(f"chat: {reason}", file=sys.stderr)
    return 1


def client_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the client is made with, but for its secret.

    Raises:
        ValueError: the name or the address cannot be understood; the message says what it should look like.
        OSError: the folder for the state cannot be made.
    """
    uid, at, address = arguments.who.rpartition("@")
    if not at or not uid:
        raise ValueError(f"{arguments.who!r} is not NAME@HOST:PORT, such as alice@127.0.0.1:7777")
    places = [split_address(place) for place in address.split(",")]
    tls = arguments.tls or (arguments.ca, arguments.certificate) != (None, None) or any(scheme == "tls" for scheme, _, _ in places)
    kind = "tls" if tls else "tcp"
    options: dict[str, Any] = {
        "endpoint": ",".join(f"{kind}:{f'[{host}]' if ':' in host else host}:{port}" for _, host, port in places),
        "uid": uid,
        "tenant": arguments.tenant,
        "label": arguments.label,
        "trust": arguments.ca,
        "certificate": arguments.certificate,
    }
    if not arguments.new_device:
        options["state"] = arguments.state or default_state(arguments.tenant, uid, "{1}:{2}".format(*places[0]))
    return options


def default_state(tenant: str, uid: str, address: str) -> Path:
    """A file of its own for each user and server, where the system wants such files (XDG base directories)."""
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "twisted_im"
    folder.mkdir(parents=True, exist_ok=True)
    name = "@".join(quote(part, safe="") for part in (tenant, uid, address) if part)
    return folder / f"{name}.json"


def method(arguments: argparse.Namespace) -> LoginMethod:
    """How the secret proves who it is."""
    if arguments.anonymous:
        return LoginMethod.ANONYMOUS
    return LoginMethod.TOKEN if arguments.token_file is not None else LoginMethod.PASSWORD


def secret(arguments: argparse.Namespace, state: str | os.PathLike[str] | None) -> bytes | Callable[[], bytes]:
    """The password, from the file or from the person; or what asks for it, if the server may know this device again without one.

    Raises:
        ValueError: there is nobody to ask, or the state is no state.
        OSError: the file cannot be read.
    """
    if arguments.anonymous:
        return b""
    if arguments.token_file is not None:
        token = Path(arguments.token_file)
        token.read_bytes()
        return lambda: token.read_bytes().strip()
    if arguments.password_file is not None:
        return (Path(arguments.password_file).read_bytes().splitlines() or [b""])[0]
    kept = FileState(state).load() if state is not None else None
    return asked_later(arguments) if kept is not None and kept.resume else asked(arguments)


def asked(arguments: argparse.Namespace) -> bytes:
    """What the person types.

    Raises:
        ValueError: there is nobody to ask.
    """
    if not sys.stdin.isatty():
        raise ValueError("there is nobody to ask for a password: give --password-file FILE, or --anonymous")
    return hidden(f"Password for {arguments.who}: ").encode()


def asked_later(arguments: argparse.Namespace) -> Callable[[], bytes]:
    """Asks the first time that it is called: the server has forgotten the device."""
    typed: list[bytes] = []

    def ask() -> bytes:
        if not typed:
            try:
                typed.append(asked(arguments))
            except (EOFError, KeyboardInterrupt):
                raise ImError(Status.NOT_AUTHENTICATED, "no password was typed") from None
            except ValueError:
                raise ImError(Status.NOT_AUTHENTICATED, "the server wants the password again, and nobody is there to type it") from None
        return typed[0]

    return ask
