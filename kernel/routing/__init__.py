"""From a method and a raw path to what was declared for it: the catalogue, the trie, the router."""
