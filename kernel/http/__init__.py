"""HTTP as it is written: header names, cookies, paths, addresses, problem documents. Nothing here knows a request."""
