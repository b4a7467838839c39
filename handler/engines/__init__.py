"""Engines: everything that turns token ids into logits. `base.py` is the port, each other module one adapter."""
