"""Starts, watches and stops the processes of a served bot: TorchServe and the gateway."""
