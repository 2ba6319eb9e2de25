"""What routes do with requests on their way, where gateway.toml says so: versions, canaries, mirrors, idempotency
keys, and what is sent in place of what came.

Each is a function from a handler to a handler, which is the same one where a row says nothing of it.
"""
