"""A node and its parts. `twisted_im.server.node` is where to begin."""
