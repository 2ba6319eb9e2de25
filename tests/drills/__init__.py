"""A drill: two gateways of two workers under mixed load, while store, services, clients and workers fail at random.

    python -m tests.drills --seed 7 --seconds 600

Seeded: the same seed draws the same faults in the same order. What must hold all the while is in `ledger.py`.
"""
