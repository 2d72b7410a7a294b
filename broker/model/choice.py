"""Enumerations whose members carry the words that users see, so that no member can lack them."""

from enum import StrEnum
from typing import Literal, Self

Tone = Literal["good", "wait", "bad", "calm"]


class Choice(StrEnum):
    """A string enumeration that is stored, and to which a later version may have added members."""

    @classmethod
    def stored(cls, value: str) -> Self:
        """Return the member with this value. One that only a later version knows is made up, and shown by its value."""
        try:
            return cls(value)
        except ValueError:
            unknown = str.__new__(cls, value)
            unknown._name_ = unknown._value_ = value
            unknown._be_unknown()
            return unknown

    def _be_unknown(self) -> None:
        """Set the words of a member that this version does not know."""


class Labelled(Choice):
    """An enumeration whose members have a label and a tone (a colour) for pages."""

    label: str
    tone: Tone

    def __new__(cls, value: str, label: str, tone: Tone = "calm") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.label, member.tone = label, tone
        return member

    def _be_unknown(self) -> None:
        self.label, self.tone = self._value_, "wait"


class Cause(Choice):
    """An enumeration whose members say what happened and what to do about it.

    `ACCOUNT` and `PROVIDER` in the text are replaced by names; a command is quoted with backticks.
    """

    happened: str
    what_to_do: str | None

    def __new__(cls, value: str, happened: str, what_to_do: str | None) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.happened, member.what_to_do = happened, what_to_do
        return member

    def advice(self, account: str | None, provider: str | None) -> str | None:
        """Return what to do, with the names of the account and the provider filled in."""
        text = self.what_to_do
        if text is not None and account is not None:
            text = text.replace("ACCOUNT", account)
        return text if text is None or provider is None else text.replace("PROVIDER", provider)

    def _be_unknown(self) -> None:
        self.happened, self.what_to_do = f"The reason is {self._value_}, which a newer version gave.", None
