"""To come."""

SAYS = {}
