"""What travels inside the model archive: contract, scheduler, engines and the TorchServe handler."""
