"""Layers, functions, inputs and audits by name: read from texts and tokens, which are data."""
