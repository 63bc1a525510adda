"""What a user sees of a run while it is in progress."""
