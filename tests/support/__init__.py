"""Real servers on loopback and other helpers that tests share."""
