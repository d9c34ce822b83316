"""Run records and the tables made from them; nothing here needs torch."""
