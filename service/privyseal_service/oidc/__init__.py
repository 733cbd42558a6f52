"""Callers that prove themselves with a token of an OpenID Connect issuer, as CI systems give to their jobs."""
