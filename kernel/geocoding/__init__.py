"""Geocoding: addresses to coordinates and back, by Nominatim, under its usage policy.

https://operations.osmfoundation.org/policies/nominatim/: at most one request a second and one at a time over the whole
application, a User-Agent that says who asks, results cached, OpenStreetMap credited.
"""
