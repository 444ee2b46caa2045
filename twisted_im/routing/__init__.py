"""The strategies by which a frame finds its audience: one module for each."""
