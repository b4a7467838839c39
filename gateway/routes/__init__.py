"""The HTTP interface. A route reads the request, calls what does the work, and shapes the reply."""
