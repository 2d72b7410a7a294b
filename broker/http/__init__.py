"""The HTTP layer between sockets and services: listeners, limits, requests, answers, pages, the API's description."""
