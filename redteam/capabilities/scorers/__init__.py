"""Ways to score a capability, one scorer a file."""
