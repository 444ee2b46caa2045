"""A whole installation in one process, under virtual time: servers, stores and clients as they are shipped, and everything between them
drawn from a seed."""
