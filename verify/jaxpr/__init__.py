"""Programs as JAX traces them: read, run again another way, moved to the sides of their kinks."""
