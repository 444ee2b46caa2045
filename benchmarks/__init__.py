"""Benchmarks: run by `python -m benchmarks`, not installed with the package.

Strategy: what is measured runs as an operator would run it, in its own process on its own core, and beside it, in the same run and
under the same load, a small C relay that does nothing but pass the six packets on. On a machine that others use too, the ratio of
the two is worth more than either figure.
"""
