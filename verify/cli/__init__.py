"""The command line, lists of cases and scans of packages."""
