"""Compiles the C programs of `benchmarks/limit`, outside the tree.

Strategy: the C sources name tags, sizes and offsets that they do not define. They stand in a header that is written here from the
declarations of `twisted_im.wire`, so a change of the wire reaches C at the next run. The programs are kept in the user's cache
under a hash of everything that went into them; a changed source is another file, and nothing stale is ever run.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import re
import shutil
import struct
import subprocess
import tempfile
from enum import IntEnum
from pathlib import Path

from twisted_im.errors import Status
from twisted_im.wire import schema
from twisted_im.wire.codec import CODECS, ERROR, Codec, tag

SOURCES = Path(__file__).parent / "limit"
FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror")


class BuildError(Exception):
    """The compiler refused a source; the text is what it said."""


def wire_header() -> str:
    """The text of wire.h: TAG_kind_command, SIZE_… (of the fixed fields), AT_…_field (offset of a fixed field), and the codes."""
    lines = [
        "/* Written by benchmarks/build.py from the declarations of twisted_im.wire. */",
        f"#define HEADER_SIZE {schema.HEADER_SIZE}",
        f"#define WIRE_VERSION {schema.VERSION}",
        f"#define MAX_UID {schema.MAX_UID}",
        f"#define STRANGER_MAX_BODY {schema.STRANGER_MAX_BODY}",
        f"#define DEFAULT_MAX_BODY {schema.DEFAULT_MAX_BODY}",
    ]
    for (kind, command), codec in CODECS.items():
        name = f"{kind.name}_{command.name}"
        lines.append(f"#define TAG_{name} 0x{tag(kind, command):08x}u")
        lines += _layout(name, codec)
    lines += _layout("ERROR", ERROR)
    for codes in (schema.Kind, Status, schema.LoginMethod, schema.ContentType, schema.RowType, schema.ReceiptType):
        lines += _codes(codes)
    return "\n".join(lines) + "\n"


def _layout(name: str, codec: Codec) -> list[str]:
    lines, at = [f"#define SIZE_{name} {codec.fixed.size}"], 0
    for field, form in zip(codec.fields, re.findall(r"\d*[a-zA-Z]", codec.fixed.format), strict=False):
        lines.append(f"#define AT_{name}_{field.upper()} {at}")
        at += struct.calcsize(">" + form)
    return lines


def _codes(codes: type[IntEnum]) -> list[str]:
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", codes.__name__).upper()
    return [f"#define {prefix}_{code.name} {int(code)}" for code in codes]


def compiler() -> str | None:
    """The path of a C compiler, or None if the machine has none."""
    return next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)


def build(program: str, *defines: str) -> Path:
    """Compiles one program, unless that was done before.

    Args:
        program: "relay" or "load".
        defines: macros for it, such as "PLANT_LOSS=100".

    Returns:
        The path of the executable.

    Raises:
        BuildError: there is no compiler, or it refuses the source.
    """
    found = compiler()
    if found is None:
        raise BuildError("no C compiler: install gcc or clang (on Debian: apt-get install gcc)")
    source, header = SOURCES / f"{program}.c", wire_header()
    parts = (found, *FLAGS, *defines, header, (SOURCES / "frame.h").read_text(), source.read_text())
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    folder = _cache()
    target = folder / f"{program}-{key}"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=folder) as work:
        (Path(work) / "wire.h").write_text(header)
        built = Path(work) / program
        command = [found, *FLAGS, *(f"-D{define}" for define in defines), f"-I{work}", "-o", str(built), str(source)]
        outcome = subprocess.run(command, capture_output=True, text=True, check=False)
        if outcome.returncode:
            raise BuildError(f"{' '.join(command)}\n{outcome.stderr}")
        built.replace(target)
    return target


def _cache() -> Path:
    """The user's own cache folder; not a shared one, for what lies there is executed."""
    base = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(base) if base else Path.home() / ".cache") / "twisted_im" / "benchmarks"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return _own_folder()


@functools.cache
def _own_folder() -> Path:
    """A folder for this run only, where the user has no cache."""
    folder = tempfile.mkdtemp(prefix="twisted_im-benchmarks-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
