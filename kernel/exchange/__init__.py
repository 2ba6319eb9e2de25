"""A request and its answer as one object, and what only it knows: body, disconnect, CORS, open streams and sockets."""
