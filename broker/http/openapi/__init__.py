"""What each listener says of itself: OpenAPI 3.1 at `/openapi.json`, and the same for people at `/docs`."""
