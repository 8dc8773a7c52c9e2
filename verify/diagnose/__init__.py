"""Which kind of mistake it is, read off its numbers."""
