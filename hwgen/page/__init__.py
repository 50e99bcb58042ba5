"""The page of a build: what a report says, drawn, as one HTML file that needs nothing from outside."""

from .compare import Comparison, compare as compare_reports, page as compare_page
from .drawing import Drawing
from .page import Made, drawing, page, when
from .story import Story, readable
from .terminal import summary

__all__ = ["Comparison", "Drawing", "Made", "Story", "compare_page", "compare_reports", "drawing", "page", "readable", "summary", "when"]
