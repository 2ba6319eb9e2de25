"""Benchmarks and the stub platform they and the demo run against."""
