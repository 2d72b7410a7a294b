"""What lies between a socket and a use case: servers, TLS, peers, pages, and OpenAPI held to what is answered."""
