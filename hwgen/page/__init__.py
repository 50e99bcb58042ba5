"""The page of a build: what a report says, drawn, as one HTML file that needs nothing from outside."""

from .page import Made, page, when
from .story import Story, readable
from .terminal import summary

__all__ = ["Made", "Story", "page", "readable", "summary", "when"]
