"""The OAuth server for Kit's plugins: consent in the browser, tokens, revocation, introspection."""
