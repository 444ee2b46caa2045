"""The strategy of a server that is alone keeps the routers' contract."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from tests.routing.contract import RouterContract
from twisted_im.routing.single import SingleRouter


class TestSingle(RouterContract, TestCase):
    def make_router(self) -> SingleRouter:
        return SingleRouter()
