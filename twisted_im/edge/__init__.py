"""Where connections come in: one module for each kind of door."""
