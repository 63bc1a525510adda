"""Values, names and checks that know nothing of flows."""
