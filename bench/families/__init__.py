"""The scenarios beyond the main table: one module for each kind."""
