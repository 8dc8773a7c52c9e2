"""Random networks: drawn, compiled, judged, located, by the million."""
