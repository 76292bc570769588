"""What a conversion says of itself: ``report.json`` and the tables and words made of it."""
