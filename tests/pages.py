"""The code on a page of the documentation, for a test that runs it as its readers would."""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def blocks(page: str) -> list[str]:
    """The Python code blocks of a page in docs/, as they stand there."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)


def environment() -> dict[str, str]:
    """One in which a new interpreter finds the checkout."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
