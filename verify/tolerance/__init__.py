"""How far off a right answer may be, and what is nobody's mistake."""
