"""The client library, against the fake broker and the real one."""
