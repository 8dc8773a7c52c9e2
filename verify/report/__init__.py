"""What an audit found, as text, pages, SARIF, JUnit and JSON. Knows nothing of audits."""
