"""Who is calling: tokens, keys, claims, and the identity that every policy decides on."""
