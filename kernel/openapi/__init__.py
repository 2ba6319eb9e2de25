"""OpenAPI: one document (3.1) of everything the gateway serves, its own endpoints and those of the services behind it.

`source` reads one document and leaves what the route table does not lead to; `merge` puts sources together; `documents`
fetches, keeps and refreshes. Whatever a service sends, the result is valid: what cannot be made so is left out, and said.
"""
