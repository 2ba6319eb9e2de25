"""GraphQL over the services: a schema made of their OpenAPI documents, each field of which is a request of its own.

    naming, types, compiling   a service's document -> its part of the model (in a process of its own: maker.py)
    model                      what a schema is made of, as plain data
    schema, schemas            the model -> graphql-core's schema; the one that is in use, and how it is renewed
    limits, documents          what a client sent: refused before it costs anything, or parsed and validated
    execution, projecting      root fields -> sub-requests -> exactly what was selected
    requests                   a sub-request, which takes the same way through the gateway as any other
    transport                  GraphQL over HTTP: parameters, media types, status codes

graphql-core costs 6 MiB and 100 ms: handlers import this room only where GRAPHQL is on.
"""
