"""Deploying a built flow: what is there, what would change, and doing it."""
