"""From what broke a law to findings, and whether a pass was earned."""
