"""The subject and its oracle, run: each program compiled once, each result kept."""
