"""The OAuth server for plugins: rules, consent, tokens, and how it holds to the RFCs."""
