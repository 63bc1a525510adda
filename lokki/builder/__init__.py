"""Making of a flow what AWS takes: packages, state machine, template."""
