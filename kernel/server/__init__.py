"""Processes: the parent and its workers, their sockets and signals, and how requests come in from granian."""
