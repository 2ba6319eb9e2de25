"""The files of the documentation page. Those of Swagger UI are compressed as they were published: see README.md."""
