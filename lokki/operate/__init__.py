"""Running a deployed flow: starting, watching, reading and ending its runs."""
