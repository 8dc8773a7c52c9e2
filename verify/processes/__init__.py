"""Processes that run code of strangers, what they keep on disk, and journals of campaigns."""
