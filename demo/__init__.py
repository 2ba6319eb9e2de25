"""`gateway demo`: a stub of the platform behind the gateway, and what runs both on one machine. Never in production."""
