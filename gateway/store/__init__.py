"""Where bots are kept: the port, and its implementations in SQL and in memory."""
