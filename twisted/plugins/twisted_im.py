"""What makes `twistd im` and `twist im` known to Twisted.

Strategy: Twisted imports every plugin at each start of `twistd`, whatever it runs, so this file says only where the service is made.
There is no `__init__.py` beside it: the folder joins Twisted's own `twisted.plugins`.
"""

from __future__ import annotations

from twisted.application.service import ServiceMaker

im = ServiceMaker("twisted_im", "twisted_im.tap", "An instant-messaging server.", "im")
