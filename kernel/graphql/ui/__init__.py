"""GraphiQL's files, as they were published, and the page around them."""
