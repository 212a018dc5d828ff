"""Pages: one HTML file each, with charts and players, that needs nothing beside itself."""

# pyright: reportUnusedImport=false
from pipeline.report.data import ReportClip, ReportData, ReportSound
from pipeline.report.demo import render_report
from pipeline.report.html import write_page
