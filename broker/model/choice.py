"""Closed choices that are shown to people: the words stand in the member, so that none can be without."""

from enum import StrEnum
from typing import Literal, Self

Tone = Literal["good", "wait", "bad", "calm"]


class Choice(StrEnum):
    """A closed choice that is stored, and that a later version may have added to."""

    @classmethod
    def stored(cls, value: str) -> Self:
        """Return the member with this value; one that only a later version knows is shown by its name."""
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
    """A choice whose members are a label and a tone on a page."""

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
    """A choice whose members say what happened and what to do about it.

    `ACCOUNT` and `PROVIDER` in the text stand for the names; a command is quoted with backticks.
    """

    happened: str
    what_to_do: str | None

    def __new__(cls, value: str, happened: str, what_to_do: str | None) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.happened, member.what_to_do = happened, what_to_do
        return member

    def advice(self, account: str | None, provider: str | None) -> str | None:
        """Return what to do, about this account of this provider."""
        text = self.what_to_do
        if text is not None and account is not None:
            text = text.replace("ACCOUNT", account)
        return text if text is None or provider is None else text.replace("PROVIDER", provider)

    def _be_unknown(self) -> None:
        self.happened, self.what_to_do = f"The reason is {self._value_}, which a newer version gave.", None
