"""For the tests of programs that call the broker: `FakeBroker`, and the fixture in `broker.client.testing.fixtures`."""

from broker.client.testing.fake import FakeBroker

__all__ = ["FakeBroker"]
