"""The client library: one device of one user. `twisted_im.client.client` is where to begin. Nothing here needs the server's code."""
