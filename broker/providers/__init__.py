"""The OAuth client for Kit, Kustomer and any other provider of RFC 6749."""
