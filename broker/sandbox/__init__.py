"""A stand-in for Kit, Kustomer and the company's own app on a real socket, for trying out, staging and tests."""

from broker.sandbox.service import Sandbox, run_alone

__all__ = ["Sandbox", "run_alone"]
