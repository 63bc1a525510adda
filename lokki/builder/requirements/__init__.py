"""The libraries that a step's package holds."""
