"""Who is at the browser? The company's own app answers: `LoginService`."""
