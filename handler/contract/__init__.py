"""What the gateway, the handler and training agree on. Standard library only."""
