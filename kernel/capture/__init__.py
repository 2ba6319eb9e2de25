"""Capture and replay: what clients asked and were answered, without their secrets, as HAR entries; and asked once more."""
