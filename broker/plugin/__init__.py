"""The OAuth server that Kit's plugins sign in to: consent in the browser, tokens, revocation, introspection."""
