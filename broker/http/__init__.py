"""What lies between a socket and a use case: listeners, limits, requests, answers, pages, the API's description."""
