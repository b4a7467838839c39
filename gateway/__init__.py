"""The gateway: bots, prompts and HTTP in front of a model served by TorchServe. Needs no torch."""
