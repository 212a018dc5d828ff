"""The report.

One HTML file that shows what a run did, with charts and players, and needs nothing beside itself.
"""

from pipeline.report.data import ReportClip, ReportData, ReportSound, Score
from pipeline.report.html import render_report, write_report

__all__ = ["ReportClip", "ReportData", "ReportSound", "Score", "render_report", "write_report"]
