"""What a step's package holds of the user's project."""
