"""The page of a build: what a report says, drawn, as one HTML file that needs nothing from outside."""

from .compare import Comparison, compare as compare_reports, page as compare_page
from .page import Made, page, when
from .story import Story, readable
from .terminal import summary

__all__ = ["Comparison", "Made", "Story", "compare_page", "compare_reports", "page", "readable", "summary", "when"]
