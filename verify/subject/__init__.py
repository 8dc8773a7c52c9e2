"""What is audited, what it promises, and the oracle that says what it should give."""
