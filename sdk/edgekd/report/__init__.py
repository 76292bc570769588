"""What a conversion says of itself: ``report.json``, and the tables and the page made of it."""

SCHEMA_VERSION = 2
"""Of the reports of all commands; fields may be added without raising it."""
