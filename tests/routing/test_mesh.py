"""The routed strategy over a mesh."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from tests.routing.clustered import ClusteredContract, ends
from twisted_im.routing.mesh import MeshRouter


class TestMeshRouter(ClusteredContract, TestCase):
    """Three nodes on real sockets."""

    def make_routers(self, count: int) -> list[MeshRouter]:
        return [MeshRouter(ends()) for _ in range(count)]

    def costs(self) -> tuple[int, int]:
        return 1, 0
