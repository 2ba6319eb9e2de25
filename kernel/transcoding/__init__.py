"""What a gRPC service looks like over HTTP and JSON: descriptors, templates, messages. It calls nobody.

Nothing outside imports it unless a service is configured with `protocol = "grpc"`: it needs the extra `grpc`.
"""
