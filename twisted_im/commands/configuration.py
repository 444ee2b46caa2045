"""`python -m twisted_im configuration`: writes the page of all settings and the example file, or says what of them is stale.

Strategy: names, bounds, defaults and their meaning come from the declaration in `twisted_im.config`; only the prose is here.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from string import Template

from twisted_im.commands import pages
from twisted_im.commands.pages import table
from twisted_im.config import CONFIG, PREFIX, ROUTE_SETTINGS, SETTINGS, Setting, as_toml

EXAMPLES = """Examples:
  python -m twisted_im configuration
  python -m twisted_im configuration --check"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pages.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    return pages.run("configuration", FILES, arguments)


_PAGE = Template("""# Configuration

Every setting of `twistd im`. This page, and the [example](#an-example) at its end, are written from the declaration in
`twisted_im/config.py` by `python -m twisted_im configuration`.

## Three places

A setting may be said by a flag, by an environment variable, or in a TOML file. They have one name, and take the same values:

| | |
|---|---|
| a flag | `twistd im --max-body=32768` |
| a variable | `${prefix}MAX_BODY=32768 twistd im` |
| the file | `max-body = 32768` below `[limits]`, and `twistd im --config=twisted_im.toml`, or `${config}=twisted_im.toml twistd im` |

A flag is stronger than a variable, and a variable is stronger than the file; what nobody says has its default. That goes for each setting
by itself.

A list is a list in the file, a flag that is given several times, and in a variable its items between spaces or commas; an item with a
space or a comma in it belongs in the file or in a flag. A stronger list takes the place of a weaker one whole. An empty variable says
nothing. A variable that begins with `${prefix}` and is no setting is a mistake, but for those that Kubernetes makes for a service.

A switch is a flag without a value, and `true` or `false` in a variable or in the file.

Relative paths are seen from the folder that the server runs in: where it was started, or what twistd's `--rundir` says.

The data directory is made when something is kept in it, or when it is named. Only its owner may see into it.

## Look before you start

`twistd im --check-config`, with the flags, variables and file of the real start, starts nothing. It says each setting, its value and where
that comes from, as a TOML file that would say it again:

```text
$$ ${prefix}NAME=im-1 twistd im --config=twisted_im.toml --heartbeat=60 --check-config
name = "im-1"                           # ${prefix}NAME

[limits]
heartbeat = 60                          # --heartbeat
window = 32                             # twisted_im.toml: limits.window
```

It looks at whatever can be seen without starting: names, types and bounds in all three places; endpoints; certificates and keys; the
password file; the data directory; the limit on open files. If something is wrong it says that instead, one line for each mistake, with a
status of 1:

```text
twisted_im: twisted_im.toml: there is no setting hartbeat; did you mean limits.heartbeat?
twisted_im: ${prefix}WINDOW takes a whole number from 2 to 65535, not '0'
```

A start makes the same checks, and ends with the first of these lines.

## Secrets

No secret is the value of a setting, since other users of the machine may see a command line or an environment: where there is one, the
setting takes the path of a file. A password file, a private key, or a file with a secret that others than its owner may read is a
warning: in the log, and from `--check-config`.

$sections
## An example

`docs/twisted_im.toml`, every setting with a value that is not always its default:

```toml
$example```
""")

#: section → what is below its heading
_SECTIONS = {
    "": "The server",
    "limits": "Limits",
}


#: What stands above a route server's settings.
_ROUTE = (
    "`twistd im route` ([a cluster](operations.md#a-cluster)) takes these, in the same three places, from a file and an environment of its"
    " own."
)


def _table(settings: Sequence[Setting]) -> str:
    rows = [
        (
            "<br>".join(f"`{name}`" for name in (setting.key, setting.flag, setting.variable)),
            setting.kind.allowed.partition(" ")[2],
            f"`{setting.default_text}`" if setting.default_text else "none",
            setting.help + (f" Only with `{setting.only[0]} = {' or '.join(setting.only[1])}`." if setting.only else ""),
        )
        for setting in settings
    ]
    return table(("file, flag, variable", "takes", "default", "what it says"), rows)


def page() -> str:
    """docs/configuration.md."""
    sections = []
    for section in dict.fromkeys(setting.section for setting in SETTINGS):
        below = f"In the file below `[{section}]`.\n\n" if section else ""
        sections.append(f"## {_SECTIONS[section]}\n\n{below}{_table([each for each in SETTINGS if each.section == section])}\n")
    sections.append(f"## A route server\n\n{_ROUTE}\n\n{_table(ROUTE_SETTINGS)}\n")
    return _PAGE.substitute(prefix=PREFIX, config=CONFIG.variable, sections="\n".join(sections), example=example())


def example() -> str:
    """docs/twisted_im.toml."""
    lines = [
        "# An example for twistd im --config=twisted_im.toml. Every setting is here; leave out what you do not want to change. What is",
        "# for a cluster alone has a # before it.",
        "# What each may be: docs/configuration.md. What would run: twistd im --config=twisted_im.toml --check-config",
    ]
    section = ""
    examples = {setting.name: setting.example for setting in SETTINGS}
    for setting in SETTINGS:
        if setting.section != section:
            section = setting.section
            lines += ["", f"[{section}]"]
        line = f"{setting.name} = {as_toml(setting.example)}"
        if setting.only is not None and examples[setting.only[0]] not in setting.only[1]:
            line = f"# {line}"
        lines += ["", f"# {setting.help} [default: {setting.default_text or 'none'}]", line]
    return "\n".join(lines) + "\n"


FILES = {"configuration.md": page, "twisted_im.toml": example}
