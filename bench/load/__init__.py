"""People who use a running stack, more of them than it can serve, and what becomes of it and of them."""
