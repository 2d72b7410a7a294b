"""What strangers and broken programs send, over real sockets: a clear refusal, no leak, and the broker goes on."""
