"""Pages: one HTML file each, with charts and players, that needs nothing beside itself."""

# pyright: reportUnusedImport=false
from pipeline.report.demo import ReportData, render_report
from pipeline.report.html import write_page
from pipeline.report.players import ReportClip, ReportSound
