"""How Sphinx builds the documentation.

Strategy: pages are Markdown, the reference is read from the docstrings, and the build runs with `-W`, so that a docstring which cannot be
read, or a link that leads nowhere, is as loud as a failed test. The metadata comes from setup.cfg, where it stands once.
"""

from __future__ import annotations

import configparser
import importlib
import inspect
import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.util.docutils import SphinxDirective
from zope.interface.interface import Element, InterfaceClass, Method

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

metadata = configparser.ConfigParser()
metadata.read(ROOT / "setup.cfg", encoding="utf-8")

project = metadata["metadata"]["name"]
author = metadata["metadata"]["author"]
release = version = metadata["metadata"]["version"]
copyright = author

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = project

# Links to headings, in and between pages, are checked too.
myst_heading_anchors = 4

default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False


class Interfaces(SphinxDirective):
    """`.. interfaces:: module`: its zope interfaces with their methods, which autodoc takes for plain objects."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = importlib.import_module(self.arguments[0])
        lines = [f".. py:currentmodule:: {module.__name__}", ""]
        for found in vars(module).values():
            if isinstance(found, InterfaceClass) and found.__module__ == module.__name__:
                lines += [f".. py:class:: {found.__name__}", *self.indented(found, "   ")]
                for name, member in found.namesAndDescriptions():
                    what = f"py:method:: {name}{member.getSignatureString()}" if isinstance(member, Method) else f"py:attribute:: {name}"
                    lines += [f"   .. {what}", *self.indented(member, "      ")]
        return self.parse_text_to_nodes("\n".join(lines))

    def indented(self, described: Element, margin: str) -> list[str]:
        """A docstring as the body of a directive."""
        text = GoogleDocstring(inspect.cleandoc(described.__doc__ or ""), self.config)
        return ["", *[margin + line for line in str(text).splitlines()], ""]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_directive("interfaces", Interfaces)
