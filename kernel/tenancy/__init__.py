"""Tenants: families of them, demo sessions, when their subscriptions changed, and the guard of open streams."""
