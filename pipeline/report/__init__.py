"""Pages: one HTML file each, with charts and players, that needs nothing beside itself."""

from pipeline.report.data import ReportClip, ReportData, ReportSound
from pipeline.report.demo import render_report, write_report

__all__ = ["ReportClip", "ReportData", "ReportSound", "render_report", "write_report"]
