"""Lambda functions on this machine."""
